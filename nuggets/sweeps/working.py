"""What a worker does with a sweep: its trials, then the confirmation.

Every trial is an ordinary run. Where this machine computes one run at a time, they are done one
after another in this process, so that PyTorch and what it holds are loaded once; elsewhere they are
spread over the engine. Whatever ended is written down before the next step, so that a kill costs no
trial.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from nuggets.builtin.resolve import pair_named
from nuggets.errors import BadInput
from nuggets.planning.cache import digest_files, digest_pair
from nuggets.planning.machine import resolve_device_name
from nuggets.recipe import TransferRecipe
from nuggets.runs import results
from nuggets.runs.context import RunContext
from nuggets.runs.engines.settings import chosen, here
from nuggets.runs.fan_out import spreads
from nuggets.runs.schema import RunEvent
from nuggets.runs.store import Run, RunStore
from nuggets.sweeps.confirming import confirm
from nuggets.sweeps.objectives import score, winner
from nuggets.sweeps.pruning import Pruned, Watch
from nuggets.sweeps.recipe import SweepRecipe, parse_sweep_text
from nuggets.sweeps.search import Search, outcome_of, same_values
from nuggets.sweeps.spreading import TRIALS_OWN, Spread, finish_together, run_of
from nuggets.sweeps.trials import SweepState, SweepTrial, read_state, write_state
from nuggets.worker import run_in_foreground

STAGES = ("search", "confirm")
PREFIX = "sweep_"
"""Of a sweep's device, before that of its trials."""


def execute(run: Run, ctx: RunContext) -> None:
    """Works a sweep off, or goes on with it.

    Raises:
        BadInput: if it was not made here, its device is gone, or every trial failed.
        NuggetsError: as a run does that confirms.
    """
    text = run.recipe_text()
    if not RunStore(run.folder.parent).is_own(text):
        raise BadInput(
            f"The sweep {run.id} was not made here. Run it from its YAML: nuggets sweep FILE."
        )
    device = run.device().removeprefix(PREFIX)
    sweep = _on_device(parse_sweep_text(text), device)
    ctx.plan(STAGES)
    ctx.stage("search")
    if spreads(device):
        _work(sweep, ctx, chosen().at_once(device))
    else:
        with here():
            _work(sweep, ctx, 0)


def _on_device(sweep: SweepRecipe, device: str) -> SweepRecipe:
    """The sweep with the device that it began on: `auto` may mean another one by now.

    Raises:
        BadInput: if this machine has no such device any more.
    """
    if chosen().place(device) is None:
        resolve_device_name(device)
    return sweep.model_copy(update={"base": sweep.base.model_copy(update={"device": device})})


def _work(sweep: SweepRecipe, ctx: RunContext, at_once: int) -> None:
    """Searches and confirms; with `at_once`, through the engine."""
    _confirm_inputs(sweep, ctx)
    state = _searched(sweep, ctx, at_once)
    best = winner(sweep, state.trials)
    if best is None:
        first = next((t.reason for t in state.trials if t.reason), "")
        raise BadInput(f"All {len(state.trials)} trials failed. The first one: {first}")
    ctx.stage("confirm")
    if state.confirmed is None:
        _confirm_inputs(sweep, ctx)
        confirm(sweep, best, state, ctx, finish_together if at_once else _finish_in_turn)


def _confirm_inputs(sweep: SweepRecipe, ctx: RunContext) -> None:
    """Records the models and samples that trials are compared on; refuses others than before.

    Raises:
        BadInput: if a file changed since, by its name in the recipe.
    """
    pair = pair_named(sweep.base.teacher, sweep.base.student)
    ctx.provenance(**digest_pair(pair), **digest_files(sweep.base))


def _searched(sweep: SweepRecipe, ctx: RunContext, at_once: int) -> SweepState:
    """Makes the trials that are missing."""
    search, state = Search(sweep, ctx.folder), read_state(ctx.folder)
    if state.confirming:
        return state
    if at_once:
        return Spread(sweep, search, state, ctx, at_once, _over).finish()
    from nuggets.stages.shared_models import models_shared  # torch, which a spread needs not

    with models_shared() as held:
        return _in_turn(sweep, search, state, ctx, held.clear)


def _in_turn(
    sweep: SweepRecipe,
    search: Search,
    state: SweepState,
    ctx: RunContext,
    forget: Callable[[], None],
) -> SweepState:
    """Makes the trials that are missing here, and has models forgotten where one ends badly."""
    for trial in state.trials:
        if trial.status != "running":
            search.tell(trial)  # a kill may have come between the two
    n = sweep.n_trials
    while (ended := sum(trial.status != "running" for trial in state.trials)) < n:
        ctx.check_cancelled()
        ctx.progress(ended, n, f"trial {ended + 1} of {n}")
        if stopped := _over(sweep, state):
            ctx.log(stopped)
            state = state.model_copy(update={"stopped": stopped})
            break
        number, values = search.ask()
        known = next((t for t in state.trials if t.number == number), None)
        known = known or SweepTrial(number=number, values=values)
        trial = _trial(sweep, search, known, state, ctx)
        if trial.status != "done":
            forget()
        search.tell(trial)
        found = {"importance": search.importance(), "seconds": state.seconds + trial.seconds}
        state = state.with_trial(trial).model_copy(update=found)
        write_state(ctx.folder, state, [trial])
    state = state.model_copy(update={"importance": search.importance(whole=True)})
    write_state(ctx.folder, state, ())
    ctx.progress(n, n, "all trials")
    return state


def _trial(
    sweep: SweepRecipe, search: Search, trial: SweepTrial, state: SweepState, ctx: RunContext
) -> SweepTrial:
    """One trial with its scores, or with the reason why it failed."""
    if (same := same_values(state.trials, trial.values)) is not None:
        return trial.model_copy(update=outcome_of(same))

    began_at = time.monotonic()
    label, n = f"trial {trial.number + 1}", sweep.n_trials
    try:
        run = run_of(sweep.trial_recipe(trial.values), trial.run)
        trial = trial.model_copy(update={"run": run.id})
        write_state(ctx.folder, state, [trial])
        watch = Watch(sweep, search, trial.number, run) if sweep.prune else None
        _finish(run, ctx, f"{label} of {n}", trial.number, n, watch)
        changes = {"scores": score(sweep, results.cells(run)), "status": "done"}
    except Pruned as behind:
        changes = {"reason": str(behind), "status": "pruned"}
    except TRIALS_OWN as problem:
        ctx.log(f"Trial {trial.number} failed: {problem}")
        changes = {"reason": str(problem), "status": "failed"}
    seconds = trial.seconds + time.monotonic() - began_at
    return trial.model_copy(update=changes | {"seconds": seconds})


def _finish_in_turn(
    recipes: Mapping[str, TransferRecipe],
    known: Mapping[str, str],
    began: Callable[[str, Run], None],
    ctx: RunContext,
) -> dict[str, Run]:
    """As `finish_together`, one run after the other in this process."""
    runs: dict[str, Run] = {}
    for place, (name, recipe) in enumerate(recipes.items()):
        runs[name] = run_of(recipe, known.get(name, ""))
        began(name, runs[name])
        _finish(runs[name], ctx, f"confirming the {name}", place, len(recipes))
    return runs


def _finish(
    run: Run, ctx: RunContext, label: str, before: int, total: int, watch: Watch | None = None
) -> None:
    """Works on a run here until it is done.

    Args:
        run: new, or begun before.
        ctx: the sweep's; its cancel stops the run.
        label: before what the run says of its progress.
        before: how many of the sweep's steps are behind it.
        total: how many there are.
        watch: that may stop it.

    Raises:
        Pruned: if `watch` stopped it.
    """

    def heard(event: RunEvent) -> None:
        if event.type in ("stage", "progress", "metric"):
            ctx.check_cancelled()
        if watch is not None and "point" in event.data and (behind := watch.look()):
            raise Pruned(behind)
        if "holder" in event.data:
            ctx.waiting_for(str(event.data["device"]), str(event.data["holder"]))
        if event.type == "progress":
            done, of = float(str(event.data["done"])), float(str(event.data["total"]))
            share = done / of if event.stage == "train" and of else 0.0
            ctx.progress(before + min(share, 0.999), total, f"{label}: {event.message}")

    run_in_foreground(run, heard)


def _over(sweep: SweepRecipe, state: SweepState) -> str:
    """Why no further trial may start; empty where one may."""
    timed = [trial.seconds for trial in state.trials if trial.seconds]
    if sweep.max_hours is None or not timed:
        return ""
    spent, each = state.seconds or sum(timed), sum(timed) / len(timed)
    trial_cells = len(sweep.trial_recipe({}).arms) * len(sweep.base.seeds)
    confirming = 2 * each * len(sweep.base.arms) * sweep.confirm.seeds / trial_cells
    if spent + each + confirming <= 3600 * sweep.max_hours:
        return ""
    return (
        f"The search ended after {len(state.done)} trials, because another one and the "
        f"confirmation would take longer than the {sweep.max_hours:g} hours allowed."
    )

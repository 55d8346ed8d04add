"""Sweeps as the API has them: loaded, planned, started, followed, stopped, listed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nuggets import demo
from nuggets.disk.home import nuggets_home, runs_dir
from nuggets.errors import BadInput
from nuggets.runs import launch
from nuggets.runs.engines.local import LocalEngine
from nuggets.runs.schema import LIVE, RunEvent, RunStatus
from nuggets.runs.store import Run, RunStore
from nuggets.stages.creating import check_can_work
from nuggets.sweeps.objectives import front, sign, winner
from nuggets.sweeps.recipe import SweepRecipe, dump_sweep, parse_sweep_text
from nuggets.sweeps.samplers import check_optuna
from nuggets.sweeps.sentences import sentences
from nuggets.sweeps.space import sweepable, with_values
from nuggets.sweeps.trials import SweepState, SweepTrial, read_state
from nuggets.sweeps.working import PREFIX
from nuggets.worker import run_in_foreground
from nuggets.workspace.recipes import save_recipe

__all__ = ["dump_sweep", "front", "sentences", "sweepable", "winner"]  # beside what is defined here


def store() -> RunStore:
    """The sweeps of this home: folders like those of runs, apart from them."""
    return RunStore(nuggets_home() / "sweeps")


@demo.refuses("there are no sweeps, which are many runs")
def create(sweep: SweepRecipe) -> Run:
    """Writes a sweep's folder without starting it.

    A sweep waits for other sweeps of its device; its trials wait for the device itself.

    Raises:
        BadInput: if Optuna is missing, or the base or a corner of the space cannot work.
    """
    check_optuna()
    device = check_can_work(sweep.confirming_recipe({}, "default"))
    for recipe in sweep.corner_recipes():
        check_can_work(recipe)
    return store().create("sweep", dump_sweep(sweep), sweep.name, device=f"{PREFIX}{device}")


def start(sweep: SweepRecipe) -> Run:
    """Starts a sweep in a worker process of its own on this machine; it outlives this one."""
    made = create(sweep)
    launch.start(made, LocalEngine())
    return made


def run(sweep: SweepRecipe, on_event: Callable[[RunEvent], None] = lambda event: None) -> Run:
    """Does a sweep here, reporting events as they happen. Imports torch, unless trials spread.

    Raises:
        BadInput: if the base cannot work, or every trial failed.
        NuggetsError: as a run does; `resume` goes on.
    """
    made = create(sweep)
    run_in_foreground(made, on_event)
    return made


def resume(sweep_id: str) -> Run:
    """Continues an interrupted, failed or cancelled sweep, or starts one that never was."""
    found = open_sweep(sweep_id)
    launch.resume(found, LocalEngine())
    return found


def cancel(sweep_id: str, wait: float = 0.0) -> RunStatus:
    """Asks a sweep to stop and returns its status after at most `wait` seconds.

    Its present run is asked too, since it may be waiting for its device.
    """
    found = open_sweep(sweep_id)
    state = state_of(found)
    begun = {each.run for each in state.trials if each.status == "running"}
    begun |= set(state.confirming.values())
    for own in RunStore(runs_dir()).list():
        if own.id in begun and own.status() in LIVE:
            own.request_cancel()
    return launch.cancel(found, wait)


def delete(sweep_id: str) -> None:
    """Deletes a sweep for good, but none of its runs; refused while it is running."""
    store().delete(open_sweep(sweep_id).id)


def sweeps() -> list[Run]:
    """All sweeps, newest first."""
    return store().list()


def open_sweep(sweep_id: str) -> Run:
    """The sweep with this id or unique beginning of an id.

    Raises:
        BadInput: if there is none or more than one.
    """
    try:
        return store().open(sweep_id)
    except BadInput as problem:
        raise BadInput(str(problem).replace("run id", "sweep id")) from None


def recipe_of(sweep: Run) -> SweepRecipe:
    """What a sweep was made for."""
    return parse_sweep_text(sweep.recipe_text())


def state_of(sweep: Run) -> SweepState:
    """What a sweep has found so far."""
    return read_state(sweep.folder)


def runs_of(sweep: Run) -> list[Run]:
    """The finished runs of its trials and of the confirmation, each once; deleted ones are not."""
    state = state_of(sweep)
    wanted = [*(trial.run for trial in state.done), *state.confirming.values()]
    known = {run.id: run for run in RunStore(runs_dir()).list()}
    return [known[run] for run in dict.fromkeys(wanted) if run in known]


def ranked(recipe: SweepRecipe, state: SweepState) -> list[SweepTrial]:
    """The finished trials, best first in the first objective."""
    turned = sign(recipe, recipe.objective[0])
    return sorted(state.done, key=lambda t: (-turned * t.scores[0].mean, t.number))


def promote(sweep: Run, name: str, trial: int | None = None, replace: bool = False) -> Path:
    """Saves a trial's settings as a recipe: all arms and seeds of the base, its test items.

    Args:
        sweep: with at least one finished trial.
        name: of the recipe.
        trial: which one; the winner when not given.
        replace: whether another recipe of this name may be replaced.

    Raises:
        BadInput: if there is no such trial, or the name cannot be used.
    """
    recipe, state = recipe_of(sweep), state_of(sweep)
    best = winner(recipe, state.trials)
    named = next((t for t in state.trials if t.number == trial), None)
    chosen = best if trial is None else named
    if chosen is None:
        raise BadInput(f"The sweep {sweep.id} has no finished trial to save as a recipe.")
    return save_recipe(with_values(recipe.base, chosen.values), name, replace)


def table(recipe: SweepRecipe, state: SweepState) -> list[dict[str, Any]]:
    """One row per trial: number, status, fields, each objective with its interval, run."""
    rows = []
    for trial in state.trials:
        row: dict[str, Any] = {"trial": trial.number, "status": trial.status}
        for field in recipe.space:
            value = trial.values.get(field)
            row[field] = json.dumps(value) if isinstance(value, list | dict) else value
        for name, found in zip(recipe.objective, trial.scores, strict=False):
            row |= {name: found.mean, f"{name} low": found.low, f"{name} high": found.high}
        rows.append(row | {"seconds": trial.seconds, "run": trial.run, "reason": trial.reason})
    return rows

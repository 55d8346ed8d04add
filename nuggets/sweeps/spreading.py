"""Trials through this machine's engine: several at once, each with a worker of its own.

What is proposed depends on how many are asked for at once and on nothing else: a sampler that
learns is asked for as many trials as the engine takes, and for more when all of these have ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from nuggets import errors
from nuggets.disk.home import runs_dir
from nuggets.errors import BadInput, NonFinite, OutOfMemory
from nuggets.recipe import TransferRecipe
from nuggets.runs import results
from nuggets.runs.context import RunContext
from nuggets.runs.fan_out import check_done, submit_all
from nuggets.runs.schema import RunStatus
from nuggets.runs.store import Run, RunStore
from nuggets.stages.creating import create
from nuggets.sweeps.objectives import score
from nuggets.sweeps.pruning import Pruned, Watch
from nuggets.sweeps.recipe import SweepRecipe
from nuggets.sweeps.samplers import LEARNING
from nuggets.sweeps.search import Search, outcome_of, same_values
from nuggets.sweeps.trials import SweepState, SweepTrial, write_state

TRIALS_OWN = (BadInput, NonFinite, OutOfMemory)
"""Errors that say something about a trial and not about the machine: the search goes on."""


def run_of(recipe: TransferRecipe, run_id: str) -> Run:
    """The run that was begun for a recipe if it is still there, else a new one.

    Raises:
        BadInput: if the recipe cannot work.
    """
    known = runs_dir() / run_id
    return Run(known) if run_id and known.is_dir() else create(recipe)


def finish_together(
    recipes: Mapping[str, TransferRecipe],
    known: Mapping[str, str],
    began: Callable[[str, Run], None],
    ctx: RunContext,
) -> dict[str, Run]:
    """The finished runs of some recipes, as many at once as the engine takes.

    Args:
        recipes: by name.
        known: name → the id of the run that was begun before.
        began: told of every run before it is worked on.
        ctx: the sweep's; its cancel stops the runs.
    """
    runs: dict[str, Run] = {}
    for name, recipe in recipes.items():
        runs[name] = run_of(recipe, known.get(name, ""))
        began(name, runs[name])
    ended = 0

    def look() -> None:
        ctx.check_cancelled()
        ctx.progress(ended, len(runs), f"confirming {' and '.join(runs)}")

    def on_end(run: Run, status: RunStatus) -> None:
        nonlocal ended
        check_done(run, status)
        ended += 1

    submit_all(runs.values(), on_end=on_end, on_wait=look)
    return runs


class Spread:
    """The trials of a sweep that are missing, through an engine that takes `at_once` of them."""

    def __init__(
        self,
        sweep: SweepRecipe,
        search: Search,
        state: SweepState,
        ctx: RunContext,
        at_once: int,
        over: Callable[[SweepRecipe, SweepState], str],
    ) -> None:
        self.state = state
        self._sweep, self._search, self._ctx, self._over = sweep, search, ctx, over
        self._generation = at_once if sweep.sampler in LEARNING else sweep.n_trials
        self._open: dict[str, list[SweepTrial]] = {}
        self._watched: dict[str, Watch] = {}
        self._began, self._before = time.monotonic(), state.seconds

    def finish(self) -> SweepState:
        """Makes all of them, and returns what was found."""
        n = self._sweep.n_trials
        for trial in self.state.trials:
            if trial.status != "running":
                self._search.tell(trial)  # a kill may have come between the two
        while self._n_ended < n and not self.state.stopped:
            submit_all(self._next_runs(), on_end=self._ended, on_wait=self._look)
        whole = {"importance": self._search.importance(whole=True)}
        self._save(self.state.model_copy(update=whole))
        return self.state

    @property
    def _n_ended(self) -> int:
        return sum(trial.status != "running" for trial in self.state.trials)

    def _next_runs(self) -> Iterator[Run]:
        """The runs of one generation's trials, each made when there is room for it.

        There is room for all of a generation that learns before the first one is seen to have
        ended, so that none is proposed by what another of them found.
        """
        whole = self._n_ended // self._generation + 1
        end = min(self._sweep.n_trials, whole * self._generation)
        while len(taken := self._taken()) < end:
            if stopped := self._over(self._sweep, self.state):
                self._ctx.log(stopped)
                self._save(self.state.model_copy(update={"stopped": stopped}))
                return
            number, values = self._search.ask(taken)
            known = next((t for t in self.state.trials if t.number == number), None)
            if run := self._begin(known or SweepTrial(number=number, values=values)):
                yield run

    def _taken(self) -> set[int]:
        """Trials that ended, or are at work."""
        ended = {trial.number for trial in self.state.trials if trial.status != "running"}
        return ended | {trial.number for trials in self._open.values() for trial in trials}

    def _begin(self, trial: SweepTrial) -> Run | None:
        """The run of a trial; none where another trial has the same values, or it cannot be."""
        if (same := same_values(self.state.trials, trial.values)) is not None:
            self._end(trial, outcome_of(same))
            return None
        if trial.reason:  # it was being pruned when a kill came
            self._end(trial, {"status": "pruned"})
            return None
        for trials in self._open.values():
            if trials[0].values == trial.values:
                trials.append(trial.model_copy(update={"run": trials[0].run}))
                return None
        try:
            run = run_of(self._sweep.trial_recipe(trial.values), trial.run)
        except TRIALS_OWN as problem:
            self._end(trial, {"reason": str(problem), "status": "failed"})
            return None
        trial = trial.model_copy(update={"run": run.id})
        self._open[run.id] = [trial]
        if self._sweep.prune is not None:
            self._watched[run.id] = Watch(self._sweep, self._search, trial.number, run)
        self._save(self.state.with_trial(trial), trial)
        return run

    def _ended(self, run: Run, status: RunStatus) -> None:
        record = run.record()
        ends = record.started, record.finished
        spent = (ends[1] - ends[0]).total_seconds() if ends[0] and ends[1] else 0.0
        first, *same = self._open.pop(run.id)
        self._watched.pop(run.id, None)
        try:
            if status == "cancelled" and first.reason:
                raise Pruned(first.reason)
            if status == "failed" and record.error and _is_trials_own(record.error.type):
                raise BadInput(record.error.message)
            check_done(run, status)
            changes = {"scores": score(self._sweep, results.cells(run)), "status": "done"}
        except Pruned as behind:
            changes = {"reason": str(behind), "status": "pruned"}
        except TRIALS_OWN as problem:
            self._ctx.log(f"Trial {first.number} failed: {problem}")
            changes = {"reason": str(problem), "status": "failed"}
        self._end(first, changes | {"seconds": spent})
        for trial in same:
            self._end(trial, changes)

    def _end(self, trial: SweepTrial, changes: dict) -> None:
        trial = trial.model_copy(update=changes)
        self._search.tell(trial)
        found = {"importance": self._search.importance(),
                 "seconds": self._before + time.monotonic() - self._began}  # fmt: skip
        self._save(self.state.with_trial(trial).model_copy(update=found), trial)

    def _look(self) -> None:
        self._ctx.check_cancelled()
        for run_id, watch in list(self._watched.items()):
            if behind := watch.look():
                del self._watched[run_id]
                first = self._open[run_id][0].model_copy(update={"reason": behind})
                self._open[run_id][0] = first
                self._save(self.state.with_trial(first), first)
                RunStore(runs_dir()).open(run_id).request_cancel()
        n = self._sweep.n_trials
        at_work = len(self._open)
        self._ctx.progress(self._n_ended, n, f"{self._n_ended} of {n} trials, {at_work} at work")

    def _save(self, state: SweepState, *changed: SweepTrial) -> None:
        self.state = state
        write_state(self._ctx.folder, state, changed)


def _is_trials_own(name: str) -> bool:
    """Whether an error that a worker recorded says something about its trial."""
    kind = getattr(errors, name, None)
    return isinstance(kind, type) and issubclass(kind, TRIALS_OWN)

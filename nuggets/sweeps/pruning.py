"""Stopping trials whose learning curves fall behind: successive halving, decided by Optuna."""

from __future__ import annotations

from collections.abc import Mapping

from nuggets.errors import Cancelled
from nuggets.runs import results
from nuggets.runs.store import Run
from nuggets.sweeps.objectives import sign
from nuggets.sweeps.recipe import SweepRecipe
from nuggets.sweeps.search import Search

Curves = Mapping[tuple[str, int], Mapping[int, float]]
"""(arm, seed) → step → the judged metric, a mean over validation items."""


class Pruned(Cancelled):
    """A trial was stopped because others had come further at the same step."""


class Watch:
    """The learning curve of one trial as it grows; it tells Optuna, and says when to stop."""

    def __init__(self, sweep: SweepRecipe, search: Search, number: int, run: Run) -> None:
        self._sweep, self._search, self._number, self._run = sweep, search, number, run
        recipe = sweep.trial_recipe({})
        self._cells = [(arm.name, seed) for arm in recipe.arms for seed in recipe.seeds]
        self._points: dict[tuple[str, int], dict[int, float]] = {}
        self._seen, self._told = -1, 0

    def look(self) -> str:
        """Reads what is new; why the trial is to stop, in one sentence, or nothing."""
        for event in self._run.events(self._seen):
            self._seen, data = event.seq, event.data
            if event.type == "metric" and "point" in data:
                cell = str(data["arm"]), int(str(data["seed"]))
                step = int(str(data["step"]))
                self._points.setdefault(cell, {})[step] = float(str(data["point"]))
        if self._points and len(self._points) < len(self._cells):
            for cell in results.cells(self._run):  # trained before, in another trial
                self._points.setdefault((cell.arm, cell.seed), dict(cell.curve))
        return self._tell()

    def _tell(self) -> str:
        curve = objective_curve(self._sweep, self._points, self._cells)
        for step in sorted(step for step in curve if step > self._told):
            self._told = step
            turned = sign(self._sweep, self._sweep.objective[0])
            if self._search.falls_behind(self._number, step, turned * curve[step]):
                return (
                    f"Trial {self._number} was pruned at step {step}, where its "
                    f"{self._sweep.objective[0]} of {curve[step]:.3f} was not among the best of "
                    "the trials that had come so far."
                )
        return ""


def objective_curve(
    sweep: SweepRecipe, points: Curves, cells: list[tuple[str, int]]
) -> dict[int, float]:
    """Step → the objective, at the steps that all cells have reached but the last one."""
    if any(cell not in points for cell in cells):
        return {}
    steps = set.intersection(*(set(points[cell]) for cell in cells))

    def mean(arm: str, step: int) -> float:
        found = [points[cell][step] for cell in cells if cell[0] == arm]
        return sum(found) / len(found)

    def value(step: int) -> float:
        if sweep.objective[0] == "value":
            return mean(sweep.judged, step)
        gap = mean(sweep.judged, step) - mean(sweep.baseline, step)
        return gap * sign(sweep, "value")

    return {step: value(step) for step in steps if 0 < step < sweep.base.train.steps}

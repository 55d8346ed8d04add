"""What is optimised, from the outcomes of a run, with intervals; and which trial wins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
import scipy

from nuggets.errors import BadInput
from nuggets.statistics.cells import CellOutcome
from nuggets.statistics.comparisons import higher_is_better
from nuggets.statistics.intervals import LEVEL, Interval, mean_interval, paired_difference
from nuggets.statistics.spread import Outcomes, spread_of
from nuggets.sweeps.recipe import Objective, SweepRecipe
from nuggets.sweeps.trials import SweepTrial


def _value(sweep: SweepRecipe, cells: Sequence[CellOutcome]) -> Outcomes:
    return _rows(cells, sweep.judged, lambda cell: cell.outcomes[sweep.base.data.metric])


def _difference(sweep: SweepRecipe, cells: Sequence[CellOutcome]) -> Outcomes:
    better, worse = _paired(sweep, cells)
    return better - worse


def _paired(sweep: SweepRecipe, cells: Sequence[CellOutcome]) -> tuple[Outcomes, Outcomes]:
    """The arm and plain LoRA, in the order in which a positive difference is better."""
    metric = sweep.base.data.metric
    arm, plain = (
        _rows(cells, name, lambda cell: cell.outcomes[metric])
        for name in (sweep.judged, sweep.baseline)
    )
    return (arm, plain) if higher_is_better(metric) else (plain, arm)


def _retention(sweep: SweepRecipe, cells: Sequence[CellOutcome]) -> Outcomes:
    def kept(cell: CellOutcome) -> list[float]:
        return list(
            chain.from_iterable(cell.old_skills[skill] for skill in sorted(cell.old_skills))
        )

    rows = _rows(cells, sweep.judged, kept)
    if rows.shape[1] < 2:
        raise BadInput("No old skill was measured, so there is no retention; set data.old_skills.")
    return rows


OBJECTIVES: dict[Objective, Callable[[SweepRecipe, Sequence[CellOutcome]], Outcomes]] = {
    "value": _value,
    "difference": _difference,
    "retention": _retention,
}
"""Name → sweep and cells of a run → what is averaged, `[n_seeds, n_items]`."""


def _rows(
    cells: Sequence[CellOutcome], arm: str, of: Callable[[CellOutcome], Sequence[float]]
) -> Outcomes:
    own = sorted((cell for cell in cells if cell.arm == arm), key=lambda cell: cell.seed)
    if not own:
        raise BadInput(f"The run has no finished seed of the arm {arm!r}.")
    return np.asarray([of(cell) for cell in own], dtype=np.float64)


def score(sweep: SweepRecipe, cells: Sequence[CellOutcome]) -> tuple[Interval, ...]:
    """Each objective of a run with its interval.

    Raises:
        BadInput: if the run has not what the objective needs.
    """
    return tuple(_interval(sweep, name, cells) for name in sweep.objective)


def _interval(sweep: SweepRecipe, name: Objective, cells: Sequence[CellOutcome]) -> Interval:
    if name == "difference":
        return paired_difference(*_paired(sweep, cells)).interval
    return mean_interval(OBJECTIVES[name](sweep, cells))


def sign(sweep: SweepRecipe, name: Objective) -> int:
    """1 where larger is better, −1 for the value of a loss."""
    return -1 if name == "value" and not higher_is_better(sweep.base.data.metric) else 1


def optimism(
    sweep: SweepRecipe, searched: Sequence[CellOutcome], confirmed: Sequence[CellOutcome]
) -> tuple[Interval, ...]:
    """Each objective as it was selected minus as it was confirmed, positive is optimistic.

    The two have neither a seed nor an item in common, so their squared errors add up (Welch).
    """
    found = []
    for name in sweep.objective:
        rows = OBJECTIVES[name](sweep, searched), OBJECTIVES[name](sweep, confirmed)
        first, second = (spread_of(each) for each in rows)
        parts = [(first.error**2, first.df), (second.error**2, second.df)]
        total = sum(part for part, _ in parts)
        doubt = sum(part**2 / df for part, df in parts if part > 0)
        df = total**2 / doubt if doubt > 0 else 1.0
        half = -float(scipy.special.stdtrit(df, (1 - LEVEL) / 2)) * float(np.sqrt(total))
        mean = sign(sweep, name) * (first.mean - second.mean)
        sizes = {"n_seeds": len(rows[1]), "n_items": rows[1].shape[1]}
        found.append(Interval(mean=mean, low=mean - half, high=mean + half, level=LEVEL, **sizes))
    return tuple(found)


def front(sweep: SweepRecipe, trials: Sequence[SweepTrial]) -> list[SweepTrial]:
    """The trials that no other beats in every objective, best first in the first objective.

    With one objective these are the best ones. Ties go to the trial that came first.
    """
    signs = [sign(sweep, name) for name in sweep.objective]
    found = [t for t in trials if t.status == "done"]
    reached = np.array([[s * i.mean for s, i in zip(signs, t.scores, strict=True)] for t in found])
    best = [
        trial
        for trial, own in zip(found, reached, strict=True)
        if not ((reached >= own).all(axis=1) & (reached > own).any(axis=1)).any()
    ]
    return sorted(best, key=lambda t: (-signs[0] * t.scores[0].mean, t.number))


def winner(sweep: SweepRecipe, trials: Sequence[SweepTrial]) -> SweepTrial | None:
    """The trial that is confirmed: the best one in the first objective; None if all failed."""
    return next(iter(front(sweep, trials)), None)

"""A sweep's trials as what is drawn: places on axes, best so far, a surface. NumPy alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from nuggets.sweeps.objectives import sign
from nuggets.sweeps.recipe import SweepRecipe
from nuggets.sweeps.trials import SweepTrial

MOST_CELLS = 12
"""Values of a field that each get cells of their own in a surface; more are put into bins."""
BINS = 8


class Axis(NamedTuple):
    """One field as an axis.

    Attributes:
        places: of every trial; NaN where the field was not active.
        ticks: places that have a name.
        names: their names; empty for an axis of numbers.
        log: whether places are logarithms of base 10.
    """

    places: Float[ndarray, " n"]
    ticks: list[float]
    names: list[str]
    log: bool = False


class Surface(NamedTuple):
    """An objective over two fields.

    Attributes:
        x: names of the columns.
        y: names of the rows.
        mean: mean over the trials of a cell; NaN where there is none.
        low: mean of the lower ends of their intervals.
        high: mean of the upper ends.
        n: trials of a cell.
    """

    x: list[str]
    y: list[str]
    mean: Float[ndarray, "rows cols"]
    low: Float[ndarray, "rows cols"]
    high: Float[ndarray, "rows cols"]
    n: Float[ndarray, "rows cols"]


def axis_of(sweep: SweepRecipe, trials: Sequence[SweepTrial], field: str) -> Axis:
    """The places of all trials along one field."""
    dimension = sweep.space[field]
    given = [trial.values.get(field) for trial in trials]
    if dimension.values:
        names = [text_of(value) for value in dimension.values]
        places = [np.nan if v is None else float(names.index(text_of(v))) for v in given]
        return Axis(np.array(places), [float(i) for i in range(len(names))], names)
    places = np.array([np.nan if v is None else float(v) for v in given])
    return Axis(np.log10(places), [], [], True) if dimension.log else Axis(places, [], [])


def text_of(value: Any) -> str:
    """A value in a few characters."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def best_so_far(
    sweep: SweepRecipe, trials: Sequence[SweepTrial], objective: int = 0
) -> list[tuple[int, float, float, float]]:
    """After each finished trial: its number, and mean, low and high of the best one until then."""
    turned, rows = sign(sweep, sweep.objective[objective]), []
    best = None
    for trial in trials:
        own = trial.scores[objective]
        if best is None or turned * own.mean > turned * best.mean:
            best = own
        rows.append((trial.number, best.mean, best.low, best.high))
    return rows


def surface(
    sweep: SweepRecipe, trials: Sequence[SweepTrial], x: str, y: str, objective: int = 0
) -> Surface:
    """An objective over two fields, averaged over whatever else the trials differ in."""
    columns, rows = (_cells(axis_of(sweep, trials, field)) for field in (x, y))
    shape = len(rows[1]), len(columns[1])
    n, sums = np.zeros(shape), np.zeros((3, *shape))
    for trial, column, row in zip(trials, columns[0], rows[0], strict=True):
        if column >= 0 and row >= 0:
            own = trial.scores[objective]
            n[row, column] += 1
            sums[:, row, column] += own.mean, own.low, own.high
    with np.errstate(invalid="ignore"):
        mean, low, high = sums / n
    return Surface(columns[1], rows[1], mean, low, high, n)


def _cells(axis: Axis) -> tuple[list[int], list[str]]:
    """The cell of every trial along an axis, −1 for none, and the names of the cells."""
    places = axis.places
    if axis.names:
        return [-1 if np.isnan(p) else int(p) for p in places], axis.names
    known = np.unique(places[~np.isnan(places)])
    if len(known) <= MOST_CELLS:
        names = [f"{10**p if axis.log else p:.4g}" for p in known]
        return [-1 if np.isnan(p) else int(np.searchsorted(known, p)) for p in places], names
    edges = np.linspace(known[0], known[-1], BINS + 1)
    ends = 10**edges if axis.log else edges
    names = [f"{low:.3g} to {high:.3g}" for low, high in pairwise(ends)]
    inside = np.clip(np.searchsorted(edges, places, side="right") - 1, 0, BINS - 1)
    return [-1 if np.isnan(p) else int(i) for p, i in zip(places, inside, strict=True)], names

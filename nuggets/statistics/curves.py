"""Learning curves over seeds: bands, and the area that says how early an arm learns.

A final value says where an arm ends; the area under its curve also says how soon it gets there,
which is what an initialisation can be expected to change. The verdict rests on the final value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from nuggets.statistics.intervals import (
    LEVEL,
    Interval,
    PairedDifference,
    holm,
    mean_bounds,
    student_bounds,
    student_p,
)
from nuggets.statistics.power import detectable_difference
from nuggets.statistics.spread import (
    Spread,
    checked_outcomes,
    combine_parts,
    is_binary,
    variance_parts,
)
from nuggets.statistics.verdict import Difference

Curve = Sequence[tuple[int, float]]
"""(step, mean of the metric over items), steps ascending."""

CurvePoint = tuple[int, float, float, float]
"""Step, mean over seeds, low, high; with one seed the band speaks of other items alone."""


def curve_band(curves: Sequence[Curve], outcomes: ArrayLike) -> list[CurvePoint]:
    """Return mean and interval at every step that all seeds recorded, by the bars' method.

    Along a curve only the seeds' means are kept. What single answers add to the error is that at
    the end, in proportion to p(1 − p) where they are 0 or 1; so the last point has the bar's
    interval. Where the end has no spread of answers, all seeds count as if they answered alike.

    Args:
        curves: One per seed.
        outcomes: `[n_seeds, n_items]` at the end, of the curves' metric.
    """
    array = checked_outcomes(outcomes, LEVEL)
    n_items, binary = array.shape[1], is_binary(array)
    end, answers = float(array.mean()), variance_parts(array)[:2]
    by_step = [dict(curve) for curve in curves]
    points: list[CurvePoint] = []
    for step in sorted(set.intersection(*(set(curve) for curve in by_step))):
        values = np.array([curve[step] for curve in by_step])
        mean = float(values.mean())
        parts = answers
        if binary and 0 < end < 1:
            ratio = mean * (1 - mean) / (end * (1 - end))
            parts = [(variance * ratio, df) for variance, df in answers]
        elif binary:
            parts = [(mean * (1 - mean) / n_items, n_items - 1)]
        if len(values) > 1:
            parts = [*parts, (float(values.var(ddof=1)) / len(values), len(values) - 1)]
        points.append((step, mean, *mean_bounds(combine_parts(mean, parts), n_items, binary)))
    return points


def curve_area(curve: Curve) -> float | None:
    """Return the mean height of a curve between its first and its last step.

    The trapezoidal area divided by the steps it spans, so that it is in the metric's units: an arm
    that is perfect from the first step has 1. `None` where nothing was measured between start and
    end, whose mean would say nothing of how early an arm learns.
    """
    if len(curve) < 3:
        return None
    steps, values = zip(*curve, strict=True)
    return float(np.trapezoid(values, steps) / (steps[-1] - steps[0]))


def area_interval(curves: Sequence[Curve], n_items: int, binary: bool) -> Interval | None:
    """Return the mean area over seeds with Student's interval; `None` where a curve has none.

    That of 0/1 outcomes, which `binary` says they are, ends within 0 and 1.
    """
    areas = [curve_area(curve) for curve in curves]
    known = [area for area in areas if area is not None]
    if len(known) < len(areas) or not known:
        return None
    mean, low, high = _over_seeds(known)
    low, high = (max(low, 0.0), min(high, 1.0)) if binary else (low, high)
    return Interval(mean=mean, low=low, high=high, level=LEVEL, n_seeds=len(known), n_items=n_items)


def compare_areas(
    curves: Mapping[str, Mapping[int, Curve]],
    family: Sequence[tuple[str, str]],
    higher_is_better: bool,
    n_items: int,
) -> list[Difference]:
    """Return one family's differences in area, paired by seed (Student's t over seeds, Holm).

    Args:
        curves: Per arm and seed, the learning curve of the judged metric.
        family: (arm, versus) pairs; those with fewer than two common seeds, or with curves over
            other steps, are left out.
        higher_is_better: False turns the differences, so that positive is always better.
        n_items: Items behind every point.
    """
    found = {
        (arm, versus): paired
        for arm, versus in family
        if (paired := _paired_areas(curves[arm], curves[versus], higher_is_better)) is not None
    }
    tests = {pair: _area_difference(delta, n_items) for pair, delta in found.items()}
    adjusted = holm([test.p for test in tests.values()])
    bonferroni = 1 - (1 - LEVEL) / max(len(tests), 1)
    return [
        Difference(
            arm=arm,
            versus=versus,
            interval=test.interval,
            p=test.p,
            p_holm=p_holm,
            minimum_detectable=_detectable(found[arm, versus], bonferroni),
            n_comparisons=len(tests),
        )
        for ((arm, versus), test), p_holm in zip(tests.items(), adjusted, strict=True)
    ]


def _paired_areas(
    arm: Mapping[int, Curve], versus: Mapping[int, Curve], higher_is_better: bool
) -> list[float] | None:
    """Return arm − versus per common seed, positive where the arm is better."""
    seeds = sorted(arm.keys() & versus.keys())
    steps = {tuple(step for step, _ in side[seed]) for seed in seeds for side in (arm, versus)}
    if len(seeds) < 2 or len(steps) != 1:
        return None
    pairs = [(curve_area(arm[seed]), curve_area(versus[seed])) for seed in seeds]
    sign = 1.0 if higher_is_better else -1.0
    return [sign * (a - b) for a, b in pairs if a is not None and b is not None] or None


def _area_difference(delta: Sequence[float], n_items: int) -> PairedDifference:
    mean, low, high = _over_seeds(delta)
    p = 1.0 if np.ptp(delta) == 0 == mean else 0.0
    if np.ptp(delta) > 0:
        p = student_p(_seed_spread(delta))
    interval = Interval(
        mean=mean, low=low, high=high, level=LEVEL, n_seeds=len(delta), n_items=n_items
    )
    return PairedDifference(interval=interval, p=p)


def _detectable(delta: Sequence[float], level: float) -> float | None:
    spread = _seed_spread(delta)
    return detectable_difference(spread, 0.8, level) if spread.error > 0 else None


def _seed_spread(values: Sequence[float]) -> Spread:
    error = float(np.std(values, ddof=1) / np.sqrt(len(values)))
    return Spread(float(np.mean(values)), error, len(values) - 1)


def _over_seeds(values: Sequence[float]) -> tuple[float, float, float]:
    """Return mean and Student's interval; one value, or equal ones, have no width."""
    mean = float(np.mean(values))
    if len(values) < 2 or np.ptp(values) == 0:
        return mean, mean, mean
    return (mean, *student_bounds(_seed_spread(values), LEVEL))

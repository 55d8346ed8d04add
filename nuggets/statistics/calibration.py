"""How often the verdict is wrong: identical arms compared, and planted effects found.

A pool holds one arm trained with many seeds. A comparison draws three groups of seeds without
overlap and calls them baseline, treatment and control, though all are the same arm (A/A): whatever
the verdict then claims is false. For the second question the baseline and the content control are
ruined, so that only an identical location control can prevent "located". A planted effect turns a
known share of the treatment's answers from wrong to right, and counts how often "helps" finds it.

Comparisons of one round share no seed; rounds share the pool. The rate over all rounds is unbiased
(a U-statistic), but its comparisons are not independent, so its interval counts only as many as
the pool holds without reuse: the variance of a U-statistic is at most that of its disjoint
comparisons (Hoeffding, Annals of Mathematical Statistics 19, 1948).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special  # the distributions of scipy.stats, without its .5 s of import

from nuggets.errors import BadInput
from nuggets.frozen import Frozen
from nuggets.statistics.comparisons import compare_family, families
from nuggets.statistics.intervals import LEVEL
from nuggets.statistics.power import detectable_effect
from nuggets.statistics.spread import Outcomes, checked_outcomes
from nuggets.statistics.verdict import EDITION, Difference, Part, Verdict, decide

COMPARISONS = 400
"""A/A comparisons drawn per design; at least this many."""
PLANTED = (0.1, 0.2, 0.3, 0.4)
"""Differences of exact match that are planted."""
PARTS = {
    "plain": Part("baseline"),
    "again": Part("treatment"),
    "third": Part("content_control"),
    "fourth": Part("location_control"),
}
GROUPS = 3
"""Groups of seeds per comparison: one question at a time."""


class Rate(Frozen):
    """How often something was said.

    `n` comparisons were made and `disjoint` of them shared no seed; the interval is
    Clopper–Pearson's with `disjoint` comparisons.
    """

    value: float
    low: float
    high: float
    n: int
    disjoint: int


class Design(Frozen):
    """Error rates with one number of seeds per arm.

    `helps` and `hurts` are the full rules with one identical content control.
    `helps_without_controls` is the worst case: the control is always beaten, so that only the
    baseline can stop a false claim. `located` is said although the location control is identical;
    `None` in a calibration of 0.1. `percentile` is how often the percentile interval of the
    hierarchical bootstrap excludes 0 between identical arms on either side, and `student` the same
    for the interval that decides. `found` gives, per planted difference, the rate of "helps";
    `planned` is the difference that should be found in four of five experiments, said before any
    was run.
    """

    n_seeds: int
    helps: Rate
    hurts: Rate
    helps_without_controls: Rate
    located: Rate | None = None
    student: Rate
    percentile: Rate
    found: dict[str, Rate]
    planned: float | None


class Calibration(Frozen):
    """The verdict's error rates on one pool of real training runs, by one edition of the rules."""

    task: str
    arm: str
    metric: str
    n_pool: int
    n_items: int
    mean: float
    seed_sd: float
    designs: list[Design]
    edition: int = 1

    @property
    def passed(self) -> bool:
        """Whether "helps" and "located" are said of identical arms in at most 5 %."""
        limit = 1 - LEVEL
        return all(
            rate.value <= limit
            for design in self.designs
            for rate in (design.helps, design.helps_without_controls, design.located)
            if rate is not None
        )


def calibrate(
    pool: Sequence[Sequence[float]],
    *,
    task: str,
    arm: str,
    metric: str = "exact_match",
    n_seeds: Sequence[int] = (3, 5),
    comparisons: int = COMPARISONS,
    seed: int = 0,
) -> Calibration:
    """Compare identical arms and planted effects on a pool of 0/1 outcomes.

    Args:
        pool: `[n_pool, n_items]`, one arm with many seeds on the same items.
        task: What the pool was trained on.
        arm: Which arm it is.
        metric: What the outcomes are.
        n_seeds: Seeds per arm, one design each.
        comparisons: At least so many A/A comparisons per design.
        seed: Of the draws.

    Raises:
        BadInput: The pool is too small for a design.
        NonFinite: An outcome is NaN or infinite.
    """
    outcomes = checked_outcomes(pool, LEVEL)
    smallest = GROUPS * max(n_seeds)
    if len(outcomes) < smallest:
        raise BadInput(
            f"The pool has {len(outcomes)} trained seeds; comparing three arms of {max(n_seeds)} "
            f"needs at least {smallest}."
        )
    return Calibration(
        task=task,
        arm=arm,
        metric=metric,
        n_pool=len(outcomes),
        n_items=outcomes.shape[1],
        mean=float(outcomes.mean()),
        seed_sd=float(outcomes.mean(axis=1).std(ddof=1)),
        designs=[_design(outcomes, n, comparisons, seed) for n in n_seeds],
        edition=EDITION,
    )


def draw_groups(
    n_pool: int, size: int, n_groups: int, at_least: int, seed: int
) -> Iterator[NDArray[np.int64]]:
    """Yield `[n_groups, size]` indices of seeds; within a round no seed comes twice.

    Every round partitions a new permutation of the pool, until `at_least` draws were made.
    """
    generator = np.random.default_rng([seed, size])
    per_round = n_pool // (size * n_groups)
    for _ in range(-(-at_least // per_round)):
        order = generator.permutation(n_pool)[: per_round * size * n_groups]
        yield from order.reshape(per_round, n_groups, size)


def plant(outcomes: Outcomes, effect: float, generator: np.random.Generator) -> Outcomes:
    """Return a copy in which wrong answers became right, so that the mean rises by `effect`.

    Which ones is drawn anew for every item and seed. Where fewer are wrong, all become right.
    """
    wrong = 1 - outcomes
    share = min(effect / wrong.mean(), 1.0) if wrong.any() else 0.0
    return outcomes + wrong * (generator.random(outcomes.shape) < share)


def _design(outcomes: Outcomes, size: int, comparisons: int, seed: int) -> Design:
    draws = list(draw_groups(len(outcomes), size, GROUPS, comparisons, seed))
    disjoint = len(outcomes) // (size * GROUPS)
    generator = np.random.default_rng([seed, size, 1])
    same = [judge([outcomes[group] for group in groups]) for groups in draws]
    kinds = [verdict.kind for verdict, _ in same]
    first = [differences[0] for _, differences in same]
    nothing = np.zeros((size, outcomes.shape[1]))
    ruined = [judge([outcomes[a], outcomes[b], nothing])[0].kind for a, b, _ in draws]
    elsewhere = [judge([nothing, outcomes[b], nothing, outcomes[c]])[0] for _, b, c in draws]
    found = {
        f"{effect:g}": _rate(
            [
                judge([outcomes[a], plant(outcomes[b], effect, generator), outcomes[c]])[0].kind
                == "helps"
                for a, b, c in draws
            ],
            disjoint,
        )
        for effect in PLANTED
    }
    return Design(
        n_seeds=size,
        helps=_rate([kind == "helps" for kind in kinds], disjoint),
        hurts=_rate([kind == "hurts" for kind in kinds], disjoint),
        helps_without_controls=_rate([kind == "helps" for kind in ruined], disjoint),
        located=_rate([verdict.location == "located" for verdict in elsewhere], disjoint),
        student=_rate([d.interval.low > 0 or d.interval.high < 0 for d in first], disjoint),
        percentile=_rate([_excludes_zero(d.bootstrap) for d in first], disjoint),
        found=found,
        planned=detectable_effect(size, outcomes.shape[1], 2).value,
    )


def judge(arms: Sequence[Outcomes]) -> tuple[Verdict, list[Difference]]:
    """Return the verdict on arms in the order of `PARTS`, and its differences."""
    parts = {name: part for (name, part), _ in zip(PARTS.items(), arms, strict=False)}
    outcomes = {
        name: {seed: row.tolist() for seed, row in enumerate(arm)}
        for name, arm in zip(parts, arms, strict=True)
    }
    differences = [
        difference
        for family in families(parts)[:2]
        for difference in compare_family(outcomes, family, higher_is_better=True)
    ]
    means = {name: float(arm.mean()) for name, arm in zip(parts, arms, strict=True)}
    return decide(parts, means, differences), differences


def _excludes_zero(interval: tuple[float, float] | None) -> bool:
    return interval is not None and (interval[0] > 0 or interval[1] < 0)


def _rate(said: Sequence[bool], disjoint: int) -> Rate:
    """Clopper–Pearson at the number of disjoint comparisons (real-valued, so by beta quantiles)."""
    value, tail = float(np.mean(said)), (1 - LEVEL) / 2
    yes, no = value * disjoint, (1 - value) * disjoint
    low = float(special.betaincinv(yes, no + 1, tail)) if yes > 0 else 0.0
    high = float(special.betainccinv(yes + 1, no, tail)) if no > 0 else 1.0
    return Rate(value=value, low=low, high=high, n=len(said), disjoint=disjoint)

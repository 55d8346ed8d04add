"""How often the verdict is wrong: identical arms compared, and planted effects found.

A pool holds one arm trained with many seeds. A comparison draws groups of seeds without overlap and
calls them baseline, treatment and control, though all are the same arm (A/A): whatever the verdict
then claims is false. Arms that could prevent a claim are ruined, so that one alone decides: a
ruined arm is the treatment's own, each outcome worse by 1. A planted effect turns a known share of
the treatment's answers from wrong to right: how often is it found, and is its place?

Comparisons of one round share no seed; rounds share the pool. The rate over all rounds is unbiased
(a U-statistic), but its comparisons are not independent, so its interval counts only as many as
the pool holds without reuse: the variance of a U-statistic is at most that of its disjoint
comparisons (Hoeffding, Annals of Mathematical Statistics 19, 1948). Those of several pools add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nuggets.errors import BadInput
from nuggets.statistics.cells import Trial
from nuggets.statistics.comparisons import compare_family, families
from nuggets.statistics.error_rates import Calibration, Design, Rate, TriedRate, rate_of
from nuggets.statistics.intervals import LEVEL
from nuggets.statistics.power import detectable_effect, spread_at_half
from nuggets.statistics.simulation import simulate, truth_of
from nuggets.statistics.spread import Outcomes, checked_outcomes
from nuggets.statistics.verdict import EDITION, Difference, Part, Verdict, decide

COMPARISONS = 400
"""A/A comparisons drawn per design; at least this many."""
SEEDS = (3, 5)
"""Seeds per arm, one design each."""
PLANTED = (0.1, 0.2, 0.3, 0.4)
"""Differences of exact match that are planted."""
PARTS = {
    "plain": Part("baseline"),
    "again": Part("treatment"),
    "third": Part("content_control"),
    "fourth": Part("location_control"),
}
Arms = tuple[Outcomes, ...]


class Claim(NamedTuple):
    """Something that a verdict may say: of how many groups of seeds, as which arms, and if it did.

    `arms` are in the order of `PARTS`; of its groups the second is the treatment.
    """

    groups: int
    arms: Callable[..., Arms]
    said: Callable[[Verdict, Sequence[Difference]], bool]


def _place(a: Outcomes, b: Outcomes) -> Arms:
    """The location control is the same arm, and all else is ruined."""
    return b - 1, b, b - 1, a


CLAIMS = {
    "helps": Claim(3, lambda a, b, c: (a, b, c), lambda v, _: v.kind == "helps"),
    "hurts": Claim(2, lambda a, b: (a, b, b - 1), lambda v, _: v.kind == "hurts"),
    "same_as_controls": Claim(
        2, lambda a, b: (a, b, b), lambda v, _: v.kind == "same_as_controls"
    ),
    "helps_without_controls": Claim(
        2, lambda a, b: (a, b, b - 1), lambda v, _: v.kind == "helps"
    ),
    "located": Claim(2, _place, lambda v, _: v.location == "located"),
    "student": Claim(
        2, lambda a, b: (a, b), lambda _, d: d[0].interval.low > 0 or d[0].interval.high < 0
    ),
    "percentile": Claim(2, lambda a, b: (a, b), lambda _, d: _excludes_zero(d[0].bootstrap)),
}  # fmt: skip
"""Field of a design → what is false of identical arms."""
MISSED = Claim(2, _place, lambda v, _: v.location == "not_located")


def calibrate(
    pool: Sequence[Sequence[float]],
    *,
    task: str,
    arm: str,
    student: str = "",
    metric: str = "exact_match",
    kept: Sequence[float | None] = (),
    trials: Sequence[Sequence[Trial]] = (),
    n_seeds: Sequence[int] = SEEDS,
    comparisons: int = COMPARISONS,
    simulated: int = 0,
    seed: int = 0,
) -> Calibration:
    """Compare identical arms and planted effects on a pool of 0/1 outcomes.

    Args:
        pool: `[n_pool, n_items]`, one arm with many seeds on the same items.
        task: What the pool was trained on.
        arm: Which arm it is.
        student: Whose.
        metric: What the outcomes are.
        kept: The learning rate of each seed.
        trials: What each seed did at every rate that it was trained at.
        n_seeds: Seeds per arm, one design each.
        comparisons: At least so many A/A comparisons per design.
        simulated: As many comparisons of simulated seeds; none for 0.
        seed: Of the draws.

    Raises:
        BadInput: The pool is too small for a design.
        NonFinite: An outcome is NaN or infinite.
    """
    outcomes = checked_outcomes(pool, LEVEL)
    smallest = CLAIMS["helps"].groups * max(n_seeds)
    if len(outcomes) < smallest:
        raise BadInput(
            f"The pool has {len(outcomes)} trained seeds; comparing three arms of {max(n_seeds)} "
            f"needs at least {smallest}."
        )
    return Calibration(
        task=task,
        student=student,
        arm=arm,
        metric=metric,
        n_pool=len(outcomes),
        n_items=outcomes.shape[1],
        mean=float(outcomes.mean()),
        seed_sd=float(outcomes.mean(axis=1).std(ddof=1)),
        designs=[_design(outcomes, n, comparisons, seed, PLANTED) for n in n_seeds],
        item_sd=truth_of(outcomes).item_sd,
        rates=_tried_rates(
            outcomes, kept or [None] * len(outcomes), trials or [()] * len(outcomes)
        ),
        simulated=_simulated(outcomes, n_seeds, simulated, seed) if simulated else [],
        edition=EDITION,
    )


def n_disjoint(n_pool: int, n_seeds: int, name: str) -> int:
    """How many comparisons about a claim a pool holds that share no seed."""
    return n_pool // (n_seeds * CLAIMS[name].groups)


def draw_groups(
    n_pool: int, size: int, n_groups: int, at_least: int, seed: int
) -> Iterator[NDArray[np.int64]]:
    """Yield `[n_groups, size]` indices of seeds; within a round no seed comes twice.

    Every round partitions a new permutation of the pool, until `at_least` draws were made.
    """
    generator = np.random.default_rng([seed, size, n_groups])
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


def _design(
    outcomes: Outcomes, size: int, comparisons: int, seed: int, planted: Sequence[float]
) -> Design:
    room = 1 - outcomes.mean()  # for a larger difference there are too few wrong answers
    generator = np.random.default_rng([seed, size, 1])

    def rate(claim: Claim, effect: float = 0.0) -> Rate:
        said = []
        for draw in draw_groups(len(outcomes), size, claim.groups, comparisons, seed):
            groups = [outcomes[group] for group in draw]
            if effect:
                groups[1] = plant(groups[1], effect, generator)
            said.append(claim.said(*judge(claim.arms(*groups))))
        return rate_of(float(np.mean(said)), len(said), len(outcomes) // (size * claim.groups))

    effects = [effect for effect in planted if effect <= room]
    mean = float(outcomes.mean())
    spread = spread_at_half(outcomes.mean(axis=1).tolist()) if 0 < mean < 1 else None
    return Design(
        n_seeds=size,
        **{name: rate(claim) for name, claim in CLAIMS.items()},
        found={f"{effect:g}": rate(CLAIMS["helps"], effect) for effect in effects},
        not_located={f"{effect:g}": rate(MISSED, effect) for effect in effects},
        planned=None
        if spread is None
        else detectable_effect(size, outcomes.shape[1], 2, mean, spread).value,
    )


def _simulated(
    outcomes: Outcomes, n_seeds: Sequence[int], comparisons: int, seed: int
) -> list[Design]:
    """The designs on simulated seeds, so many that all of a design's comparisons are disjoint."""
    generator = np.random.default_rng([seed, 2])
    items = generator.normal(size=outcomes.shape[1])
    found = []
    for size in n_seeds:
        n_pool = comparisons * size * CLAIMS["helps"].groups
        seeds = simulate(truth_of(outcomes), n_pool, items, generator)
        found.append(_design(seeds, size, comparisons, seed, ()))
    return found


def _tried_rates(
    outcomes: Outcomes, kept: Sequence[float | None], trials: Sequence[Sequence[Trial]]
) -> list[TriedRate]:
    did: dict[float, list[float]] = {}
    for rate, own, mean in zip(kept, trials, outcomes.mean(axis=1).tolist(), strict=True):
        alone = [] if own or rate is None else [Trial(lr=rate, value=mean, loss=None)]
        for trial in (*own, *alone):
            if trial.value is not None:  # this training did not diverge
                did.setdefault(trial.lr, []).append(trial.value)
    return [
        TriedRate(
            learning_rate=rate,
            n_kept=list(kept).count(rate),
            mean=float(np.mean(values)),
            seed_sd=float(np.std(values, ddof=1)),
        )
        for rate, values in sorted(did.items())
        if len(values) > 1
    ]


def _excludes_zero(interval: tuple[float, float] | None) -> bool:
    return interval is not None and (interval[0] > 0 or interval[1] < 0)

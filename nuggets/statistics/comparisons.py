"""Which arms are compared with which, and what the comparisons give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nuggets.statistics.bootstrap import bootstrap_interval
from nuggets.statistics.intervals import LEVEL, holm, paired_difference
from nuggets.statistics.power import minimum_detectable_effect
from nuggets.statistics.spread import Outcomes, is_binary
from nuggets.statistics.verdict import ArmRole, Difference

SeedOutcomes = Mapping[int, Sequence[float]]
"""Per seed, one outcome per item, in the same order of items for every seed and arm."""


def higher_is_better(metric: str) -> bool:
    """Whether larger values of a metric are better: of all but losses."""
    return metric != "loss"


def families(roles: Mapping[str, ArmRole]) -> list[list[tuple[str, str]]]:
    """Return the (arm, versus) pairs of every family within which Holm's adjustment is made.

    For each treatment: itself against the baseline and every control, and the comparators against
    it. Then every other arm against the baseline.
    """

    def named(*wanted: ArmRole) -> list[str]:
        return [name for name, role in roles.items() if role in wanted]

    found = []
    for arm in named("treatment"):
        found.append([(arm, other) for other in named("baseline", "control")])
        found.append([(other, arm) for other in named("comparator")])
    others = named("control", "comparator", "reference")
    found.append([(arm, base) for base in named("baseline") for arm in others])
    return found


def compare_family(
    outcomes: Mapping[str, SeedOutcomes],
    family: Sequence[tuple[str, str]],
    higher_is_better: bool,
) -> list[Difference]:
    """Return one family's differences; a pair of arms without a common seed has none.

    Args:
        outcomes: Per arm and seed, the judged metric of every item.
        family: (arm, versus) pairs.
        higher_is_better: False turns the differences, so that positive is always better.

    Raises:
        BadInput: The outcomes do not have the same items.
        NonFinite: An outcome is NaN or infinite.
    """
    paired = {
        (arm, versus): _paired(outcomes[arm], outcomes[versus], higher_is_better)
        for arm, versus in family
        if outcomes[arm].keys() & outcomes[versus].keys()
    }
    found = {pair: paired_difference(*arrays) for pair, arrays in paired.items()}
    adjusted = holm([difference.p for difference in found.values()])
    bonferroni = 1 - (1 - LEVEL) / max(len(found), 1)
    return [
        Difference(
            arm=arm,
            versus=versus,
            interval=difference.interval,
            p=difference.p,
            p_holm=p_holm,
            minimum_detectable=_detectable(*paired[arm, versus], level=bonferroni),
            bootstrap=bootstrap_interval(np.subtract(*paired[arm, versus])),
        )
        for ((arm, versus), difference), p_holm in zip(found.items(), adjusted, strict=True)
    ]


def _paired(
    arm: SeedOutcomes, versus: SeedOutcomes, higher_is_better: bool
) -> tuple[Outcomes, Outcomes]:
    """Return the outcomes `[common seeds, items]` of the better-if-larger side first."""
    seeds = sorted(arm.keys() & versus.keys())
    first, second = (
        np.asarray([side[seed] for seed in seeds], dtype=np.float64) for side in (arm, versus)
    )
    return (first, second) if higher_is_better else (second, first)


def _detectable(first: Outcomes, second: Outcomes, level: float) -> float | None:
    """Return the detectable difference where there is one: see `Difference`."""
    binary = is_binary(first) and is_binary(second)
    delta = first - second
    if not binary and np.ptp(delta) == 0:
        return None
    value = minimum_detectable_effect(delta, level=level)
    return None if binary and value > 1 else value

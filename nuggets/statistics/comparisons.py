"""Which arms are compared with which, and what the comparisons give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nuggets.statistics.bootstrap import bootstrap_interval
from nuggets.statistics.intervals import LEVEL, holm, paired_difference
from nuggets.statistics.power import minimum_detectable_effect
from nuggets.statistics.spread import Outcomes, is_binary
from nuggets.statistics.verdict import ArmRole, Difference, Part, controls_of

SeedOutcomes = Mapping[int, Sequence[float]]
"""Per seed, one outcome per item, in the same order of items for every seed and arm."""


def higher_is_better(metric: str) -> bool:
    """Whether larger values of a metric are better: not of losses and unreadable verdicts."""
    return metric not in ("loss", "unreadable_verdicts")


def families(parts: Mapping[str, Part]) -> list[list[tuple[str, str]]]:
    """Return the (arm, versus) pairs of every family within which Holm's adjustment is made.

    For each treatment: itself against the baseline and its content controls; against its location
    controls; and the comparators against it. Then every other arm against the baseline.
    """

    def named(*wanted: ArmRole) -> list[str]:
        return [name for name, part in parts.items() if part.role in wanted]

    found = []
    for arm in named("treatment"):
        found.append([(arm, other) for other in first_family(parts, arm)])
        found.append([(arm, other) for other in controls_of(parts, arm, "location_control")])
        found.append([(other, arm) for other in named("comparator")])
    others = named("content_control", "location_control", "comparator", "reference")
    found.append([(arm, base) for base in named("baseline") for arm in others])
    return found


def first_family(parts: Mapping[str, Part], treatment: str = "") -> list[str]:
    """Return what a treatment is compared with to learn whether it helped.

    Args:
        parts: Part of every arm.
        treatment: The arm to judge; the first treatment when not given.
    """
    arm = treatment or next((name for name in parts if parts[name].role == "treatment"), "")
    baselines = [name for name, part in parts.items() if part.role == "baseline"]
    return [*baselines, *(controls_of(parts, arm, "content_control") if arm else [])]


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
    return compare_together([(outcomes, family)], higher_is_better)[0]


def compare_together(
    groups: Sequence[tuple[Mapping[str, SeedOutcomes], Sequence[tuple[str, str]]]],
    higher_is_better: bool,
) -> list[list[Difference]]:
    """Return the differences of several runs or benchmarks, all of them one family.

    Args:
        groups: What `compare_family` takes, for each run or benchmark.
        higher_is_better: False turns the differences, so that positive is always better.

    Raises:
        BadInput: The outcomes of two arms do not have the same items.
        NonFinite: An outcome is NaN or infinite.
    """
    paired = {
        (place, arm, versus): _paired(outcomes[arm], outcomes[versus], higher_is_better)
        for place, (outcomes, family) in enumerate(groups)
        for arm, versus in family
        if outcomes[arm].keys() & outcomes[versus].keys()
    }
    tests = {key: paired_difference(*arrays) for key, arrays in paired.items()}
    adjusted = holm([test.p for test in tests.values()])
    bonferroni = 1 - (1 - LEVEL) / max(len(tests), 1)
    found: list[list[Difference]] = [[] for _ in groups]
    for ((place, arm, versus), test), p_holm in zip(tests.items(), adjusted, strict=True):
        arrays = paired[place, arm, versus]
        found[place].append(
            Difference(
                arm=arm,
                versus=versus,
                interval=test.interval,
                p=test.p,
                p_holm=p_holm,
                minimum_detectable=_detectable(*arrays, level=bonferroni),
                bootstrap=bootstrap_interval(np.subtract(*arrays)),
                n_comparisons=len(tests),
            )
        )
    return found


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

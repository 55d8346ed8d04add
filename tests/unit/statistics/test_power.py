"""Detectable differences: against scipy's own t distribution, simulation and order."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from nuggets.errors import BadInput
from nuggets.statistics.comparisons import families
from nuggets.statistics.power import (
    SEED_SD,
    DetectableEffect,
    detectable_difference,
    detectable_effect,
    minimum_detectable_effect,
    planned_detectable_effect,
    spread_at_half,
    unseen_share,
)
from nuggets.statistics.report import BenchmarkReport
from nuggets.statistics.spread import Spread, spread_of

PAPER = Path(__file__).parents[3] / "docs" / "paper"


def test_with_a_known_error_it_is_the_textbook_value():
    found = detectable_difference(Spread(0.0, 0.1, 1e7), power=0.8, level=0.95)
    assert found == pytest.approx(0.1 * (1.959964 + 0.841621), rel=1e-4)


@pytest.mark.parametrize("df", [2, 5, 30])
def test_the_difference_is_found_as_often_as_the_power_says(df):
    rng = np.random.default_rng(df)
    difference = detectable_difference(Spread(0.0, 1.0, df), power=0.8, level=0.95)
    n = df + 1
    draws = rng.normal(difference, np.sqrt(n), (20_000, n))  # standard error 1
    assert np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05) == pytest.approx(
        0.8, abs=0.02
    )


def test_measured_data_use_their_own_spread():
    data = np.random.default_rng(1).normal(0, 0.4, (3, 50))
    assert minimum_detectable_effect(data) == detectable_difference(spread_of(data), 0.8, 0.95)


def test_arms_that_never_differ_could_have_hidden_the_exact_share_of_items():
    assert minimum_detectable_effect(np.zeros((3, 40))) == pytest.approx(1 - 0.025 ** (1 / 40))
    assert unseen_share(40, 0.95) == pytest.approx(1 - 0.025 ** (1 / 40))


def test_more_seeds_items_or_agreement_reveal_smaller_differences():
    steady = {"seed_sd": 0.02}
    base = planned_detectable_effect(3, 100, **steady)
    assert planned_detectable_effect(5, 100, **steady) < base
    assert planned_detectable_effect(3, 200, **steady) < base
    assert planned_detectable_effect(3, 100, correlation=0.9, **steady) < base
    assert planned_detectable_effect(3, 100, 0.05, **steady) < base
    assert planned_detectable_effect(3, 100, level=0.99, **steady) > base


@pytest.mark.parametrize(("n_seeds", "n_items"), [(3, 50), (3, 100), (5, 100), (5, 200)])
def test_a_plan_foresees_the_power_of_simulated_experiments(n_seeds, n_items):
    rng = np.random.default_rng([n_seeds, n_items])
    planned = planned_detectable_effect(n_seeds, n_items)
    noise_sd = np.sqrt(2 * 0.25 * 0.65)  # of one item's difference: 2 p(1 − p)(1 − ρ)
    # The spread of measured means holds the sampling of their items already.
    seed_sd = np.sqrt(2 * SEED_SD**2 - noise_sd**2 / n_items)
    found = 0
    for _ in range(300):
        seeds = rng.normal(0, seed_sd, (n_seeds, 1))
        spread = spread_of(planned + seeds + rng.normal(0, noise_sd, (n_seeds, n_items)))
        found += spread.mean / spread.error > stats.t.isf(0.025, spread.df)
    assert found / 300 == pytest.approx(0.8, abs=0.1)


def test_a_plan_for_one_seed_is_mcnemar_like_by_hand():
    # variance of a paired 0/1 difference: 2 · .25 · .5 = .25, over 100 items: error .05, df 99
    expected = detectable_difference(Spread(0.0, 0.05, 99), 0.8, 0.95)
    assert planned_detectable_effect(1, 100, correlation=0.5) == pytest.approx(expected)
    assert expected == pytest.approx(0.1415, abs=1e-3)


def test_a_plan_for_several_seeds_is_the_sum_of_three_parts_by_hand():
    # seeds 2 · .1² / 4 = .005 with 3 df; items, and what is left, 2 · .25 · .8 / 200 = .002 each
    # with 49 and 147 df: error √.009, df .009² / (.005² / 3 + .002² / 49 + .002² / 147)
    df = 0.009**2 / (0.005**2 / 3 + 0.002**2 / 49 + 0.002**2 / 147)
    expected = detectable_difference(Spread(0.0, 0.009**0.5, df), 0.8, 0.95)
    assert planned_detectable_effect(4, 50, seed_sd=0.1, correlation=0.2) == pytest.approx(expected)
    # at .8, 4 · .8 · .2 = .64 of both the spread and the items' variance
    seeds, items = 0.005 * 0.64**2, 0.002 * 0.64
    df = (seeds + 2 * items) ** 2 / (seeds**2 / 3 + items**2 / 49 + items**2 / 147)
    expected = detectable_difference(Spread(0.0, (seeds + 2 * items) ** 0.5, df), 0.8, 0.95)
    found = planned_detectable_effect(4, 50, 0.8, seed_sd=0.1, correlation=0.2)
    assert found == pytest.approx(expected)


def test_the_spread_of_seeds_is_brought_to_one_half_by_hand():
    # mean .2, where 4p(1 − p) is .64; standard deviation of .1, .2, .3: .1
    assert spread_at_half([0.1, 0.2, 0.3]) == pytest.approx(0.1 / 0.64)
    for hopeless in ([0.3], [0.0, 0.0], [1.0, 1.0, 1.0]):
        with pytest.raises(BadInput, match=r"at least 2 seeds and a mean inside \(0, 1\); got"):
            spread_at_half(hopeless)


@cache
def committed():
    """Every report of the committed studies that counts right answers."""
    panels = [
        BenchmarkReport.model_validate(panel["report"])
        for file in sorted(PAPER.glob("*.json"))
        for panel in json.loads(file.read_text())["panels"]
    ]
    return [report for report in panels if report.higher_is_better]


def trained(report):
    """Arms that vary from seed to seed, and are neither at the floor nor at the ceiling."""
    arms = report.arms.values()
    return {a.name: a for a in arms if np.ptp(a.per_seed) > 0 and 0.01 < a.value < 0.99}


def realised():
    """Per committed comparison: its design, its two arms and the detectable difference it had."""
    for report in committed():
        arms = trained(report)
        for family in families(report.parts):
            found = [d for d in report.differences if (d.arm, d.versus) in family]
            for d in found:
                if {d.arm, d.versus} <= arms.keys() and d.minimum_detectable is not None:
                    design = d.interval.n_seeds, d.interval.n_items, len(found)
                    yield design, (arms[d.arm], arms[d.versus]), d.minimum_detectable


def said(ratios):
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return f"predicted / realised: median {middle:.2f}, quartiles {low:.2f} and {high:.2f}"


def test_the_spread_assumed_is_that_of_the_committed_studies():
    every = [spread_at_half(arm.per_seed) for r in committed() for arm in trained(r).values()]
    measured = np.median(every)
    assert pytest.approx(measured, rel=0.1) == SEED_SD, f"set SEED_SD to {measured:.3f}"


def test_what_a_plan_promises_is_what_the_committed_studies_could_detect():
    """Within a quarter for the median comparison; single ones have other spreads of seeds."""
    ratios = [
        detectable_effect(*design, (a.value + b.value) / 2).value / seen
        for design, (a, b), seen in realised()
    ]
    assert len(ratios) >= 20
    assert 0.75 <= np.median(ratios) <= 1.25, said(ratios)


def test_with_the_arms_own_spread_most_single_comparisons_are_foreseen_within_a_quarter():
    """A plan for the mean of two arms knows neither how alike their items nor their seeds are."""
    ratios = []
    for design, arms, seen in realised():
        spread = np.sqrt(np.mean([spread_at_half(arm.per_seed) ** 2 for arm in arms]))
        rate = (arms[0].value + arms[1].value) / 2
        ratios.append((detectable_effect(*design, rate, spread).value or 1) / seen)
    within = np.mean([0.75 <= ratio <= 1.25 for ratio in ratios])
    assert within > 0.5, f"{within:.0%} within a quarter; {said(ratios)}"


def test_impossible_plans_are_refused():
    with pytest.raises(BadInput, match=r"got 0, 100, 0\.5"):
        planned_detectable_effect(0, 100)
    for correlation in (-0.1, 1.0):
        with pytest.raises(BadInput, match=rf"got 3, 100, 0\.5 and {correlation}"):
            planned_detectable_effect(3, 100, correlation=correlation)
    assert planned_detectable_effect(3, 100, correlation=0.0) > 0
    with pytest.raises(BadInput, match="power must lie between"):
        minimum_detectable_effect(np.eye(3), power=0.01)


def test_a_design_is_answered_in_a_sentence_and_more_comparisons_cost_power():
    three = detectable_effect(3, 100)
    assert three.value == pytest.approx(planned_detectable_effect(3, 100))
    assert (
        three.sentence
        == "With 3 seeds and 100 items a difference of 0.50 is detected 80 % of the time."
    )
    assert three.basis == (
        "This is for the single comparison with plain LoRA, where 50 % are right and seeds have a "
        "standard deviation of 0.128 (the median of the trained arms in docs/paper)."
    )
    with_controls = detectable_effect(3, 100, n_comparisons=3)
    assert with_controls.value > three.value
    assert "a family of 3 comparisons (plain LoRA and 2 content controls)" in with_controls.basis
    own = detectable_effect(3, 100, 2, 0.2, 0.1, "measured by me")
    assert "(plain LoRA and 1 content control), where 20 % are right" in own.basis
    assert "deviation of 0.064 (measured by me)." in own.basis
    assert own.value < with_controls.value
    hopeless = detectable_effect(2, 100, n_comparisons=8)
    assert hopeless.value is None
    assert "no difference can be detected" in hopeless.sentence
    with pytest.raises(BadInput, match="at least one comparison; got 0"):
        detectable_effect(3, 100, 0)


def test_what_0_1_wrote_down_says_what_it_assumed():
    old = DetectableEffect.model_validate({"n_seeds": 3, "n_items": 80, "value": 0.29})
    assert "standard deviation of 0.080 (assumed by version 0.1)" in old.basis

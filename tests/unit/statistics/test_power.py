"""Detectable differences: against scipy's own t distribution, simulation and order."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from nuggets.errors import BadInput
from nuggets.statistics.power import (
    detectable_difference,
    detectable_effect,
    minimum_detectable_effect,
    planned_detectable_effect,
    unseen_share,
)
from nuggets.statistics.spread import Spread, spread_of


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
    found = 0
    for _ in range(300):
        seeds = rng.normal(0, 0.08 * np.sqrt(2), (n_seeds, 1))
        items = rng.normal(0, np.sqrt(0.125), (1, n_items))
        noise = rng.normal(0, np.sqrt(0.125), (n_seeds, n_items))
        spread = spread_of(planned + seeds + items + noise)
        found += spread.mean / spread.error > stats.t.isf(0.025, spread.df)
    assert found / 300 == pytest.approx(0.8, abs=0.1)


def test_a_plan_for_one_seed_is_mcnemar_like_by_hand():
    # variance of a paired 0/1 difference: 2 · .25 · .5 = .25, over 100 items: error .05, df 99
    expected = detectable_difference(Spread(0.0, 0.05, 99), 0.8, 0.95)
    assert planned_detectable_effect(1, 100) == pytest.approx(expected)
    assert expected == pytest.approx(0.1415, abs=1e-3)


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
        == "With 3 seeds and 100 items a difference of 0.29 is detected 80 % of the time."
    )
    with_controls = detectable_effect(3, 100, n_comparisons=3)
    assert with_controls.value > three.value
    hopeless = detectable_effect(2, 100, n_comparisons=8)
    assert hopeless.value is None
    assert "no difference can be detected" in hopeless.sentence
    with pytest.raises(BadInput, match="at least one comparison; got 0"):
        detectable_effect(3, 100, 0)

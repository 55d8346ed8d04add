"""Intervals, paired differences and Holm: against hand values, loops and invariants."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from nuggets.errors import BadInput, NonFinite
from nuggets.statistics.bootstrap import bootstrap_interval, bootstrap_means
from nuggets.statistics.intervals import holm, mean_interval, paired_difference
from nuggets.statistics.spread import spread_of


def looped_bootstrap(outcomes, n_boot, rng, seeds=True, items=True):
    """The crossed bootstrap, one resample at a time."""
    n_seeds, n_items = outcomes.shape
    means = []
    for _ in range(n_boot):
        rows = rng.integers(n_seeds, size=n_seeds) if seeds else np.arange(n_seeds)
        columns = rng.integers(n_items, size=n_items) if items else np.arange(n_items)
        means.append(outcomes[np.ix_(rows, columns)].mean())
    return np.var(means)


def test_standard_error_matches_a_bootstrap_written_as_a_loop():
    rng = np.random.default_rng(3)
    n_seeds, n_items = 4, 30
    outcomes = rng.normal(0, 0.5, (n_seeds, 1)) + rng.normal(0, 1, (1, n_items))
    outcomes = outcomes + rng.normal(0, 1, (n_seeds, n_items))
    seeds = looped_bootstrap(outcomes, 8_000, rng, items=False)
    items = looped_bootstrap(outcomes, 8_000, rng, seeds=False)
    residual = looped_bootstrap(outcomes, 8_000, rng) - seeds - items
    grow_seeds, grow_items = n_seeds / (n_seeds - 1), n_items / (n_items - 1)
    expected = seeds * grow_seeds + items * grow_items + residual * grow_seeds * grow_items
    assert spread_of(outcomes).error ** 2 == pytest.approx(expected, rel=0.06)


def test_spread_of_a_two_by_two_table_by_hand():
    # means of rows 1, 4, of columns 2, 3; residuals ±.5: parts 9/4, 1/4 and 1/4, one df each
    spread = spread_of(np.array([[1.0, 1.0], [3.0, 5.0]]))
    assert spread.mean == 2.5
    assert spread.error == pytest.approx(np.sqrt(2.25 + 0.25 + 0.25))
    assert spread.df == pytest.approx(2.75**2 / (2.25**2 + 0.25**2 + 0.25**2))


def test_one_seed_interval_of_losses_is_students_over_items():
    losses = np.array([[0.2, 0.9, 1.4, 0.3, 2.2]])
    interval = mean_interval(losses, level=0.9)
    expected = stats.ttest_1samp(losses[0], 0).confidence_interval(0.9)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert (interval.n_seeds, interval.n_items) == (1, 5)


def test_seeds_that_repeat_each_other_add_nothing():
    row = np.random.default_rng(0).normal(size=(1, 40))
    once, thrice = mean_interval(row), mean_interval(np.repeat(row, 3, axis=0))
    assert (once.low, once.high) == pytest.approx((thrice.low, thrice.high))


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_all_right_on_twenty_items_has_the_clopper_pearson_bound(n_seeds):
    interval = mean_interval(np.ones((n_seeds, 20)))
    assert interval.low == pytest.approx(stats.binomtest(20, 20).proportion_ci().low)
    assert interval.low == pytest.approx(0.025 ** (1 / 20))
    assert interval.high == 1.0
    mirrored = mean_interval(np.zeros((n_seeds, 20)))
    assert (mirrored.low, mirrored.high) == pytest.approx((0.0, 1 - interval.low))


def test_one_seed_of_many_items_comes_close_to_clopper_pearson():
    outcomes = np.zeros((1, 2000))
    outcomes[0, :600] = 1
    exact = stats.binomtest(600, 2000).proportion_ci()
    interval = mean_interval(outcomes)
    assert (interval.low, interval.high) == pytest.approx((exact.low, exact.high), abs=1e-4)


def test_a_rate_known_well_has_nearly_students_interval():
    # 3 seeds at .48, .50, .52 on items of rate near one half: few degrees of freedom, small error
    rng = np.random.default_rng(8)
    outcomes = (rng.random((3, 4000)) < np.array([[0.48], [0.5], [0.52]])).astype(float)
    spread, interval = spread_of(outcomes), mean_interval(outcomes)
    assert spread.df < 6
    half = stats.t.isf(0.025, spread.df) * spread.error
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.02)


def test_identical_binary_arms_are_bounded_by_the_number_of_items():
    found = paired_difference(np.ones((3, 20)), np.ones((3, 20)))
    unseen = 1 - 0.025 ** (1 / 20)
    assert found.p == 1.0
    assert (found.interval.low, found.interval.high) == pytest.approx((-unseen, unseen))


@pytest.mark.parametrize(("n_items", "excludes"), [(5, False), (6, True)])
def test_everything_against_nothing_agrees_with_the_sign_test(n_items, excludes):
    found = paired_difference(np.ones((2, n_items)), np.zeros((2, n_items)))
    assert found.p == pytest.approx(2 * 0.5**n_items)
    assert (found.interval.low > 0) is excludes
    assert (found.p < 0.05) is excludes


def test_a_judge_who_always_ties_leaves_the_win_rate_uncertain():
    """One that favours a place gives every item a half, for every model."""
    ties = np.full((1, 80), 0.5)
    found = mean_interval(ties)
    assert found.low < 0.45
    assert found.high > 0.55
    assert paired_difference(ties, ties).interval.high > 0.01
    few = paired_difference(np.ones((1, 2)), np.full((1, 2), 0.5))
    assert few.p == 0.5  # as of a sign test on two items
    assert few.interval.low < 0


def test_a_win_rate_near_its_end_stays_within_0_and_1():
    wins = np.array([[1.0] * 39 + [0.5]])
    assert mean_interval(wins).high <= 1
    assert mean_interval(1 - wins).low >= 0


def test_single_seed_p_value_is_mcnemars_exact_one():
    a = np.array([[1, 1, 1, 1, 1, 1, 1, 0, 1, 0]], dtype=float)
    b = np.array([[0, 0, 0, 0, 0, 0, 0, 1, 1, 0]], dtype=float)
    # 7 flips up, 1 down: 2 · (C(8,0) + C(8,1)) / 2⁸
    assert paired_difference(a, b).p == pytest.approx(18 / 256)


def test_p_value_and_interval_agree_on_the_level():
    rng = np.random.default_rng(5)
    for shift in (0.0, 0.2, 0.4, 0.6):
        a, b = rng.normal(shift, 1, (3, 60)), rng.normal(0, 1, (3, 60))
        found = paired_difference(a, b)
        assert (found.p < 0.05) == (found.interval.low > 0 or found.interval.high < 0)


def test_holm_matches_a_hand_computed_example():
    # sorted .005 .01 .03 .04 times 4 3 2 1 = .02 .03 .06 .04, made monotone: .02 .03 .06 .06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


crossed = st.tuples(st.integers(1, 4), st.integers(2, 8)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.integers(-40, 40).map(lambda k: k / 8))
)
binary = st.tuples(st.integers(1, 4), st.integers(2, 12)).flatmap(
    lambda shape: arrays(np.float64, (2, *shape), elements=st.sampled_from([0.0, 1.0]))
)


@settings(max_examples=60)
@given(crossed, st.integers(2, 9))
def test_a_shift_of_losses_shifts_the_interval(outcomes, shift):
    shifted = outcomes + 10 + shift
    before, after = mean_interval(outcomes + 10), mean_interval(shifted)
    assert after.low - before.low == pytest.approx(shift, abs=1e-9)
    assert after.high - before.high == pytest.approx(shift, abs=1e-9)


@settings(max_examples=60)
@given(binary, st.randoms(use_true_random=False))
def test_the_order_of_seeds_and_items_does_not_matter(pair, random):
    rows, columns = list(range(pair.shape[1])), list(range(pair.shape[2]))
    random.shuffle(rows)
    random.shuffle(columns)
    a, b = (each[np.ix_(rows, columns)] for each in pair)
    assert mean_interval(a).low == pytest.approx(mean_interval(pair[0]).low, abs=1e-9)
    assert paired_difference(a, b).p == pytest.approx(paired_difference(*pair).p, abs=1e-9)


@settings(max_examples=60)
@given(binary)
def test_swapping_the_arms_mirrors_the_difference(pair):
    forth, back = paired_difference(pair[0], pair[1]), paired_difference(pair[1], pair[0])
    assert forth.p == pytest.approx(back.p)
    assert forth.interval.mean == pytest.approx(-back.interval.mean)
    assert forth.interval.low == pytest.approx(-back.interval.high)


@settings(max_examples=60)
@given(binary)
def test_intervals_of_rates_hold_the_mean_and_are_never_empty(pair):
    interval = mean_interval(pair[0])
    assert 0 <= interval.low <= interval.mean <= interval.high <= 1
    assert interval.low < interval.high
    difference = paired_difference(*pair).interval
    assert -1 <= difference.low <= difference.mean <= difference.high <= 1
    assert difference.low < difference.high


@pytest.mark.parametrize(
    ("outcomes", "level", "error", "words"),
    [
        ([1.0, 0.0], 0.95, BadInput, r"shape \(seeds, items\).*\(2,\)"),
        ([[1.0]], 0.95, BadInput, "2 items"),
        (np.empty((0, 4)), 0.95, BadInput, "1 seed"),
        ([[1.0, 0.0]], 1.5, BadInput, "between 0 and 1; got 1.5"),
        ([[1.0, 0.0], [np.nan, 1.0]], 0.95, NonFinite, "item 0 in seed row 1 is nan"),
    ],
)
def test_outcomes_without_an_interval_are_refused_in_a_sentence(outcomes, level, error, words):
    with pytest.raises(error, match=words):
        mean_interval(outcomes, level)


def test_arms_of_different_shape_cannot_be_paired():
    with pytest.raises(BadInput, match=r"\(2, 5\) and \(3, 5\)"):
        paired_difference(np.ones((2, 5)), np.ones((3, 5)))


def test_the_vectorised_bootstrap_is_the_looped_one():
    rng = np.random.default_rng(4)
    outcomes = rng.normal(0, 0.5, (4, 1)) + rng.normal(0, 1, (4, 25))
    fast = bootstrap_means(outcomes, draws=20_000)
    assert fast.mean() == pytest.approx(outcomes.mean(), abs=0.01)
    assert fast.var() == pytest.approx(looped_bootstrap(outcomes, 8_000, rng), rel=0.06)


def test_the_closed_form_agrees_with_the_hierarchical_bootstrap_where_seeds_are_many():
    # With many seeds and items neither the bias of the bootstrap nor Student's tails matter.
    rng = np.random.default_rng(5)
    delta = rng.normal(0.1, 0.1, (60, 1)) + rng.normal(0, 0.3, (1, 300))
    delta = delta + rng.normal(0, 0.3, (60, 300))
    spread = spread_of(delta)
    half = stats.t.isf(0.025, spread.df) * spread.error
    low, high = bootstrap_interval(delta, draws=20_000)
    assert (low, high) == pytest.approx((spread.mean - half, spread.mean + half), abs=0.06 * half)


def test_with_three_seeds_the_percentile_interval_is_the_narrower_one():
    rng = np.random.default_rng(6)
    delta = rng.normal(0, 0.1, (3, 1)) + rng.normal(0, 0.2, (3, 80))
    spread = spread_of(delta)
    half = stats.t.isf(0.025, spread.df) * spread.error
    low, high = bootstrap_interval(delta)
    assert high - low < 0.7 * 2 * half


def test_two_seeds_are_judged_by_the_spread_over_seeds_not_by_counting_flips():
    # Every flip is upwards, so that a sign test over all of them would be sure of it.
    a, b = np.zeros((2, 40)), np.zeros((2, 40))
    a[0, :30], a[1, :2] = 1, 1
    found = paired_difference(a, b)
    spread = spread_of(a - b)
    assert found.p == pytest.approx(2 * stats.t.sf(spread.mean / spread.error, spread.df))
    assert found.p > 0.1
    assert stats.binomtest(32, 32).pvalue < 1e-8


@settings(max_examples=200)
@given(binary)
def test_seeds_on_the_same_items_never_count_as_more_answers_than_there_are(pair):
    outcomes = pair[0]
    interval = mean_interval(outcomes)
    answers = stats.binomtest(int(outcomes.sum()), outcomes.size).proportion_ci()
    assert interval.low <= answers.low + 1e-9
    assert interval.high >= answers.high - 1e-9

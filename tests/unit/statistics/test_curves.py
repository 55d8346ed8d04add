"""Areas under learning curves: by hand, and against scipy's own paired test."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from nuggets.statistics.curves import area_interval, compare_areas, curve_area, curve_band
from nuggets.statistics.intervals import mean_interval


def test_the_area_is_the_mean_height_by_hand():
    # 0 → 1 over ten steps, then 1 for thirty: (5 + 30) / 40
    assert curve_area([(0, 0.0), (10, 1.0), (40, 1.0)]) == pytest.approx(35 / 40)
    assert curve_area([(200, 0.4)]) is None
    assert curve_area([(0, 0.1), (200, 0.4)]) is None, "of how early it learned nothing is known"


def test_the_area_over_seeds_has_students_interval():
    curves = [[(0, 0.0), (5, top / 2), (10, top)] for top in (0.2, 0.6, 0.8)]
    found = area_interval(curves, n_items=80, binary=False)
    expected = stats.ttest_1samp([0.1, 0.3, 0.4], 0).confidence_interval(0.95)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.n_seeds, found.n_items) == (3, 80)
    assert area_interval([*curves, [(0, 0.0)]], 80, False) is None


def test_areas_are_compared_by_the_paired_t_test_and_turned_for_losses():
    early = {s: [(0, 0.0), (10, v), (20, 1.0)] for s, v in enumerate((0.5, 0.7, 0.6, 0.9))}
    late = {s: [(0, 0.0), (10, v), (20, 1.0)] for s, v in enumerate((0.1, 0.2, 0.4, 0.3))}
    curves, family = {"early": early, "late": late}, [("early", "late")]
    (found,) = compare_areas(curves, family, True, 80)
    areas = [[curve_area(c) for c in side.values()] for side in (early, late)]
    assert found.p == pytest.approx(stats.ttest_rel(*areas).pvalue)
    assert found.interval.mean == pytest.approx((0.4 + 0.5 + 0.2 + 0.6) / 4 / 2)
    assert found.better
    (loss,) = compare_areas(curves, family, False, 80)
    assert loss.interval.mean == pytest.approx(-found.interval.mean)
    assert loss.worse


def test_areas_that_differ_by_rounding_alone_warn_nobody():
    near = np.nextafter(0.3, 1)
    flat = [[(step, value) for step in range(3)] for value in (0.3, near, 0.0)]
    curves = {"arm": {0: flat[0], 1: flat[1]}, "plain": {0: flat[2], 1: flat[2]}}
    found = compare_areas(curves, [("arm", "plain")], True, 10)[0]
    assert found.interval.low == pytest.approx(0.3)
    assert found.p < 1e-12


def test_curves_over_other_steps_or_of_one_seed_are_not_compared():
    a, b = ({s: [(0, 0.0), (end / 2, 0.5), (end, 1.0)] for s in (0, 1)} for end in (10, 5))
    assert compare_areas({"a": a, "b": b}, [("a", "b")], True, 10) == []
    assert compare_areas({"a": {0: a[0]}, "b": {0: a[0]}}, [("a", "b")], True, 10) == []


def test_the_area_of_right_answers_stays_within_0_and_1():
    curves = [[(0, 1.0), (5, (1 + top) / 2), (10, top)] for top in (0.9, 0.2)]
    free, held = (area_interval(curves, 80, binary) for binary in (False, True))
    assert free.high > 1
    assert free.low < 0
    assert (held.low, held.mean, held.high) == (0.0, free.mean, 1.0)


def answers(*rates, n_items=40):
    rng = np.random.default_rng(7)
    return (rng.random((len(rates), n_items)) < np.array(rates)[:, None]).astype(float)


def test_a_band_keeps_the_steps_that_all_seeds_recorded():
    band = curve_band([[(0, 0.1), (5, 0.4)], [(0, 0.3), (5, 0.4), (9, 1.0)]], answers(0.4, 0.5))
    assert [point[0] for point in band] == [0, 5]
    assert band[0][1] == pytest.approx(0.2)


@pytest.mark.parametrize("start", [(0.0, 0.0, 0.0), (0.02, 0.0, 0.05), (1.0, 1.0, 0.97)])
def test_a_band_of_right_answers_stays_within_0_and_1_and_holds_its_mean(start):
    outcomes = answers(0.9, 0.4, 0.99)
    curves = [[(0, a), (10, b)] for a, b in zip(start, outcomes.mean(axis=1), strict=True)]
    for _, mean, low, high in curve_band(curves, outcomes):
        assert 0 <= low <= mean <= high <= 1
        assert high > low


def test_where_the_seeds_have_their_final_values_the_band_is_the_bars_interval():
    outcomes = answers(0.3, 0.5, 0.6, 0.4)
    ends = outcomes.mean(axis=1)
    bar = mean_interval(outcomes)
    # With all seeds mirrored about one half, p(1 − p) and the spread of seeds are the same.
    curves = [[(5, 1 - end), (10, end)] for end in ends]
    mirrored, last = curve_band(curves, outcomes)
    assert last[1:] == pytest.approx((bar.mean, bar.low, bar.high))
    assert mirrored[1:] == pytest.approx((1 - bar.mean, 1 - bar.high, 1 - bar.low))


def test_seeds_that_end_without_a_spread_count_as_if_they_answered_alike():
    ones = np.ones((3, 40))
    start, end = curve_band([[(0, 0.5), (10, 1.0)]] * 3, ones)
    alone = mean_interval([[0.0, 1.0] * 20])  # 20 of 40 items, one seed
    assert start[2:] == pytest.approx((alone.low, alone.high), abs=0.01)
    bar = mean_interval(ones)
    assert end[1:] == pytest.approx((bar.mean, bar.low, bar.high))

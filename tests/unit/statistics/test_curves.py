"""Areas under learning curves: by hand, and against scipy's own paired test."""

from __future__ import annotations

import pytest
from scipy import stats

from nuggets.statistics.curves import area_interval, compare_areas, curve_area, curve_band


def test_the_area_is_the_mean_height_by_hand():
    # 0 → 1 over ten steps, then 1 for thirty: (5 + 30) / 40
    assert curve_area([(0, 0.0), (10, 1.0), (40, 1.0)]) == pytest.approx(35 / 40)
    assert curve_area([(200, 0.4)]) is None


def test_the_area_over_seeds_has_students_interval():
    curves = [[(0, 0.0), (10, top)] for top in (0.2, 0.6, 0.8)]
    found = area_interval(curves, n_items=80)
    expected = stats.ttest_1samp([0.1, 0.3, 0.4], 0).confidence_interval(0.95)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.n_seeds, found.n_items) == (3, 80)
    assert area_interval([*curves, [(0, 0.0)]], 80) is None


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


def test_curves_over_other_steps_or_of_one_seed_are_not_compared():
    a = {0: [(0, 0.0), (10, 1.0)], 1: [(0, 0.0), (10, 1.0)]}
    b = {0: [(0, 0.0), (5, 1.0)], 1: [(0, 0.0), (5, 1.0)]}
    assert compare_areas({"a": a, "b": b}, [("a", "b")], True, 10) == []
    assert compare_areas({"a": {0: a[0]}, "b": {0: a[0]}}, [("a", "b")], True, 10) == []


def test_a_band_keeps_the_steps_that_all_seeds_recorded():
    band = curve_band([[(0, 0.1), (5, 0.4)], [(0, 0.3), (5, 0.4), (9, 1.0)]])
    assert [point[0] for point in band] == [0, 5]
    assert band[0][1] == pytest.approx(0.2)
    assert band[1][1:] == (0.4, 0.4, 0.4)

"""Calibration on a pool of identical arms: draws, planted effects, rates with known truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from nuggets.errors import BadInput
from nuggets.statistics.calibration import _rate, calibrate, draw_groups, judge, plant


def pool_of(n_pool, n_items, rng, seed_sd=0.05):
    rates = np.clip(rng.normal(0.4, seed_sd, (n_pool, 1)), 0, 1)
    return (rng.random((n_pool, n_items)) < rates).astype(float)


def test_within_a_round_no_seed_comes_twice():
    draws = list(draw_groups(20, 3, 3, at_least=5, seed=0))
    assert len(draws) == 6
    for first, second in zip(draws[::2], draws[1::2], strict=True):
        both = np.concatenate([first.ravel(), second.ravel()])
        assert len(set(both.tolist())) == 18


def test_a_planted_effect_has_its_size_and_only_turns_wrong_answers_right():
    rng = np.random.default_rng(0)
    outcomes = (rng.random((5, 4000)) < 0.3).astype(float)
    planted = plant(outcomes, 0.2, rng)
    assert planted.mean() - outcomes.mean() == pytest.approx(0.2, abs=0.01)
    assert (planted >= outcomes).all()
    assert plant(np.ones((2, 3)), 0.2, rng).all()


def test_identical_arms_are_rarely_told_apart_and_a_large_effect_is_found():
    pool = pool_of(60, 60, np.random.default_rng(1))
    found = calibrate(pool.tolist(), task="t", arm="plain", n_seeds=(3,), comparisons=60)
    (design,) = found.designs
    assert found.passed
    assert design.helps.disjoint == 6
    assert design.helps.n == 60
    assert design.found["0.4"].value >= 0.8
    assert design.found["0.1"].value < design.found["0.4"].value
    assert design.percentile.value >= design.student.value
    assert design.located is not None
    assert design.located.value <= 0.1
    assert design.located.n == 60


def test_located_is_said_only_of_an_effect_over_the_location_control():
    pool = pool_of(6, 60, np.random.default_rng(3))
    nothing = np.zeros((3, 60))
    assert judge([nothing, pool[:3], nothing, pool[:3]])[0].location == "not_located"
    assert judge([nothing, pool[:3] + 1 - pool[:3], nothing, nothing])[0].location == "located"


def test_an_arm_against_itself_is_never_said_to_help():
    same = pool_of(3, 30, np.random.default_rng(2))
    verdict, differences = judge([same, same, same])
    assert verdict.kind == "no_difference"
    assert {d.interval.mean for d in differences} == {0.0}


def test_a_rate_has_the_clopper_pearson_interval_of_its_disjoint_comparisons():
    rate = _rate([True] * 5 + [False] * 95, disjoint=20)
    exact = stats.binomtest(1, 20).proportion_ci()
    assert (rate.value, rate.n) == (0.05, 100)
    assert (rate.low, rate.high) == pytest.approx((exact.low, exact.high))


def test_a_small_pool_is_refused_with_what_it_needs():
    with pytest.raises(
        BadInput, match="14 trained seeds; comparing three arms of 5 needs at least 15"
    ):
        calibrate(np.eye(14).tolist(), task="t", arm="plain")

"""How a learning rate is chosen: on simulated experiments with identical arms."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from benchmarks.tuning_simulation import RATES, SIZES, WAYS, Size, identical_arms, tuned_arm

FIXED, ONCE, THREE, OWN, OTHERS = WAYS


@cache
def found(way, size):
    return identical_arms(way, RATES, size, 300)


def test_a_rate_chosen_once_per_arm_tells_identical_arms_apart_and_more_seeds_make_it_worse():
    few, many = found(ONCE, SIZES[0])[0], found(ONCE, SIZES[2])[0]
    assert many >= 0.18  # nominal: .05
    assert many > few


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_a_rate_chosen_by_every_seed_itself_does_not(size):
    assert found(OWN, size)[0] <= 0.09
    assert found(FIXED, size)[0] <= 0.09


@pytest.mark.slow
def test_it_reaches_what_the_best_rate_fixed_beforehand_reaches():
    size = SIZES[2]
    best, once = RATES[2].mean, found(ONCE, size)[1]
    assert found(FIXED, size)[1] == pytest.approx(best, abs=0.02)
    assert found(OWN, size)[1] >= best - 0.01
    assert once <= best - 0.02


@pytest.mark.slow
def test_three_tuning_seeds_lie_between():
    size = SIZES[2]
    assert found(OWN, size)[0] < found(THREE, size)[0] < found(ONCE, size)[0]


@pytest.mark.parametrize("way", WAYS)
def test_a_seeds_answers_are_those_of_one_rate_and_to_the_shared_items(way):
    rates = tuple(rate._replace(mean=mean, seed_sd=0.0, item_sd=0.0)
                  for rate, mean in zip(RATES, (0.0, 0.0, 1.0), strict=True))  # fmt: skip
    rng = np.random.default_rng(0)
    arm = tuned_arm(way, rates, Size(4, 30, 10), rng.normal(size=30), rng)
    assert arm.shape == (4, 30)
    assert arm.all()  # the third rate is the best by any way

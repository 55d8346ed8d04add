"""Calibration on pools of identical arms: draws, planted effects, rates with known truth."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
from scipy import stats

from nuggets.errors import BadInput
from nuggets.statistics import calibration
from nuggets.statistics.calibration import (
    CLAIMS,
    calibrate,
    draw_groups,
    judge,
    n_disjoint,
    plant,
)
from nuggets.statistics.cells import Trial
from nuggets.statistics.error_rates import (
    BOUNDED,
    FALSE,
    Calibration,
    rate_of,
    together,
)
from nuggets.statistics.simulation import Truth, simulate, truth_of


def pool_of(n_pool, n_items, rng, seed_sd=0.05):
    rates = np.clip(rng.normal(0.4, seed_sd, (n_pool, 1)), 0, 1)
    return (rng.random((n_pool, n_items)) < rates).astype(float)


@cache
def calibrated(n_pool=60, seed=1, **changes):
    pool = pool_of(n_pool, 50, np.random.default_rng(seed))
    options = {"n_seeds": (3,), "comparisons": 60} | changes
    return calibrate(pool.tolist(), task="t", arm="plain", student="s", **options)


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
    (design,) = calibrated().designs
    for name in FALSE:
        rate = getattr(design, name)
        assert rate.n == 60
        assert rate.disjoint == n_disjoint(60, 3, name) == (6 if name == "helps" else 10)
        assert rate.value <= 0.1 or name in ("student", "percentile")
    assert design.found["0.4"].value >= 0.8
    assert design.found["0.1"].value < design.found["0.4"].value
    assert design.not_located["0.4"].value <= 0.2
    assert design.not_located["0.1"].value > design.not_located["0.4"].value
    assert design.percentile.value >= design.student.value


def test_a_difference_is_planted_only_where_so_many_answers_are_wrong():
    almost = np.ones((15, 40))
    almost[:, :6] = 0  # .15 are wrong
    found = calibrate(almost.tolist(), task="t", arm="plain", n_seeds=(3,), comparisons=5)
    assert set(found.designs[0].found) == set(found.designs[0].not_located) == {"0.1"}


@pytest.mark.parametrize(
    ("claim", "better", "worse"),
    [
        ("helps", "helps", "hurts"),
        ("helps_without_controls", "helps", "hurts"),
        ("hurts", "helps", "hurts"),
        ("same_as_controls", "same_as_controls", "hurts"),
    ],
)
def test_nothing_but_the_baseline_decides_the_first_question(claim, better, worse):
    rng = np.random.default_rng(3)
    low, high = (simulate(Truth(mean, 0.02, 0.1), 3, rng.normal(size=60), rng)
                 for mean in (0.1, 0.9))  # fmt: skip
    extra = (low,) * (CLAIMS[claim].groups - 2)
    assert judge(CLAIMS[claim].arms(low, high, *extra))[0].kind == better
    assert judge(CLAIMS[claim].arms(high, low, *extra))[0].kind == worse


def test_located_is_said_only_of_an_effect_over_the_location_control():
    pool = pool_of(6, 60, np.random.default_rng(3)) * 0 + [1.0, 0.0] * 30
    arms = CLAIMS["located"].arms
    assert judge(arms(pool[:3], pool[3:]))[0].location == "not_located"
    assert judge(arms(pool[:3], np.ones((3, 60))))[0].location == "located"
    # However few answers are right, nothing but the location control can prevent it.
    assert judge(arms(np.zeros((3, 60)), np.zeros((3, 60))))[0].kind == "helps"


def test_an_arm_against_itself_is_never_said_to_help():
    same = pool_of(3, 30, np.random.default_rng(2))
    verdict, differences = judge([same, same, same])
    assert verdict.kind == "no_difference"
    assert {d.interval.mean for d in differences} == {0.0}


def test_a_rate_has_the_clopper_pearson_interval_of_its_disjoint_comparisons():
    rate = rate_of(0.05, 100, disjoint=20)
    exact = stats.binomtest(1, 20).proportion_ci()
    assert (rate.value, rate.n) == (0.05, 100)
    assert (rate.low, rate.high) == pytest.approx((exact.low, exact.high))
    for value, hits in ((0.0, 0), (1.0, 20)):
        exact = stats.binomtest(hits, 20).proportion_ci()
        edge = rate_of(value, 100, disjoint=20)
        assert (edge.low, edge.high) == pytest.approx((exact.low, exact.high))


def test_a_small_pool_is_refused_with_what_it_needs():
    with pytest.raises(
        BadInput, match="14 trained seeds; comparing three arms of 5 needs at least 15"
    ):
        calibrate(np.eye(14).tolist(), task="t", arm="plain")


@pytest.mark.slow
def test_disjoint_comparisons_of_several_pools_are_added_up():
    one, two = calibrated(), calibrated(n_pool=90, seed=2)
    both = together([one, two])
    (first,), (second,), (sum_,) = one.designs, two.designs, both.designs
    assert (both.n_pool, both.task, both.student) == (150, "t", "s")
    assert both.pools == both.every_pool == [one, two]
    assert one.every_pool == [one]
    for name in FALSE:
        rates = [getattr(design, name) for design in (first, second)]
        found = getattr(sum_, name)
        assert found.n == sum(rate.n for rate in rates)
        assert found.disjoint == sum(rate.disjoint for rate in rates)
        said = sum(rate.value * rate.disjoint for rate in rates)
        assert found.value == pytest.approx(said / found.disjoint)
        assert found.high < max(rate.high for rate in rates)
    assert sum_.planned == pytest.approx((first.planned + second.planned) / 2)
    assert sum_.found["0.2"].disjoint == 6 + 10
    assert sum_.not_located["0.2"].disjoint == 10 + 15


def with_rate(name, value, disjoint=400, size=3):
    """A calibration in which nothing false is said but one claim, at a rate."""
    nothing = rate_of(0.0, 400, disjoint)
    rates = dict.fromkeys(FALSE, nothing) | {name: rate_of(value, 400, disjoint)}
    (design,) = calibrated().designs
    return design.model_copy(update=rates | {"n_seeds": size})


@pytest.mark.parametrize("name", BOUNDED)
def test_a_calibration_passes_only_if_the_bound_of_every_false_claim_is_within_5_percent(name):
    def passed(value, disjoint):
        design = with_rate(name, value, disjoint)
        return calibrated().model_copy(update={"designs": [design]}).passed

    assert passed(0.02, 400)
    assert not passed(0.04, 400)  # the rate is within, its bound is not
    assert not passed(0.0, 70)  # no event, but too few comparisons to tell
    assert passed(0.0, 80)


def test_one_number_of_seeds_may_make_a_claim_where_a_smaller_one_may_not():
    good, bad = with_rate("hurts", 0.0, size=5), with_rate("hurts", 0.2, size=3)
    found = calibrated().model_copy(update={"designs": [bad, good]})
    assert (bad.allowed, good.allowed) == (False, True)
    assert (found.passed, found.least_seeds) == (False, 5)
    worse = found.model_copy(update={"designs": [good, bad.model_copy(update={"n_seeds": 8})]})
    assert worse.least_seeds is None
    every = [good.model_copy(update={"n_seeds": 3}), good]
    assert found.model_copy(update={"designs": every}).least_seeds == 3


def test_simulated_seeds_have_the_pools_mean_and_spreads():
    rng = np.random.default_rng(5)
    truth = Truth(0.3, 0.12, 0.15)
    again = truth_of(simulate(truth, 2000, rng.normal(size=400), rng))
    assert again.mean == pytest.approx(0.3, abs=0.02)
    assert again.seed_sd == pytest.approx(0.12, abs=0.01)
    assert again.item_sd == pytest.approx(0.15, abs=0.02)
    assert simulate(Truth(1.0, 0.0, 0.0), 2, np.zeros(3), rng).tolist() == [[1.0] * 3] * 2


@pytest.mark.slow
def test_simulated_comparisons_stand_beside_the_measured_ones(monkeypatch):
    asked = []

    def spied(truth, n_seeds, items, generator):
        asked.append((truth, n_seeds, len(items)))
        return simulate(truth, n_seeds, items, generator)

    monkeypatch.setattr(calibration, "simulate", spied)
    found = calibrated(simulated=60)
    pool = pool_of(60, 50, np.random.default_rng(1))
    assert asked == [(truth_of(pool), 60 * 3 * 3, 50)]  # 60 comparisons of 3 arms share no seed
    (design,), (simulated,) = found.designs, found.simulated
    assert simulated.n_seeds == design.n_seeds
    assert simulated.student.disjoint >= 60
    assert simulated.student.value <= 0.15
    assert not simulated.found
    assert together([found, found]).simulated[0].student.disjoint >= 120


def test_every_rate_has_what_all_seeds_did_with_it_and_how_many_kept_it():
    def tried(*values):
        return [
            Trial(lr=lr, value=v, loss=1.0) for lr, v in zip((0.01, 0.002), values, strict=True)
        ]

    pool = pool_of(15, 50, np.random.default_rng(8))
    options = {"task": "t", "arm": "plain", "n_seeds": (3,), "comparisons": 3}
    trials = [tried(0.2, 0.1)] * 7 + [tried(0.3, 0.4)] * 7 + [tried(None, 0.4)]
    found = calibrate(pool, kept=[0.01] * 7 + [0.002] * 8, trials=trials, **options)
    small, large = found.rates
    assert (small.learning_rate, small.n_kept, large.learning_rate, large.n_kept) == (
        0.002, 8, 0.01, 7,
    )  # fmt: skip
    assert small.mean == pytest.approx((7 * 0.1 + 8 * 0.4) / 15)
    assert small.seed_sd == pytest.approx(np.std([0.1] * 7 + [0.4] * 8, ddof=1))
    assert large.mean == pytest.approx(0.25)
    assert found.item_sd == truth_of(pool).item_sd > 0
    (fixed,) = calibrate(pool, kept=[0.01] * 15, **options | {"trials": [[]] * 15}).rates
    assert (fixed.n_kept, fixed.mean) == (15, pytest.approx(pool.mean()))
    assert fixed.seed_sd == pytest.approx(pool.mean(axis=1).std(ddof=1))
    assert calibrate(pool, **options).rates == []


def test_true_spreads_leave_out_the_chance_in_single_answers_by_hand():
    # Rows .25 and .75 of four items. Squares about the mean, .5: seeds .25 · .25 · 8 = .5, items
    # 0 of [.5, .5, .5, .5], the rest 1.5 with three degrees of freedom: .5.
    outcomes = np.array([[1.0, 0, 0, 0], [0, 1.0, 1.0, 1.0]])
    mean, seed_sd, item_sd = truth_of(outcomes)
    assert mean == 0.5
    assert seed_sd == pytest.approx((0.125 - 0.5 / 4) ** 0.5)
    assert item_sd == 0
    # Seeds .5 apart with the same items: rest 0, seeds' variance .125, items' that of 0, 0, .5, 1.
    outcomes = np.array([[0.0, 0, 0, 1.0], [0, 0, 1.0, 1.0]])
    mean, seed_sd, item_sd = truth_of(outcomes)
    rest = sum((outcomes - outcomes.mean(1)[:, None] - outcomes.mean(0) + mean).ravel() ** 2) / 3
    assert seed_sd**2 == pytest.approx(max(0.5 * 0.25**2 - rest / 4, 0))
    assert item_sd**2 == pytest.approx(np.var([0, 0, 0.5, 1.0], ddof=1) - rest / 2)


def test_a_calibration_of_0_1_can_still_be_read():
    designs = [design.model_dump() for design in calibrated().designs]
    for design in designs:
        for field in ("same_as_controls", "located", "not_located"):
            del design[field]
    whole = calibrated().model_dump()
    old = {k: whole[k] for k in ("task", "arm", "metric", "n_pool", "n_items", "mean", "seed_sd")}
    found = Calibration.model_validate_json(json.dumps(old | {"designs": designs}))
    assert found.edition == 1
    assert found.designs[0].bound > 0

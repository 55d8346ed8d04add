"""Calibration on pools of identical arms: draws, planted effects, rates with known truth."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
from scipy import stats

from nuggets import api
from nuggets.errors import BadInput
from nuggets.recipe import anchored, load_recipe
from nuggets.statistics.calibration import (
    CLAIMS,
    calibrate,
    draw_groups,
    judge,
    n_disjoint,
    plant,
)
from nuggets.statistics.error_rates import (
    BOUNDED,
    FALSE,
    Calibration,
    rate_of,
    together,
    upper_bound,
)
from nuggets.statistics.report import CellOutcome
from nuggets.statistics.simulation import Truth, simulate, truth_of
from nuggets.studies.calibrating import (
    GRID,
    POOLS,
    calibration_markdown,
    calibration_plan,
    pool_recipes,
)


def pool_of(n_pool, n_items, rng, seed_sd=0.05):
    rates = np.clip(rng.normal(0.4, seed_sd, (n_pool, 1)), 0, 1)
    return (rng.random((n_pool, n_items)) < rates).astype(float)


@cache
def calibrated(n_pool=60, seed=1, **changes):
    pool = pool_of(n_pool, 60, np.random.default_rng(seed))
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


def test_simulated_comparisons_stand_beside_the_measured_ones():
    found = calibrated(simulated=60)
    (design,), (simulated,) = found.designs, found.simulated
    assert simulated.n_seeds == design.n_seeds
    assert simulated.student.disjoint >= 60
    assert simulated.student.value <= 0.15
    assert not simulated.found
    assert together([found, found]).simulated[0].student.disjoint >= 120


def test_the_pools_are_the_recipe_quick_on_two_skills_and_students_with_tuned_rates():
    quick, recipes = load_recipe("quick"), pool_recipes(20)
    assert {(r.data.task, r.student) for r in recipes} == {
        (task, student) for task in ("reverse", "sub") for student in ("independent", "sibling")
    }
    for recipe in recipes:
        assert recipe.train.lr_grid == GRID
        assert recipe.seeds == tuple(range(20))
        assert [arm.name for arm in recipe.arms] == ["plain"]
        for field in ("steps", "batch_size", "schedule"):
            assert getattr(recipe.train, field) == getattr(quick.train, field)
        assert (recipe.data.n_test, recipe.lora) == (quick.data.n_test, quick.lora)


def test_what_the_pools_can_show_is_said_before_they_are_trained():
    said = calibration_plan(600)
    assert "7200, about 2.5 hours on one core" in said
    # 5 seeds: 600 // 10 comparisons of two arms in each of four pools, 600 // 15 of three
    assert f"| 5 seeds, two arms | 240 | {1 - 0.025 ** (1 / 240):.3f} |" in said
    assert f"| 5 seeds, three arms | 160 | {upper_bound(0, 160):.3f} |" in said
    assert upper_bound(0, 160) <= 0.05


@pytest.fixture(scope="module")
def home_with_runs(tmp_path_factory):
    """The finished runs of four small pools, their answers drawn, and the home they lie in."""
    home = tmp_path_factory.mktemp("pools")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUGGETS_HOME", str(home))
        return home, _made()


@pytest.fixture
def runs(home_with_runs, monkeypatch):
    home, made = home_with_runs
    monkeypatch.setenv("NUGGETS_HOME", str(home))
    return made


def _made():
    rng = np.random.default_rng(6)
    made = []
    for recipe in pool_recipes(15):
        run = api.create(anchored(recipe))
        items = [f"item-{n}" for n in range(20)]
        for seed, answers in zip(recipe.seeds, pool_of(15, 20, rng), strict=True):
            cell = CellOutcome(
                arm="plain", role="baseline", seed=seed, items=items,
                outcomes={"exact_match": answers.tolist()}, learning_rate=GRID[seed % 2],
            )  # fmt: skip
            folder = run.folder / "artifacts" / "cells" / f"plain-{seed}"
            folder.mkdir(parents=True)
            (folder / "cell.json").write_text(cell.model_dump_json())
        made.append(run)
    return made


def test_the_report_of_four_pools_says_how_many_seeds_may_make_a_claim(runs, tmp_path):
    found, text = api.calibration(runs, comparisons=4)
    assert [(p.task, p.student) for p in found.pools] == [(p.task, p.student) for p in POOLS]
    assert [(r.learning_rate, r.n_kept) for r in found.pools[0].rates] == [
        (GRID[0], 8),
        (GRID[1], 7),
    ]
    assert not found.passed  # so few seeds show nothing
    assert "So a claim needs more seeds than were measured here." in text
    assert "NOT all false claims are shown" in text
    assert "reverse, sibling | 15 | 20 |" in text
    assert "0.0025: 8, 0.005: 7" in text
    assert "3 seeds, simulated" in text
    assert calibration_plan(15) in text
    api.save_calibration(found, text, tmp_path)
    assert (tmp_path / "calibration.md").read_text() == text
    assert Calibration.model_validate_json((tmp_path / "calibration.json").read_text()) == found


def test_a_simulated_rate_outside_the_measured_interval_is_said(runs):
    design = with_rate("located", 0.02, disjoint=150)
    found = calibrated().model_copy(update={"designs": [design], "simulated": [design]})
    assert "Every simulated rate lies within" in calibration_markdown(found, runs, "c")
    other = with_rate("located", 0.10, disjoint=150)
    found = found.model_copy(update={"simulated": [other]})
    said = calibration_markdown(found, runs, "c")
    assert "outside the measured intervals for “located”, beside an identical location" in said
    assert "(3 seeds)." in said


def test_a_run_of_ones_own_is_calibrated_alone(runs):
    found, text = api.calibration(runs[:1], comparisons=4)
    assert (found.task, found.student, found.pools) == ("reverse", "independent", [])
    assert f"nuggets calibrate {runs[0].id} --arm plain --comparisons 4" in text
    assert "Written before it ran" not in text
    with pytest.raises(BadInput, match="no finished seed of the arm 'paper'"):
        api.calibration(runs[:1], "paper")


def test_the_command_calibrates_a_run_of_ones_own_and_writes_its_report(runs, nuggets, tmp_path):
    found = nuggets("calibrate", runs[1].id, "--comparisons", 4, "--out", tmp_path / "c", "--json")
    assert found.code == 0
    written = json.loads((tmp_path / "c" / "calibration.json").read_text())
    assert found.json == written
    assert (written["task"], written["student"]) == ("reverse", "sibling")
    assert [design["n_seeds"] for design in written["designs"]] == [3, 5]


def test_the_command_says_what_it_will_do_before_it_trains(nuggets, monkeypatch):
    def stop(*_):
        raise BadInput("Stopped before training.")

    monkeypatch.setattr(api, "calibration_runs", stop)
    found = nuggets("calibrate", "--pool", 20)
    assert found.code == 2
    assert "Stopped before training." in found.err
    assert " ".join(calibration_plan(20).split()) in " ".join(found.err.split())


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
    assert api.lessons.calibration().designs

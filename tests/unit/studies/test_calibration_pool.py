"""Calibrating on four pools of real runs: recipes, the plan before, the report, the command."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nuggets import api
from nuggets.errors import BadInput
from nuggets.recipe import anchored, load_recipe
from nuggets.statistics.cells import CellOutcome, Trial
from nuggets.statistics.error_rates import Calibration, rate_of, upper_bound
from nuggets.studies.calibrating import (
    GRID,
    POOLS,
    calibration_markdown,
    calibration_plan,
    pool_recipes,
)


def pool_of(n_pool, n_items, rng):
    rates = np.clip(rng.normal(0.4, 0.05, (n_pool, 1)), 0, 1)
    return (rng.random((n_pool, n_items)) < rates).astype(float)


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
                trials=[Trial(lr=lr, value=0.1 * n, loss=1.0) for n, lr in enumerate(GRID, 1)],
            )  # fmt: skip
            folder = run.folder / "artifacts" / "cells" / f"plain-{seed}"
            folder.mkdir(parents=True)
            (folder / "cell.json").write_text(cell.model_dump_json())
        made.append(run)
    return made


def test_the_report_of_four_pools_says_how_many_seeds_may_make_a_claim(runs, tmp_path):
    found, text = api.calibration(runs, comparisons=4)
    assert [(p.task, p.student) for p in found.pools] == [(p.task, p.student) for p in POOLS]
    rates = [(rate.learning_rate, rate.n_kept) for rate in found.pools[0].rates]
    assert rates == [(GRID[0], 8), (GRID[1], 7), (GRID[2], 0)]
    assert not found.passed  # so few seeds show nothing
    assert "So a claim needs more seeds than were measured here." in text
    assert "NOT all false claims are shown" in text
    assert "reverse, sibling | 15 | 20 |" in text
    assert "0.0025: 0.100 ± 0.000, 8; 0.005: 0.200 ± 0.000, 7; 0.01: 0.300" in text
    assert "3 seeds, simulated" in text
    assert calibration_plan(15) in text
    api.save_calibration(found, text, tmp_path)
    assert (tmp_path / "calibration.md").read_text() == text
    assert Calibration.model_validate_json((tmp_path / "calibration.json").read_text()) == found


def test_a_simulated_rate_outside_the_measured_interval_is_said(runs):
    found, _ = api.calibration(runs[:1], comparisons=4)
    measured = [d.model_copy(update={"located": rate_of(0.02, 400, 150)}) for d in found.designs]
    found = found.model_copy(update={"designs": measured, "simulated": measured})
    assert "Every simulated rate lies within" in calibration_markdown(found, runs, "c")
    other = [d.model_copy(update={"located": rate_of(0.10, 400, 150)}) for d in measured]
    found = found.model_copy(update={"simulated": [other[0], measured[1]]})
    said = calibration_markdown(found, runs, "c")
    assert (
        "Simulated rates lie outside the measured intervals for “located”, beside an identical "
        "location control (3 seeds)."
    ) in said


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


def test_the_shipped_calibration_can_be_read():
    assert api.lessons.calibration().designs

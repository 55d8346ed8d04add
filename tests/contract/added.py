"""Looks for what `test_one_class_one_line` added to a copy of the project; runs there alone."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from nuggets import api
from nuggets.cli.main import app
from nuggets.recipe import TransferRecipe
from nuggets.sweeps.recipe import parse_sweep_text
from nuggets.ui.benchmarks import evaluate as evaluate_part
from nuggets.ui.frame import shell
from tests.app.conftest import ROOT

KINDS = ("added_score", "added_layers", "added_matrices", "added_arm", "added_benchmark")


def test_forms_offer_it(open_page):
    at = open_page("transfer")
    for key in ("score", "layers", "matrices"):
        assert f"added_{key}" in at.selectbox(key=key).options
    assert "added_arm" in at.multiselect(key="content").options
    assert "added_benchmark" in evaluate_part.KINDS
    assert "added" in at.selectbox(key="task").options


def test_the_form_of_sweeps_offers_it(open_page):
    at = open_page("sweeps", sampler="added_sampler", objective="added_objective")
    assert at.selectbox(key="sampler").value == "added_sampler"
    sweep = parse_sweep_text(next(part.value for part in at.code if "job: sweep" in part.value))
    assert (sweep.sampler, sweep.objective) == ("added_sampler", ("added_objective",))


def test_fields_are_controls_that_reach_the_recipe(open_page):
    link = {"score": "added_score", "score_power": "3.5", "matrices": "added_matrices",
            "layers": "added_layers", "layers_end": "last", "content": "added_arm"}  # fmt: skip
    at = open_page("transfer", **link)
    recipe = api.load_job(next(part.value for part in at.code if part.language == "yaml"))
    assert recipe.sensitivity.score.model_dump() == {"kind": "added_score", "power": 3.5}
    assert recipe.extraction.layers.model_dump() == {"kind": "added_layers", "end": "last"}
    assert recipe.extraction.matrices.kind == "added_matrices"
    assert "added_arm" in [arm.kind for arm in recipe.arms]
    assert api.load_job(api.dump_job(recipe)) == recipe


def test_the_schema_has_it():
    schema = json.dumps(TransferRecipe.model_json_schema())
    assert all(kind in schema for kind in KINDS)


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("sensitivity --help", {"added_score", "added_matrices"}),
        ("evaluate --help", {"added_benchmark"}),
        ("sweep --help", {"added_sampler", "added_objective"}),
        ("recipes --schema", set(KINDS)),
    ],
)
def test_the_command_line_tells_of_it(command, named):
    said = CliRunner().invoke(app, command.split()).stdout
    assert {name for name in named if name in said} == named


def test_the_router_has_every_page(open_page):
    at = open_page("added")
    assert at.title[0].value == "Added"
    files = {file.stem for file in (ROOT / "pages").glob("*.py")}
    assert set(at.session_state[shell.PAGES]) == files


def test_a_lesson_and_an_experiment_are_shown(open_page):
    assert open_page("learn", chapter="added").title[0].value == "Learn · 1 Added"
    assert "added" in open_page("paper").selectbox(key="experiment").options
    assert [run.name for run in api.open_study("added").runs] == ["2", "4", "8", "16"]


def test_a_skill_draws_samples():
    sample = api.skills()["added"]
    assert sample.example == ("added a", "a")

"""The Benchmarks page: no run, an unfinished run, a report, items, hostile text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from nuggets import api
from nuggets.recipe import TransferRecipe, load_recipe
from tests.app.conftest import HOSTILE, rendered, shown
from tests.app.measured import ARMS, write_benchmark, write_models

Open = Callable[..., AppTest]


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_models(tmp_path / "pairs")
    monkeypatch.setenv("NUGGETS_ASSETS", str(tmp_path / "pairs"))


@pytest.fixture
def recipe(tmp_path: Path) -> TransferRecipe:
    pair = {"teacher": tmp_path / "pairs" / "teacher", "student": tmp_path / "pairs" / "sibling"}
    return load_recipe("quick", ["lora.r=2", *(f"{who}={folder}" for who, folder in pair.items())])


def figures(at: AppTest) -> list[dict[str, Any]]:
    """All figures on the page, in order."""
    return [json.loads(chart.proto.spec) for chart in at.get("plotly_chart")]


def test_without_a_transfer_it_says_where_to_go(open_page: Open) -> None:
    at = open_page("benchmarks")
    assert at.subheader[0].value == "No transfer has finished yet"


def test_finished_transfers_are_offered_with_their_verdict(
    open_page: Open, recipe: TransferRecipe
) -> None:
    run = write_benchmark(recipe)
    report = api.report(run)
    assert report is not None
    at = open_page("benchmarks")
    assert report.verdict.sentence in shown(at)
    at.button(key=f"show-{run.id}").click().run()
    assert at.selectbox(key="run").value == run.id
    assert len(figures(at)) == 4


def test_an_unfinished_run_is_followed(open_page: Open, recipe: TransferRecipe) -> None:
    run = api.create(recipe)
    at = open_page("benchmarks", run=run.id)
    assert "no report yet" in shown(at)
    assert not figures(at)


def test_verdict_arms_and_differences_are_those_of_the_report(
    open_page: Open, recipe: TransferRecipe
) -> None:
    run = write_benchmark(recipe)
    report = api.report(run)
    assert report is not None
    at = open_page("benchmarks", run=run.id)
    assert "No difference seen between paper and plain" in at.subheader[0].value
    assert report.rules in shown(at)
    bars = [t for t in figures(at)[0]["data"] if t["type"] == "bar"]
    names = {name for bar in bars for name in bar["y"]}
    assert names == set(report.arms)
    forest = [name for t in figures(at)[1]["data"] for name in t["y"]]
    assert sorted(forest) == sorted(f"{d.arm} − {d.versus}" for d in report.differences)
    assert shown(at).count(f"run {run.id}") == 6


def test_curves_can_be_limited_to_arms_by_address(open_page: Open, recipe: TransferRecipe) -> None:
    run = write_benchmark(recipe)
    at = open_page("benchmarks", run=run.id, curve_arms="paper")
    lines = [t["name"] for t in figures(at)[2]["data"] if t.get("name")]
    assert lines == ["paper"]


def test_items_show_both_answers_and_flips(open_page: Open, recipe: TransferRecipe) -> None:
    run = write_benchmark(recipe)
    at = open_page("benchmarks", run=run.id, arm="vanilla", against="permuted", seed="2")
    cells = {(c.arm, c.seed): c.outcomes["exact_match"] for c in api.cells(run)}
    a, b = cells["vanilla", 2], cells["permuted", 2]
    frame = at.dataframe[0].value
    assert frame["vanilla"].tolist() == ["yes" if x else "no" for x in a]
    assert frame["permuted"].tolist() == ["yes" if x else "no" for x in b]
    gained = sum(y > x for x, y in zip(a, b, strict=True))
    lost = sum(y < x for x, y in zip(a, b, strict=True))
    assert f"vanilla → permuted, seed 2: {gained} gained, {lost} lost of 40" in shown(at)
    at.toggle(key="flips").set_value(True).run()
    assert len(at.dataframe[0].value) == gained + lost


def test_budget_lists_every_arm(open_page: Open, recipe: TransferRecipe) -> None:
    run = write_benchmark(recipe)
    budget = open_page("benchmarks", run=run.id).dataframe[1].value
    assert budget["arm"].tolist() == [name for name, _, _ in ARMS]
    assert budget["trainable_parameters"].tolist() == [4096] * 4


def test_nonsense_in_the_address_falls_back(open_page: Open, recipe: TransferRecipe) -> None:
    run = write_benchmark(recipe)
    at = open_page("benchmarks", run=run.id, arm="x", against="<b>", seed="77", curve_arms="zzz")
    assert not at.exception
    assert at.selectbox(key="against").value == "paper"


def test_questions_are_never_read_as_markup(open_page: Open, recipe: TransferRecipe) -> None:
    run = write_benchmark(recipe, question=HOSTILE)
    at = open_page("benchmarks", run=run.id)
    assert at.dataframe[0].value["question"][0] == f"{HOSTILE} 0"
    assert HOSTILE not in rendered(at)


def test_a_damaged_report_is_one_sentence(open_page: Open, recipe: TransferRecipe) -> None:
    run = write_benchmark(recipe)
    (run.folder / "artifacts" / "report" / "report.json").write_text("{}")
    at = open_page("benchmarks", run=run.id)
    assert "cannot be read" in shown(at)

"""The Results page: no run, an unfinished run, a report, items, hostile text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from nuggets import api
from nuggets.recipe import TransferRecipe, load_recipe
from nuggets.studies.report import Panel, StudyReport
from nuggets.ui.charts.benchmarks import curves_frame
from tests.app.conftest import HOSTILE, rendered, shown
from tests.app.measured import ARMS, write_benchmark, write_models
from tests.app.test_page_alignment import decoded

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
    at = open_page("results")
    assert at.subheader[0].value == "No transfer has finished yet"


def test_finished_transfers_are_offered_with_their_verdict(
    open_page: Open, recipe: TransferRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "published_report", lambda name: None)
    run = write_benchmark(recipe)
    report = api.report(run)
    assert report is not None
    at = open_page("results")
    assert report.verdict.sentence in shown(at)
    at.button(key=f"show-{run.id}").click().run()
    assert at.selectbox(key="run").value == run.id
    assert len(figures(at)) == 3


def test_an_unfinished_run_is_followed(open_page: Open, recipe: TransferRecipe) -> None:
    run = api.create(recipe)
    at = open_page("results", run=run.id)
    assert "no report yet" in shown(at)
    assert not figures(at)


def test_verdict_arms_and_differences_are_those_of_the_report(
    open_page: Open, recipe: TransferRecipe
) -> None:
    run = write_benchmark(recipe)
    report = api.report(run)
    assert report is not None
    at = open_page("results", run=run.id)
    effect = next(d for d in report.differences if (d.arm, d.versus) == ("paper", "plain")).interval
    assert at.header[0].value.startswith("paper makes no detectable difference")
    assert f"{abs(effect.mean):.3f}" in at.header[0].value.replace("\\", "")
    assert report.verdict.sentence in shown(at)
    assert report.rules in shown(at)
    bars = [t for t in figures(at)[1]["data"] if t["type"] == "bar"]
    names = {name for bar in bars for name in bar["y"]}
    assert names == set(report.arms)
    assert sorted(forest(at, 0)) == sorted(
        f"over {d.versus}" for d in report.differences if d.arm == "paper"
    )
    assert sorted(forest(at, 2)) == sorted(f"{d.arm} − {d.versus}" for d in report.differences)
    assert len(report.differences) > 2
    assert run.id not in shown(at).replace(f"api.open_run('{run.id}')", "")


def forest(at: AppTest, place: int) -> list[str]:
    """The comparisons that a figure shows."""
    return [name for t in figures(at)[place]["data"] for name in t["y"]]


def test_what_could_have_been_detected_is_said_once_beside_what_was_planned(
    open_page: Open, recipe: TransferRecipe
) -> None:
    run = write_benchmark(recipe)
    report = api.report(run)
    assert report is not None
    (versus,) = [d for d in report.differences if (d.arm, d.versus) == ("paper", "plain")]
    at = open_page("results", run=run.id)
    assert versus.minimum_detectable is not None
    smallest = versus.minimum_detectable
    assert report.verdict.kind == "no_difference"
    assert report.planned is not None
    said = f"a difference of {smallest:.3f} would be detected 80 % of the time, as one of 2"
    assert said in report.verdict.sentence
    assert f"{smallest:.3f} to plain" not in shown(at)
    planned = f"Before the run, {report.planned.value:.3f} was expected to be detectable."
    assert f"{planned} {report.planned.basis}" in shown(at)


def test_a_plan_takes_rate_and_spread_of_seeds_from_a_finished_run(
    recipe: TransferRecipe, nuggets: Any
) -> None:
    run = write_benchmark(recipe)
    report = api.report(run)
    assert report is not None
    plain = report.arms["plain"]
    found = nuggets("power", "--like", run.id, "--seeds", 5, "--items", 80, "--json").json
    assert found["base_rate"] == plain.value
    at_half = np.std(plain.per_seed, ddof=1) / (4 * plain.value * (1 - plain.value))
    assert found["seed_sd"] == pytest.approx(at_half)
    assert found["source"] == f"measured by plain LoRA in {run.id}"
    assert nuggets("power", "--like", run.id, "--rate", 0.2, "--json").json["base_rate"] == 0.2
    without = write_benchmark(recipe, [("paper", "treatment", 0.5)])
    refused = nuggets("power", "--like", without.id)
    assert refused.code == 2
    assert "has no report in which plain LoRA" in refused.err


def test_curves_begin_with_the_arms_that_decide(open_page: Open, recipe: TransferRecipe) -> None:
    arms = [*ARMS, ("gaussian", "content_control", 0.9), ("pissa", "comparator", 0.6),
            ("random_window", "location_control", 0.5)]  # fmt: skip
    run = write_benchmark(recipe, arms)
    at = open_page("results", run=run.id, tab="Curves")
    lines = [t["name"] for t in figures(at)[1]["data"] if t.get("name")]
    assert lines == ["plain", "paper", "gaussian", "random window"]
    assert len(open_page("results", run=run.id).dataframe[0].value) == 7


def test_every_script_ends_in_what_is_plotted(
    open_page: Open,
    recipe: TransferRecipe,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = write_benchmark(recipe)
    report = api.report(run)
    assert report is not None
    scripts = [
        c.value
        for tab in ("Arms", "Curves", "Items", "Retention")
        for c in open_page("results", run=run.id, tab=tab).code
        if c.value.startswith("from nuggets") and run.id in c.value
    ]
    scripts = list(dict.fromkeys(scripts))
    monkeypatch.setattr(api, "run", lambda job: run if job == api.job_of(run) else None)
    said = []
    for script in scripts:
        exec(script, {})
        said.append(capsys.readouterr().out)
    assert len(said) == 6
    arm = report.arms["paper"]
    for text, each in (
        (said[0], str(report.differences[0].interval)),
        (said[1], f"paper {arm.value} {arm.interval} {arm.per_seed}"),
        (said[2], f"paper {arm.samples} {arm.steps}"),
        (said[3], f"paper {arm.curve}"),
        (said[4], "'question': 'q 0'"),
        (said[5], f"paper {arm.old_skills}"),
    ):
        assert each in text


def test_curves_can_be_limited_to_arms_by_address(open_page: Open, recipe: TransferRecipe) -> None:
    run = write_benchmark(recipe)
    at = open_page("results", run=run.id, tab="Curves", curve_arms="paper")
    lines = [t["name"] for t in figures(at)[1]["data"] if t.get("name")]
    assert lines == ["paper"]


def test_items_show_both_answers_and_flips(open_page: Open, recipe: TransferRecipe) -> None:
    run = write_benchmark(recipe)
    at = open_page("results", run=run.id, tab="Items", arm="vanilla", against="permuted",
                   seed="2")  # fmt: skip
    cells = {(c.arm, c.seed): c.outcomes["exact_match"] for c in api.cells(run)}
    a, b = cells["vanilla", 2], cells["permuted", 2]
    frame = at.dataframe[0].value
    changes = [0 if y > x else 1 if y < x else 2 for x, y in zip(a, b, strict=True)]
    order = sorted(range(40), key=lambda item: changes[item])  # flips first
    assert frame["question"].tolist() == [f"q {item}" for item in order]
    assert frame["vanilla outcome"].tolist() == ["right" if a[i] else "wrong" for i in order]
    assert frame["vanilla"].tolist() == ["yes" if a[i] else "no" for i in order]
    assert frame["permuted"].tolist() == ["yes" if b[i] else "no" for i in order]
    gained = sum(y > x for x, y in zip(a, b, strict=True))
    lost = sum(y < x for x, y in zip(a, b, strict=True))
    assert f"vanilla → permuted, seed 2: {gained} gained, {lost} lost of 40" in shown(at)
    at.toggle(key="flips").set_value(True).run()
    assert len(at.dataframe[0].value) == gained + lost


def test_budget_lists_every_arm(open_page: Open, recipe: TransferRecipe) -> None:
    run = write_benchmark(recipe)
    budget = open_page("results", run=run.id).dataframe[0].value
    assert budget["arm"].tolist() == [name for name, _, _ in ARMS]
    assert budget["parameters"].tolist() == ["4.10 k"] * 4
    assert budget["time"].tolist() == ["2.5 s"] * 4


def test_the_cross_task_matrix_says_how_to_get_it_and_starts_it(
    open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    monkeypatch.setattr(api, "start_study", lambda *given: started.append(given) or [])
    monkeypatch.setattr(api, "published_report", lambda name: None)
    at = open_page("results", student="sibling")
    command = "nuggets paper cross --set teacher=teacher --set student=sibling --out paper"
    assert command in shown(at)
    assert "Not measured yet: reverse, sub, king" in shown(at)
    at.button(key="run-cross").click().run()
    assert started == [("cross", ("teacher=teacher", "student=sibling"))]


def test_the_cross_task_matrix_is_that_of_the_study(
    open_page: Open, recipe: TransferRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_benchmark(recipe)
    report = api.report(run)
    assert report is not None
    panel = Panel(
        name="paper", x=None, run=run.id, task="reverse", teacher="teacher",
        student="independent", report=report, alternatives=[],
    )  # fmt: skip
    study = StudyReport(
        study=api.open_study("cross"), panels=[panel], findings=[f"Found {HOSTILE}."],
        missing=["sub"], command="", date="2026-01-01", seconds=1.0,
    )  # fmt: skip
    monkeypatch.setattr(api, "study_report", lambda name, changes=(): study)
    at = open_page("results")
    (figure,) = figures(at)
    arms = [arm.value for arm in report.arms.values() if arm.role != "reference"]
    assert decoded(figure["data"][0]["z"]) == [arms]
    assert f"Found {HOSTILE}." in shown(at)
    assert HOSTILE not in rendered(at)
    assert "Not measured yet: sub" in shown(at)


def test_for_models_of_ones_own_nothing_is_hashed_to_look_for_the_matrix(
    open_page: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(api, "study_report", lambda *given: pytest.fail("looked"))
    at = open_page("results", teacher=str(tmp_path / "pairs" / "teacher"))
    assert "nuggets paper cross --set teacher=/" in shown(at)


def test_nonsense_in_the_address_falls_back(open_page: Open, recipe: TransferRecipe) -> None:
    run = write_benchmark(recipe)
    at = open_page("results", run=run.id, tab="Items", arm="x", against="<b>", seed="77")
    assert not at.exception
    assert at.selectbox(key="against").value == "paper"


def test_questions_are_never_read_as_markup(open_page: Open, recipe: TransferRecipe) -> None:
    run = write_benchmark(recipe, question=HOSTILE)
    at = open_page("results", run=run.id, tab="Items")
    assert f"{HOSTILE} 0" in set(at.dataframe[0].value["question"])
    assert HOSTILE not in rendered(at)


def test_a_damaged_report_is_one_sentence(open_page: Open, recipe: TransferRecipe) -> None:
    run = write_benchmark(recipe)
    (run.folder / "artifacts" / "report" / "report.json").write_text("{}")
    at = open_page("results", run=run.id)
    assert "cannot be read" in shown(at)


def test_a_run_that_is_deleted_while_it_is_looked_at_is_one_sentence(
    recipe: TransferRecipe,
) -> None:
    """A part that is drawn again by itself has no page around it that would say so."""

    def script(run_id: str) -> None:
        import shutil

        from nuggets import api
        from nuggets.ui.benchmarks import report as parts

        run = api.open_run(run_id)
        report, origin = parts.report_of(run), parts.Origin(run)
        assert report is not None
        shutil.rmtree(run.folder)
        parts.answers(report, run, origin)

    run = write_benchmark(recipe)
    at = AppTest.from_function(script, args=(run.id,)).run()
    assert not at.exception
    assert run.id in shown(at)


def test_bands_stay_within_what_the_metric_can_be(recipe: TransferRecipe) -> None:
    report = api.report(write_benchmark(recipe))
    assert report is not None
    arm = report.arms["vanilla"]
    curve = ((30, 0.02, -0.1, 0.2), (60, 0.98, 0.9, 1.1))
    arms = {"vanilla": arm.model_copy(update={"curve": curve})}
    frame = curves_frame(report.model_copy(update={"arms": arms}))
    assert frame[["low", "high"]].to_numpy().tolist() == [[0.0, 0.2], [0.9, 1.0]]
    losses = report.model_copy(update={"arms": arms, "higher_is_better": False})
    assert curves_frame(losses)["high"].tolist() == [0.2, 1.1]

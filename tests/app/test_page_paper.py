"""Paper: the gallery, an experiment's results, starting what is missing, hostile text."""

from __future__ import annotations

from nuggets import api
from nuggets.ui.frame import safe
from tests.app.conftest import rendered, shown
from tests.app.measured import write_benchmark

EXPERIMENT = "layers"


def recipe():
    return api.study_recipes(api.open_study(EXPERIMENT))["all"]


def finished():
    arms = [(arm.name, arm.role, 0.4) for arm in recipe().arms]
    return write_benchmark(recipe(), arms)


def gallery(at):
    return at.table[0].value


def test_the_gallery_lists_every_experiment(open_page, monkeypatch):
    monkeypatch.setattr(api, "published_report", lambda name: None)
    frame = gallery(open_page("paper"))
    assert list(frame.index) == list(api.studies())
    assert set(frame["found"]) == {""}


def test_an_experiment_shows_its_findings_figure_table_and_the_papers_numbers(open_page):
    finished()
    at = open_page("paper", experiment=EXPERIMENT)
    report = api.study_report(EXPERIMENT)
    assert report is not None
    assert all(sentence in shown(at) for sentence in report.findings)
    assert report.study.paper.source in shown(at)
    frame = next(p.value for p in at.dataframe if "the paper's score" in p.value.columns)
    frame = frame.set_index("arm")
    assert frame.loc["sensitivity", "the paper's score"] == 28.22
    arm = report.panels[0].report.arms["sensitivity"]
    text = f"{arm.value:.3f} [{arm.interval[0]:.3f}, {arm.interval[1]:.3f}]"
    assert frame.loc["sensitivity", "exact match, 95 %"] == text
    assert frame.loc["plain", "minus plain LoRA, 95 %"] == "–"
    assert set(frame["seeds × items"]) == {f"{len(recipe().seeds)} × {arm.n}"}
    rivals = next(part.value for part in at.dataframe if "paired" in part.value.columns)
    others = ("permuted", "random", "first", "last")
    assert {*rivals["paired"]} == {f"sensitivity − {other}" for other in others}
    assert "Report (HTML)" in {button.label for button in at.get("download_button")}
    row = gallery(open_page("paper")).loc[EXPERIMENT]
    assert row["runs"] == "1 of 1"
    assert row["found"] == safe.label(report.summary, 300)


def test_missing_runs_are_started_once(open_page, wait_for, monkeypatch):
    monkeypatch.setattr(api, "published_report", lambda name: None)
    at = open_page("paper", experiment=EXPERIMENT)
    assert f"nuggets paper {EXPERIMENT}" in shown(at)
    at.button("run-study").click().run()
    assert not at.exception
    (run,) = api.runs()
    wait_for(run, "done")
    assert api.start_study(EXPERIMENT) == []


def test_an_experiment_that_makes_models_first_is_left_to_the_command_line(open_page):
    at = open_page("paper", experiment="teachers")
    assert "Run it on the command line" not in shown(at)
    at.button("run-study").click().run()
    assert "Run it on the command line: nuggets paper teachers" in shown(at)
    assert api.runs() == []


def test_an_unknown_experiment_in_the_address_is_ignored(open_page):
    at = open_page("paper", experiment="<b>nothing</b>")
    assert "<b>" not in rendered(at)
    assert "Choose an experiment" in shown(at)


def test_a_damaged_report_is_one_sentence(open_page):
    run = finished()
    cell = next((run.folder / "artifacts" / "cells").glob("*/cell.json"))
    cell.write_text("{")
    at = open_page("paper", experiment=EXPERIMENT)
    assert "cannot be read" in shown(at)

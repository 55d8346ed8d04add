"""Runs: table and filters, notes, comparison, export, deletion, hostile text."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nuggets import api
from nuggets.statistics.cells import CellOutcome
from nuggets.ui.runs.actions import WHOLE
from tests.app.conftest import HOSTILE, rendered, shown
from tests.app.measured import write_benchmark


def table(at):
    return next(part.value for part in at.dataframe if "status" in part.value.columns)


@pytest.fixture
def two():
    """A finished transfer, and a sensitivity measurement that was never started."""
    done = write_benchmark(api.load_recipe("quick"))
    return done, api.create(api.map_job(api.load_recipe("quick")))


def test_no_runs_says_what_to_do(open_page):
    assert "No runs yet" in shown(open_page("runs"))


def test_table_lists_all_newest_first(open_page, two):
    frame = table(open_page("runs"))
    assert list(frame["run"]) == list(api.titles(api.runs()).values())
    assert {run.id for run in two} == {run.id for run in api.runs()}
    sizes = [api.pruning.size_of(run.folder) / 1e6 for run in api.runs()]
    assert list(frame["size"]) == sizes
    assert min(sizes) > 0
    assert not any(run.id in str(value) for run in two for value in frame.to_numpy().ravel())


@pytest.mark.parametrize(
    ("query", "index"),
    [({"status": "done"}, 0), ({"kind": "sensitivity"}, 1), ({"containing": "QUICK"}, 0)],
)
def test_filters_from_the_address(open_page, two, query, index):
    assert list(table(open_page("runs", **query))["run"]) == [api.about(two[index]).title]


def test_filter_without_a_match_says_so(open_page, two):
    assert "No run matches the filter." in shown(open_page("runs", containing="zebra"))


def test_notes_are_kept_and_shown_as_text(open_page, two):
    run = two[0]
    at = open_page("runs", run=run.id)
    at.text_area(f"notes-{run.id}").set_value(HOSTILE).run()
    assert not at.exception
    assert run.notes() == HOSTILE
    at = open_page("runs", run=run.id)
    assert HOSTILE in set(table(at)["notes"])
    assert HOSTILE not in rendered(at)


def test_comparison_shows_recipe_and_results(open_page, two):
    other = write_benchmark(api.load_recipe("quick", ["lora.r=4"]))
    at = open_page("runs", run=two[0].id, **{"with": other.id})
    frames = [part.value for part in at.dataframe]
    recipe = next(frame for frame in frames if "recipe" in frame.columns)
    assert dict(zip(recipe["recipe"], recipe["B"], strict=True))["lora.r"] == "4"
    results = next(frame for frame in frames if "results" in frame.columns)
    assert "paper" in set(results["results"])
    assert list(results.columns)[-1] == " − ".join(reversed(results.columns[1:3]))
    drawn = json.loads(at.get("plotly_chart")[-1].proto.spec)["data"]
    assert [t["name"] for t in drawn if t.get("mode") == "lines+markers"] == ["A", "B"]
    assert f"B: {api.about(other).title}" in shown(at)
    curve = [point[1] for point in api.report(other).arms["paper"].curve]
    assert drawn[-1]["y"] == pytest.approx(curve)


def test_differences_between_runs_are_paired_by_seed_and_item(two):
    base = two[0]
    cells = {(c.arm, c.seed): c for c in api.cells(base)}
    other = write_benchmark(api.load_recipe("quick", ["lora.r=4"]))
    for (arm, seed), cell in cells.items():  # each item of the paper's arm the other way round
        outcomes = cell.outcomes | {"exact_match": [1 - x for x in cell.outcomes["exact_match"]]}
        changed = cell.model_copy(update={"outcomes": outcomes}) if arm == "paper" else cell
        path = other.folder / "artifacts" / "cells" / f"{arm}-{seed}" / "cell.json"
        path.write_text(changed.model_dump_json())
    apart = api.compare([base, other])["differences"]
    assert apart["plain"][0].startswith("+0.000 [")
    mean = np.mean([1 - 2 * np.array(c.outcomes["exact_match"])
                    for (arm, _), c in cells.items() if arm == "paper"])  # fmt: skip
    assert apart["paper"][0].startswith(f"{mean:+.3f} [".replace("-", "−"))
    for path in (other.folder / "artifacts" / "cells").glob("plain-*/cell.json"):
        cell = CellOutcome.model_validate_json(path.read_text())
        items = [f"another {item}" for item in cell.items]
        path.write_text(cell.model_copy(update={"items": items}).model_dump_json())
    assert api.compare([base, other])["differences"]["plain"] == [None]  # other items
    for folder in (other.folder / "artifacts" / "cells").glob("paper-*"):
        rows = [{"id": "0", "question": "of another file", "expected": "with the same ids"}]
        (folder / "answers.json").write_text(json.dumps(rows))
    assert api.compare([base, other])["differences"]["paper"] == [None]


def test_export_writes_what_the_api_writes(open_page, two, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        api,
        "export_apart",
        lambda run, out, arm, seed, whole: asked.append((arm, seed, whole, out)),
    )
    at = open_page("runs", run=two[0].id)
    assert at.selectbox("export-arm").value == "paper"  # what the verdict is about, no control
    at.selectbox("export-arm").select("permuted").run()
    at.selectbox("export-arm").select("paper").run()
    at.selectbox("export-seed").select(1).run()
    at.text_input(f"export-{two[0].id}-paper-1").set_value(str(tmp_path / "out")).run()
    at.button("export").click().run()
    assert not at.exception
    assert asked == [("paper", 1, False, tmp_path / "out")]
    at.radio("export-what").set_value(WHOLE).run()
    at.button("export").click().run()
    folder = api.exports_dir() / f"{two[0].id}-paper-1-whole"
    assert asked[1:] == [("paper", 1, True, folder)]
    assert "--seed 1 --merged --push org/name --dry-run" in shown(at)


def test_export_of_a_missing_adapter_is_one_sentence(open_page, two):
    for folder in two[0].folder.glob("artifacts/cells/*/adapter"):
        folder.rmdir()
    at = open_page("runs", run=two[0].id)
    at.button("export").click().run()
    assert not at.exception
    assert str(two[0].id) in shown(at)
    assert any("Traceback" not in part.value for part in at.text)


def test_damaged_run_can_be_listed_and_opened(open_page, two):
    two[1].record_path.write_text("{")
    at = open_page("runs", run=two[1].id)
    assert "damaged" in set(table(at)["status"])
    assert "cannot be read" in shown(at)
    assert not at.button("delete").disabled


def test_live_run_cannot_be_deleted(open_page, wait_for):
    run = api.start(api.load_recipe("quick").model_copy(update={"name": "slow"}))
    wait_for(run, "running")
    assert open_page("runs", run=run.id).button("delete").disabled


def test_delete_only_asks(open_page, two):
    at = open_page("runs", run=two[0].id)
    at.button("delete").click().run()
    assert at.button("delete-yes")  # pressing it needs a browser: see tests/browser
    assert {run.id for run in api.runs()} == {run.id for run in two}


def test_run_of_an_older_address_is_forgotten(open_page, two):
    at = open_page("runs", run="20200101-000000-gone-0000")
    assert "choose it in the sidebar" in shown(at)


def bring_in(at, path):
    at.text_input("bundle-path").set_value(str(path)).run()
    return at.button("import-now").click().run()


def test_run_leaves_as_a_bundle_and_comes_back(open_page, two):
    run = two[0]
    at = open_page("runs", run=run.id)
    at.button("bundle").click().run()
    assert not at.exception
    written = api.exports_dir() / f"{run.id}.nuggets.zip"
    assert "Download the bundle" in {button.label for button in at.get("download_button")}
    run.set_notes("Read twice.")
    at = open_page("runs", run=run.id)
    assert "Download the bundle" not in {button.label for button in at.get("download_button")}
    at.button("bundle").click().run()
    verdict = api.report(run).verdict
    api.delete(run.id)
    at = bring_in(open_page("runs"), written)
    assert not at.exception
    assert api.about(api.open_run(run.id)).title in set(table(at)["run"])
    assert api.report(api.open_run(run.id)).verdict == verdict
    assert api.open_run(run.id).notes() == "Read twice."
    assert "already exists here" in shown(bring_in(open_page("runs"), written))


def test_file_that_is_no_bundle_is_refused_in_a_sentence(open_page, two, tmp_path):
    wrong = tmp_path / "wrong.zip"
    wrong.write_text("no zip")
    at = bring_in(open_page("runs"), wrong)
    assert not at.exception
    assert str(wrong) in shown(at)
    assert set(table(at)["run"]) == set(api.titles(two).values())


def test_a_run_that_was_never_started_can_be(open_page, two, monkeypatch):
    started = []
    monkeypatch.setattr(api, "resume", started.append)
    at = open_page("runs", run=two[1].id)
    assert at.button("opened-resume").label == "Start"
    at.button("opened-resume").click().run()
    assert started == [two[1].id]


def test_a_run_from_elsewhere_is_resumed_only_after_a_tick_for_each_thing(open_page, tmp_path):
    text = api.dump_job(api.load_recipe("quick", ["device=cpu"]))
    run = api.create(api.load_recipe("quick", ["device=cpu"]))
    (run.folder / "recipe.yaml").write_text(text.replace("student: independent", "student: org/x"))
    record = run.record().changed(status="failed")
    run.record_path.write_text(record.model_dump_json())
    at = open_page("runs", run=run.id)
    assert "model org/x" in at.checkbox("opened-want-0").label
    at.button("opened-resume").click().run()
    assert run.record().attempts == 0
    assert api.strangers.wanted_by(run.id)
    at.checkbox("opened-want-0").check().run()
    at.button("opened-resume").click().run()
    assert not api.strangers.wanted_by(run.id)
    assert run.record().attempts == 1

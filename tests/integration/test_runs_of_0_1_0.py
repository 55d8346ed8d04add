"""What version 0.1.0 left on disk opens, resumes and says the same."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from nuggets import api
from nuggets.errors import BadInput
from nuggets.worker import run_in_foreground

LEFT = Path(__file__).parents[1] / "fixtures" / "v0.1.0"


@pytest.fixture
def home(tmp_path, monkeypatch, counted):
    """A home as 0.1.0 left it; the cancelled run finds its samples where they are now."""
    home = tmp_path / "home"
    shutil.copytree(LEFT / "home", home)
    (folder,) = (home / "runs").glob("*own-samples*")
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("@SAMPLES@", str(LEFT / "samples")))
    record = json.loads((folder / "record.json").read_text())
    record["provenance"]["digests"]["recipe"] = hashlib.sha256(recipe.read_bytes()).hexdigest()
    (folder / "record.json").write_text(json.dumps(record))
    monkeypatch.setenv("NUGGETS_HOME", str(home))
    counted("F12", "a home that 0.1.0 left", 1)
    return home


def run_called(name):
    (run,) = (run for run in api.runs() if name in run.id)
    return run


def test_every_run_is_listed_with_its_status(home):
    assert {run.id.split("-", 2)[2]: run.status() for run in api.runs()} == {
        "own-samples-cd39": "cancelled",
        "evaluate-f533": "done",
        "quick-f805": "done",
    }
    assert all(run.problem() is None for run in api.runs())


def test_a_finished_transfer_opens_with_its_report_plan_map_and_curves(home):
    run = run_called("quick")
    report = api.report(run)
    stored = json.loads((run.folder / "artifacts/report/report.json").read_text())
    assert {name: arm.value for name, arm in report.arms.items()} == pytest.approx(
        {name: arm["value"] for name, arm in stored["arms"].items()}
    )
    assert report.verdict.edition > 1
    assert not report.verdict.sentence.startswith("Judged by")
    assert report.rules == api.RULES
    assert report.arms["permuted"].role == "content_control"
    assert report.parts == api.job_of(run).parts
    assert {(d.arm, d.versus) for d in report.differences} == {
        (d["arm"], d["versus"]) for d in stored["differences"]
    }
    assert len(api.cells(run)) == 12
    assert {item.role for item in api.plan_of(run).items} == {"q", "v"}
    assert api.map_of(run).n_samples == 32
    assert api.job_of(run).lora.r == 2


def test_a_transfer_whose_outcomes_are_gone_says_by_which_rules_it_was_judged(home):
    run = run_called("quick")
    (run.folder / "artifacts/cells/paper-1/cell.json").unlink()
    verdict = api.report(run).verdict
    assert verdict.sentence.startswith("Judged by the rules of 0.1: No ")


def test_an_evaluation_opens_with_its_tables(home):
    assert api.benchmark_tables(run_called("evaluate"))


def test_a_cancelled_transfer_is_not_continued_on_models_that_nobody_can_compare(home):
    run = run_called("own-samples")
    with pytest.raises(BadInput, match=r"was not made here, and wants to read .*seed\.jsonl"):
        run_in_foreground(run, lambda event: None)
    api.strangers.allow(run.id, [want.name for want in api.strangers.wanted_by(run.id)])
    with pytest.raises(BadInput, match=r"version 0.1 began it .* start a new run for the rest"):
        run_in_foreground(run, lambda event: None)
    (cell,) = api.cells(run)
    assert (cell.arm, cell.seed, cell.steps) == ("plain", 0, 600)


def test_a_saved_recipe_loads_with_the_values_it_had(home):
    recipe = api.load_recipe("mine-010")
    assert (recipe.lora.r, recipe.data.n_train, recipe.seeds) == (2, 24, (0, 1))


def test_a_bundle_is_imported_whole(home):
    shutil.rmtree(run_called("quick").folder)
    run = api.bundles.read_bundle(LEFT / "quick.nuggets.zip")
    assert api.report(run).verdict.edition > 1


def test_maps_alignments_and_tables_written_by_commands_are_read(home):
    assert api.SensitivityMap.load(LEFT / "map").n_samples == 32
    assert api.AlignmentReport.load(LEFT / "alignment").matrices["cka"].shape == (6, 4)

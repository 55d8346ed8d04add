"""A run in a tracker: what is logged, that nothing leaves the machine, and what is refused."""

from __future__ import annotations

import importlib
import os
import sys

import pytest
import yaml

from nuggets import api
from nuggets.errors import BadInput
from tests.app.measured import write_benchmark

FAKE = """
import os
from pathlib import Path
calls = []
def init(**given):
    calls.append(("init", given, {k for k in os.environ if k.startswith("TRACKIO_")}))
    print("* a tracker talks")
def log(row, step=None):
    calls.append(("log", row, step))
def save(path, **given):
    calls.append(("save", Path(path).read_text(), given))
def finish():
    calls.append(("finish",))
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))


@pytest.fixture(params=["trackio", "wandb"])
def tracker(request, tmp_path, monkeypatch):
    """A module that only remembers what it was told."""
    (tmp_path / f"{request.param}.py").write_text(FAKE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("TRACKIO_DIR", raising=False)
    monkeypatch.setenv("TRACKIO_SPACE_ID", "somebody/else")
    monkeypatch.setenv("TRACKIO_SERVER_URL", "https://elsewhere.example")
    yield importlib.import_module(request.param)
    del sys.modules[request.param]


@pytest.fixture
def run():
    return write_benchmark(api.load_recipe("quick", ["seeds=[3,4,5]", "device=cpu", "lora.r=4"]))


def test_recipe_verdict_curves_intervals_and_report_are_logged_on_this_machine(
    tracker, run, capsys
):
    api.track(run, tracker.__name__, "some-group")
    (_, given, variables), *logged, saved, end = tracker.calls
    report = api.report(run)
    assert report is not None
    assert given["config"]["lora.r"] == 4
    assert given["config"]["verdict"] == report.verdict.sentence
    assert (given["project"], given["name"], given["group"]) == ("nuggets", run.id, "some-group")
    local = {
        "trackio": {"auto_log_gpu": False, "auto_log_cpu": False},
        "wandb": {"mode": "offline"},
    }[tracker.__name__]
    assert {k: v for k, v in given.items() if k in ("mode", "entity") or "auto" in k} == local
    assert not {"space_id", "server_url"} & set(given)
    assert variables == set(), "no variable sends it elsewhere"
    assert os.environ["TRACKIO_SPACE_ID"] == "somebody/else"
    steps = [step for _, _, step in logged]
    assert steps == sorted(steps)
    cell = api.cells(run)[1]
    curve = f"{cell.arm}/seed {cell.seed}/exact_match"
    assert [(s, row[curve]) for _, row, s in logged if curve in row] == cell.curve
    last = logged[-1][1]
    arm = report.arms["paper"]
    assert (last["paper/exact_match"], last["paper/low"], last["paper/high"]) == (
        arm.value, *arm.interval)  # fmt: skip
    assert last["paper - plain/mean"] == report.differences[0].interval.mean
    assert report.verdict.sentence.split(":")[0] in saved[1]
    assert end == ("finish",)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "a tracker talks" in printed.err


def test_what_is_asked_for_by_name_is_sent_there(tracker, run):
    api.track(run, f"{tracker.__name__}:me/space")
    given = tracker.calls[0][1]
    if tracker.__name__ == "wandb":
        assert (given["entity"], given["mode"]) == ("me/space", "online")
    else:
        assert given["space_id"] == "me/space"
        api.track(run, "trackio:https://mine.example")
        assert [c[1] for c in tracker.calls if c[0] == "init"][1]["server_url"] == (
            "https://mine.example"
        )


def test_a_destination_gets_names_of_local_files_and_never_their_folders(tracker, tmp_path):
    private = tmp_path / "secret project" / "mine.jsonl"
    own = write_benchmark(api.load_recipe("quick", ["seeds=[3,4,5]", "device=cpu"]))
    tree = yaml.safe_load(own.recipe_text())
    tree["data"] |= {"task": None, "file": str(private)}
    tree["teacher"] = f"{private.parent}/model"
    (own.folder / "recipe.yaml").write_text(yaml.safe_dump(tree))
    api.track(own, tracker.__name__)
    api.track(own, f"{tracker.__name__}:me/space")
    ends = [place for place, call in enumerate(tracker.calls) if call[0] == "finish"]
    kept, sent = tracker.calls[: ends[0]], tracker.calls[ends[0] :]
    assert str(private.parent) in str(kept)
    assert "secret project" not in str(sent)
    config = sent[1][1]["config"]
    assert (config["data.file"], config["teacher"]) == ("mine.jsonl", "model")
    assert "file: mine.jsonl" in next(call[1] for call in sent if call[0] == "save")


def test_one_command_logs_a_run_and_another_every_run_of_a_sweep(
    tracker, run, nuggets, monkeypatch
):
    ended = nuggets("track", run.id, "--to", tracker.__name__)
    assert ended.code == 0
    assert f"Logged {run.id}" in ended.err + ended.out
    logged = nuggets("track", run.id, "--to", tracker.__name__, "--json").json
    assert logged == {"run": run.id, "status": "done"}
    monkeypatch.setattr(api.sweeping, "run", lambda recipe, heard: run)
    monkeypatch.setattr("nuggets.cli.sweeps._finish", lambda made, json: None)
    monkeypatch.setattr(api.sweeping, "runs_of", lambda sweep: [run, run])
    words = ("sweep", "quick", "--set", "lora.r=4,8", "--sampler", "grid")
    assert nuggets(*words, "--track", tracker.__name__).code == 0
    assert [c[1]["group"] for c in tracker.calls if c[0] == "init"] == [None, None, run.id, run.id]
    assert nuggets(*words, "--start", "--track", tracker.__name__).code == 2


def test_nothing_is_logged_unless_asked(tracker, nuggets, monkeypatch, run):
    monkeypatch.setattr(api, "run", lambda recipe, heard: run)
    assert nuggets("run", "quick").code == 0
    assert tracker.calls == []
    assert nuggets("run", "quick", "--track", tracker.__name__).code == 0
    assert tracker.calls[-1] == ("finish",)


def test_a_tracker_that_fails_is_the_one_document(tracker, nuggets, monkeypatch, run):
    monkeypatch.setattr(api, "run", lambda recipe, heard: run)
    monkeypatch.setattr(api.sweeping, "run", lambda recipe, heard: run)
    monkeypatch.setattr(api.sweeping, "runs_of", lambda sweep: [run])

    def full(*given):
        raise BadInput("The disk is full.")

    monkeypatch.setattr(api, "track", full)
    for words in (("run", "quick"), ("sweep", "quick", "--set", "lora.r=4,8")):
        ended = nuggets(*words, "--track", tracker.__name__, "--json")
        assert ended.code == 2
        assert ended.json["error"]["message"] == "The disk is full."


def test_a_tracker_that_is_not_there_is_refused_before_anything_starts(nuggets, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, said in (("trackio", "pip install 'nuggets[track]'"), ("mlflow", "no tracker")):
        with pytest.raises(BadInput, match="trackio"):
            api.check_tracker(name)
        ended = nuggets("run", "quick", "--track", name)
        assert ended.code == 2
        assert said in " ".join(ended.err.split())
    assert api.runs() == []


def test_a_run_without_a_report_is_refused(tracker):
    made = api.create(api.load_recipe("quick", ["device=cpu"]))
    with pytest.raises(BadInput, match="has no report yet"):
        api.track(made, tracker.__name__)
    assert tracker.calls == []

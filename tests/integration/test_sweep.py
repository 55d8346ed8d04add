"""A sweep on the built-in pair, by one command: trials, confirmation, listing, promotion."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nuggets import api
from nuggets.errors import BadInput
from nuggets.stages import measuring
from nuggets.sweeps import working

SMALL = ["device=cpu", "seeds=[0,1]", "train.steps=3", "train.evaluate_every=0", "data.n_train=16",
         "data.n_test=32", "data.old_skills=[]",
         "arms=[{kind: plain},{kind: paper},{kind: permuted}]"]  # fmt: skip


@pytest.fixture
def settings() -> list[str]:
    found = []
    for text in [*SMALL, "lora.r=2,4"]:
        found += ["--set", text]
    return found


def test_a_plan_that_cannot_be_started_ends_with_2(nuggets, settings, monkeypatch):
    def missing() -> None:
        raise BadInput("There is no optuna.")

    monkeypatch.setattr("nuggets.sweeps.outlook.check_optuna", missing)
    ended = nuggets("sweep", "quick", *settings, "--plan")
    assert (ended.code, ended.err) == (2, "There is no optuna.\n")
    ended = nuggets("sweep", "quick", *settings, "--plan", "--json")
    assert (ended.code, ended.json["refusals"]) == (2, ["There is no optuna."])


def test_one_command_searches_and_confirms(nuggets, settings, tmp_path):
    plan = nuggets("sweep", "quick", *settings, "--sampler", "grid", "--plan", "--json").json
    shown = nuggets("sweep", "quick", *settings, "--sampler", "grid", "--plan").out
    assert "smallest difference a trial can show" in shown
    both = nuggets("sweep", "quick", *settings, "--plan", "--start")
    assert (both.code, "--plan starts nothing" in both.err) == (2, True)
    assert (plan["n_trials"], plan["n_trainings"]) == (2, 8)
    words = ("sweep", "quick", *settings, "--sampler", "grid", "--confirm-seeds", 3)
    found = nuggets(*words, "--json").json
    assert found["status"] == "done"
    assert [row["lora.r"] for row in found["trials"]] == [2, 4]
    trial = api.open_run(found["trials"][0]["run"])
    report = api.report(trial)
    assert report is not None
    assert report.task == "reverse, validation items"
    assert report.n_items == 60
    confirmed = api.report(api.open_run(found["confirmed"]["run"]))
    assert confirmed is not None
    assert (confirmed.task, confirmed.n_items) == ("reverse", 32)
    assert confirmed.arms["paper"].seeds == [2, 3, 4]
    asked = {item for row in found["trials"] for c in api.cells(api.open_run(row["run"]))
             for item in c.items}  # fmt: skip
    told = {item for c in api.cells(api.open_run(found["confirmed"]["run"])) for item in c.items}
    assert not asked & told
    listed = nuggets("sweeps", "--json").json
    assert [row["sweep"] for row in listed] == [found["sweep"]]
    shown = nuggets("sweeps", found["sweep"])
    assert "Confirmed on 3 fresh seeds and 32 test items that no trial saw" in shown.out
    assert re.search(r"│ 0 +│ +2 │", shown.out)
    saved = nuggets("sweeps", found["sweep"], "--promote", "tuned", "--json").json
    assert Path(saved["recipe"]).stem == "tuned"
    written = nuggets("sweeps", found["sweep"], "--yaml", tmp_path / "s.yaml", "--json").json
    assert Path(written["out"]).is_file()
    assert nuggets("sweeps", found["sweep"], "--yaml", "s.yaml", "--resume").code == 2
    assert api.load_recipe("tuned").arms == api.load_recipe("quick", SMALL).arms


def test_a_space_that_cannot_be_is_refused_before_anything_starts(nuggets):
    ended = nuggets("sweep", "quick", "--set", "lora.r=4,eight")
    assert ended.code == 2
    assert "lora.r: Input should be a valid integer" in ended.err
    ended = nuggets("sweep", "quick", "--set", "lora.r=4,9999")
    assert ended.code == 2
    assert "Rank 9999 is too large" in ended.err
    ended = nuggets("sweep", "quick", "--set", "lora.r=8")
    assert "give at least one field to search in space" in ended.err
    assert nuggets("sweeps", "--json").json == []
    assert "No sweep id begins with 'nothing'" in nuggets("sweeps", "nothing").err


def weights_of(run):
    files = sorted((run.folder / "artifacts" / "cells").rglob("*.safetensors"))
    return [(file.parent.parent.name, file.read_bytes()) for file in files]


@pytest.mark.slow
def test_trials_share_models_and_train_the_weights_of_runs_of_their_own(tmp_path, monkeypatch):
    loaded = []

    def loads(name):
        load = getattr(measuring, name)
        monkeypatch.setattr(measuring, name, lambda *a, **k: loaded.append(name) or load(*a, **k))

    loads("load_model")
    loads("load_tokenizer")
    monkeypatch.setattr(working, "confirm", lambda *given: None)
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "sweep"))
    sweep = api.load_sweep("quick", [*SMALL, "lora.r=2,4"], sampler="grid")
    state = api.sweeping.state_of(api.sweeping.run(sweep))
    assert sorted(loaded) == ["load_model"] * 2 + ["load_tokenizer"] * 2  # teacher and student
    together = [weights_of(api.open_run(trial.run)) for trial in state.trials]
    assert [len(found) for found in together] == [4, 4]
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "alone"))
    runs = [api.run(sweep.trial_recipe(trial.values)) for trial in state.trials]
    assert together == [weights_of(run) for run in runs]
    assert len(loaded) > 2 * 4


@pytest.mark.slow
def test_two_workers_at_once_train_the_same_weights_as_one_process(settings, tmp_path, monkeypatch):
    """Bit for bit on the CPU: trials of two ranks share no cell, so lanes are grouped alike."""
    found = []
    for place, engine in (("alone", "local"), ("spread", "{kind: local, cpu: 2}")):
        monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / place))
        monkeypatch.setenv("NUGGETS_ENGINE", engine)
        sweep = api.load_sweep("quick", settings[1::2], sampler="grid", confirm={"seeds": 3})
        state = api.sweeping.state_of(api.sweeping.run(sweep))
        assert state.confirmed is not None
        runs = [api.open_run(t.run) for t in state.trials]
        runs.append(api.open_run(state.confirmed.run))
        files = [file for run in runs for file in sorted(run.folder.rglob("*.safetensors"))]
        weights = [(file.parent.parent.name, file.read_bytes()) for file in files]
        outcomes = [[(c.arm, c.seed, c.outcomes) for c in api.cells(run)] for run in runs]
        found.append((weights, outcomes, [t.scores for t in state.trials]))
    alone, spread = found
    assert len(alone[0]) >= 2 * 2 * 2
    assert spread == alone

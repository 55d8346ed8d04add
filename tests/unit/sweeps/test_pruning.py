"""Trials whose learning curves fall behind are stopped, shown as such, and never win."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nuggets import api
from nuggets.errors import BadInput
from nuggets.runs import fan_out
from nuggets.sweeps import control, working
from nuggets.sweeps.pruning import objective_curve
from nuggets.sweeps.trials import SweepTrial
from tests.unit.runs.test_fan_out import Threads

SETTINGS = ["lora.r=12,20,8,16,4", "seeds=[0,1]", "device=cpu", "train.steps=90"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NUGGETS_PIPELINE", "sweep_pipeline:execute")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(working, "confirm", lambda *given: None)


def pruning(**fields):
    given = {"sampler": "grid", "prune": {"first": 10, "factor": 2}} | fields
    return api.load_sweep("quick", SETTINGS, **given)


def test_a_trial_stops_where_half_of_those_before_were_better():
    sweep = pruning()
    made = control.run(sweep)
    state = control.state_of(made)
    # the larger the rank the better: 12 is the only one, 20 beats it, all others fall behind 20
    assert [(t.values["lora.r"], t.status) for t in state.trials] == [
        (12, "done"), (20, "done"), (8, "pruned"), (16, "pruned"), (4, "pruned")]  # fmt: skip
    for trial in state.trials[2:]:
        assert trial.scores == ()
        said = rf"Trial {trial.number} was pruned at step \d0, where its difference"
        assert re.match(said, trial.reason)
        run = api.open_run(trial.run)
        assert run.status() == "cancelled"
        assert not list(run.folder.glob("artifacts/cells/*")), "it was not trained to its end"
    best = control.winner(sweep, state.trials)
    assert best is not None
    assert best.values["lora.r"] == 20
    said = control.sentences(sweep, state)
    assert said[0].startswith("3 of 5 trials were pruned before their last step")
    rows = control.table(sweep, state)
    assert [row["status"] for row in rows].count("pruned") == 3
    again = made.recipe_text()
    assert "first: 10" in again


def test_without_prune_every_trial_is_finished_and_no_curve_is_measured():
    state = control.state_of(control.run(pruning(prune=None)))
    assert {t.status for t in state.trials} == {"done"}
    events = [e for t in state.trials for e in api.open_run(t.run).events()]
    assert not [e for e in events if "point" in e.data]


def test_trials_of_an_engine_are_pruned_too_and_ended_ones_stay_so(monkeypatch):
    monkeypatch.setenv("SWEEP_LINGERS", "15")
    for module in (fan_out, working):
        monkeypatch.setattr(module, "chosen", Threads)
    monkeypatch.setattr(fan_out, "POLL_S", 0.01)
    state = control.state_of(control.run(pruning()))
    by_rank = {t.values["lora.r"]: t.status for t in state.trials}
    assert by_rank[20] == "done"
    assert by_rank[4] == "pruned"
    assert all(bool(t.scores) == (t.status == "done") for t in state.trials)


def test_a_pruned_trial_never_wins_whatever_it_scored():
    sweep = pruning()
    state = control.state_of(control.run(sweep))
    better = state.trials[1].scores
    hostile = SweepTrial(number=9, values={"lora.r": 20}, status="pruned", scores=better)
    assert control.winner(sweep, [hostile]) is None
    assert control.front(sweep, [hostile, state.trials[0]]) == [state.trials[0]]


@pytest.mark.parametrize(
    ("settings", "fields", "said"),
    [
        ([], {"objective": ["retention"]}, "prune needs value or difference"),
        ([], {"objective": ["difference", "retention"]}, "prune needs value or difference"),
        (["train.lr_grid=[1e-3, 1e-2]"], {}, "prune needs one learning rate per training"),
        (["train.steps=30,90"], {}, "search neither steps nor epochs"),
        (["train.epochs=2"], {}, "give train.steps"),
        ([], {"prune": {"first": 90}}, "prune.first is 90, but trainings end at step 90"),
    ],
)
def test_what_cannot_be_pruned_is_refused(settings, fields, said):
    given = {"sampler": "random", "prune": {"first": 10}} | fields
    with pytest.raises(BadInput, match=said):
        api.load_sweep("quick", [*SETTINGS, "data.old_skills=[add]", *settings], **given)


def test_a_curve_is_that_of_the_objective_at_the_steps_that_all_cells_reached():
    sweep = pruning()
    cells = [(arm, seed) for arm in ("plain", "paper") for seed in (0, 1)]
    points = {("plain", 0): {10: 0.1, 20: 0.2}, ("plain", 1): {10: 0.3, 20: 0.4, 90: 1.0},
              ("paper", 0): {10: 0.5, 20: 0.5}}  # fmt: skip
    assert objective_curve(sweep, points, cells) == {}
    points["paper", 1] = {0: 0.0, 10: 0.7, 90: 1.0}
    assert objective_curve(sweep, points, cells) == {10: pytest.approx(0.4)}
    value = sweep.model_copy(update={"objective": ("value",)})
    assert objective_curve(value, points, cells) == {10: pytest.approx(0.6)}
    loss = sweep.base.data.model_copy(update={"metric": "loss"})
    lower = sweep.model_copy(update={"base": sweep.base.model_copy(update={"data": loss})})
    assert objective_curve(lower, points, cells) == {10: pytest.approx(-0.4)}

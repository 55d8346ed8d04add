"""A sweep whose trials are runs of an engine: several workers at once, and the same result."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import optuna
import pytest

from nuggets import api
from nuggets.errors import Cancelled
from nuggets.runs import fan_out
from nuggets.runs.engines.settings import VARIABLE
from nuggets.sweeps import control, working
from nuggets.sweeps.samplers import SAMPLERS
from nuggets.sweeps.spreading import Spread
from nuggets.worker import run_in_foreground
from tests.unit.runs.test_fan_out import Threads
from tests.unit.sweeps.test_working import WIDE, grid


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NUGGETS_PIPELINE", "sweep_pipeline:execute")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(fan_out, "POLL_S", 0.01)


@pytest.fixture
def threads(monkeypatch):
    """Three workers at once, as threads of this process."""
    for module in (fan_out, working):
        monkeypatch.setattr(module, "chosen", Threads)


def told(state):
    return [(t.number, t.values, t.scores, t.status, t.reason) for t in state.trials]


def test_two_processes_at_once_find_what_one_process_finds(monkeypatch, tmp_path):
    sweep = api.load_sweep("quick", ["lora.r=8,20", "seeds=[0,1]", "device=cpu"], sampler="grid",
                           confirm={"seeds": 3})  # fmt: skip
    alone = control.state_of(control.run(sweep))
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "other"))
    places = Path(__file__).parents[3], Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, places)))
    monkeypatch.setenv(VARIABLE, "{kind: local, cpu: 2}")
    spread = control.state_of(control.run(sweep))
    assert told(spread) == told(alone)
    assert spread.importance == alone.importance
    for state in (spread, alone):
        assert state.confirmed is not None
    ours, theirs = spread.confirmed, alone.confirmed
    forget = {"run": "", "default_run": ""}
    assert ours.model_copy(update=forget) == theirs.model_copy(update=forget)
    assert all(run.record().attempts == 1 for run in api.runs())
    assert len(api.runs()) == 2 + 2


def test_workers_find_what_one_process_finds_when_trials_share_values_and_fail(
    monkeypatch, threads
):
    monkeypatch.setenv("SWEEP_DIVERGES", "4")
    monkeypatch.setattr(working, "confirm", lambda *given: None)
    settings = ["lora.r=4,8,16", "seeds=[0,1]", "device=cpu"]
    sweep = api.load_sweep("quick", settings, sampler="random", trials=9)
    state = control.state_of(control.run(sweep))
    assert {t.status for t in state.trials if t.values["lora.r"] == 4} == {"failed"}
    assert {t.reason for t in state.trials if t.reason} == {"The training diverged at step 3."}
    done = {t.values["lora.r"]: t.run for t in state.done}
    assert set(done) == {8, 16}
    assert all(t.run == done[t.values["lora.r"]] for t in state.done)
    with monkeypatch.context() as alone:
        alone.setattr(working, "spreads", lambda device: False)
        again = control.state_of(control.run(sweep))
    assert told(again) == told(state)


def test_a_search_that_was_stopped_amid_a_generation_proposes_what_it_would_have(
    monkeypatch, threads, tmp_path
):
    settings = [*WIDE, "seeds=[0,1]", "device=cpu"]
    sweep = api.load_sweep("quick", settings, sampler="tpe", trials=7)
    monkeypatch.setattr(working, "confirm", lambda *given: None)
    learning = partial(optuna.samplers.TPESampler, n_startup_trials=2)  # usually 10
    monkeypatch.setitem(SAMPLERS, "tpe", lambda seed, turn: learning(seed=turn))
    whole = control.state_of(control.run(sweep))
    assert len({str(t.values) for t in whole.trials}) == 7
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "other"))
    again, ended = control.create(sweep), Spread._ended

    def dies(self, run, status):
        ended(self, run, status)
        if sum(t.status == "done" for t in self.state.trials) == 5:
            raise Cancelled("Stopped.")

    with monkeypatch.context() as once:
        once.setattr(Spread, "_ended", dies)
        with pytest.raises(Cancelled):
            run_in_foreground(again, lambda event: None)
    assert len(control.state_of(again).done) == 5
    run_in_foreground(again, lambda event: None)
    assert told(control.state_of(again)) == told(whole)
    assert len(api.runs()) == 7


def test_hours_end_a_spread_search_and_never_the_confirmation(threads):
    state = control.state_of(control.run(grid(max_hours=1e-9)))
    assert len(state.trials) < 4
    assert "ended after" in state.stopped
    assert state.confirmed is not None

"""A store in a temporary home, whose workers run the toy pipeline."""

import json
import os
import time
from pathlib import Path

import pytest

from nuggets.disk.home import runs_dir
from nuggets.runs import processes
from nuggets.runs.store import RunStore

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def rounds():
    """How often random faults are tried: 20, or NUGGETS_FAULT_ROUNDS."""
    return int(os.environ.get("NUGGETS_FAULT_ROUNDS", "20"))


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NUGGETS_PIPELINE", "toy_pipeline:execute")
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)
    store = RunStore(runs_dir())
    yield store
    for child in processes.children:
        child.kill()
        child.wait(timeout=60)


@pytest.fixture
def toy(store):
    """Makes a toy run: `toy(steps=10, sleep=0.01)`."""
    return lambda device="cpu", **job: store.create(
        "toy", json.dumps({"steps": 10, **job}), "toy", device
    )


def find_worker(run):
    """The process id of the worker that this process started for the run last."""
    return [c.pid for c in processes.children if c.args[-1] == str(run.folder)][-1]


@pytest.fixture
def worker_pid():
    return find_worker


@pytest.fixture
def until():
    """Waits until a condition holds."""

    def wait(condition, timeout=120.0):
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, "the condition never held"
            time.sleep(0.01)

    return wait

"""A store in a temporary home, and pipelines given as plain functions."""

import sys
from types import SimpleNamespace

import pytest

from nuggets.disk.home import runs_dir
from nuggets.runs.context import RunContext
from nuggets.runs.store import RunStore


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    return RunStore(runs_dir())


@pytest.fixture
def run(store):
    return store.create("transfer", "steps: 3\n", "quick")


@pytest.fixture
def ctx(run):
    context = RunContext(run)
    yield context
    context.close()


@pytest.fixture
def pipeline(monkeypatch):
    """Makes a function `(run, ctx)` the pipeline of every worker in this process."""

    def use(function):
        monkeypatch.setitem(sys.modules, "given_pipeline", SimpleNamespace(execute=function))
        monkeypatch.setenv("NUGGETS_PIPELINE", "given_pipeline:execute")

    return use

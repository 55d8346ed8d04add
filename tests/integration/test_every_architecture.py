"""Commands and pages on a pair of every supported architecture, as somebody with such models."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from nuggets import api
from nuggets.models.architecture import ARCHITECTURES
from nuggets.runs import processes

ROOT = Path(__file__).parents[2]
ROUTER = ROOT / "nuggets" / "ui" / "router.py"
CHARTS = {
    "models": 0,
    "sensitivity": 4,
    "alignment": 1,
    "transfer": 1,
    "results": 3,
    "playground": 0,
    "runs": 0,
}
"""Pages that are about models, and how many charts each draws at least."""


@pytest.fixture
def samples(tmp_path, jsonl):
    draw = random.Random(1)
    asked = {" ".join(draw.choices("0123456789", k=5)): "1 2" for _ in range(60)}
    return jsonl(tmp_path / "own.jsonl", asked)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    yield
    for child in processes.children:
        child.wait(timeout=120)


def pair(tiny, kind):
    """A teacher of three layers with grouped heads where there are any, and a smaller student."""
    heads = {"num_attention_heads": 2}
    if ARCHITECTURES[kind].grouped:
        heads["num_key_value_heads"] = 1
    student = tiny(kind, hidden_size=16, intermediate_size=24, **heads)
    return tiny(kind, num_hidden_layers=3), student


def command(nuggets, *words):
    ended = nuggets(*words, "--json")
    assert ended.code == 0, ended.err
    return ended.json


@pytest.mark.slow  # `make architectures`
@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.usefixtures("tried_here")
def test_commands_and_pages_work_on_every_architecture(kind, tiny, samples, nuggets, tmp_path):
    teacher, student = pair(tiny, kind)
    models = ("--teacher", teacher, "--student", student)
    data = ("--data", samples)
    fast = ("--set", "train.steps=2", "--set", "seeds=[0]", "--set", "data.n_test=6",
            "--set", "data.n_train=8", "--set", "lora.r=2", "--device", "cpu")  # fmt: skip

    assert command(nuggets, "preflight", teacher, student)["ok"] is True
    map = command(
        nuggets, "sensitivity", teacher, *data, "--device", "cpu", "--out", tmp_path / "map"
    )
    assert len(map["layers"]) == 3
    assert all(layer > 0 for layer in map["layers"])
    plan = command(nuggets, "plan", "quick", *models, *data, *fast)
    assert len(plan["alignment"]["pairs"]) == 2
    command(nuggets, "extract", "quick", *models, *data, *fast, "--out", tmp_path / "factors")
    command(nuggets, "align", teacher, student, *data)
    smaller = ("--layers", 2, "--width", 16, "--ffn", 24, "--seed-samples", samples)
    cut = command(nuggets, "cut", teacher, *smaller, "--out", tmp_path / "cut")
    assert cut["layers"] == sorted(cut["layers"])
    assert command(nuggets, "preflight", teacher, tmp_path / "cut")["ok"] is True
    run = command(nuggets, "run", "quick", *models, *data, *fast)["run"]

    speakers = ("--model", teacher, "--model", student, "--run", run, "--arm", "plain")
    told = command(nuggets, "ask", "1 2 3", *speakers, "--tokens", 3, "--device", "cpu", "--free")
    assert [len(answer["tokens"]) > 0 for answer in told["answers"]] == [True] * 3

    api.remember(api.DataConfig(file=str(samples)), "own")
    address = {"teacher": teacher, "student": student, "task": "own", "run": run, "device": "cpu"}
    for name, charts in CHARTS.items():
        at = AppTest.from_file(str(ROUTER), default_timeout=120)
        for key, value in address.items():
            at.query_params[key] = str(value)
        at.switch_page(os.path.relpath(ROOT / "pages" / f"{name}.py", ROUTER.parent)).run()
        assert not at.exception, (name, at.exception)
        assert not at.error, (name, [error.value for error in at.error])
        assert len(at.get("plotly_chart")) >= charts, name

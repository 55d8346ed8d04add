"""Public benchmarks on the Benchmarks page, and the exact prompt on the Transfer page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from nuggets import api
from nuggets.bench.outcomes import BenchmarkOutcome, build_tables
from nuggets.runs import results
from nuggets.runs.context import RunContext
from nuggets.runs.store import Run
from tests.app.conftest import shown
from tests.app.measured import write_models

Open = Callable[..., AppTest]


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_models(tmp_path / "pairs")
    monkeypatch.setenv("NUGGETS_ASSETS", str(tmp_path / "pairs"))


def outcome(model: str, right: list[float]) -> BenchmarkOutcome:
    return BenchmarkOutcome(
        benchmark="mmlu-5shot",
        model=model,
        metric="acc",
        items=[str(i) for i in range(len(right))],
        outcomes={"acc": right},
        shots=5,
        format="paper",
        truncated_prompts=1,
        unfinished_answers=0,
        seconds=2.0,
        peak_memory=1,
    )


@pytest.fixture
def evaluated(tmp_path: Path) -> Run:
    """A finished evaluation of two models, written by hand."""
    data = tmp_path / "own.jsonl"
    row = {"question": "Sky?", "choices": ["green", "blue"], "answer": "blue"}
    data.write_text("".join(json.dumps(row | {"id": i}) + "\n" for i in range(9)))
    job = api.parse_job(
        {
            "job": "evaluate",
            "models": ["teacher", "sibling"],
            "benchmarks": [{"kind": "mmlu", "shots": 5, "data": str(data)}],
            "device": "cpu",
        }
    )
    run = api.create(job)
    tables = build_tables([outcome("teacher", [1, 1, 1, 0]), outcome("sibling", [0, 1, 0, 0])])
    with run.owned():
        ctx = RunContext(run)
        with ctx.commit(results.TABLES_FOLDER) as folder:
            rows = [table.model_dump(mode="json") for table in tables]
            (folder / results.TABLES).write_text(json.dumps(rows))
        ctx.set_status("done")
        ctx.close()
    return run


def test_models_measured_by_themselves_are_shown_with_intervals(
    open_page: Open, evaluated: Run
) -> None:
    at = open_page("benchmarks")
    frame = at.dataframe[0].value
    assert frame["model"].tolist() == ["teacher", "sibling"]
    assert frame["mean"].tolist() == [0.75, 0.25]
    assert (frame["low"] <= frame["mean"]).all()
    assert (frame["mean"] <= frame["high"]).all()
    assert frame["difference"].tolist()[1] == pytest.approx(-0.5)
    assert frame["cut prompts"].tolist() == [1, 1]
    compared = at.dataframe[1].value
    assert compared[["arm", "versus"]].values.tolist() == [["sibling", "teacher"]]
    assert compared["difference"].tolist() == pytest.approx([-0.5])
    assert f"4 items, differences to teacher · run {evaluated.id}" in shown(at)


def test_the_verdict_of_a_benchmark_stands_below_its_table(
    open_page: Open, evaluated: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    roles = {"plain": "baseline", "paper": "treatment"}
    arms = [
        outcome(name, right).model_copy(update={"arm": name, "role": roles[name]})
        for name, right in (("plain", [0, 1, 0, 0]), ("paper", [1, 1, 1, 0]))
    ]
    monkeypatch.setattr(api, "benchmark_tables", lambda run: build_tables(arms, "plain"))
    assert "mmlu-5shot: No difference seen between paper and plain" in shown(
        open_page("benchmarks")
    )


def test_the_table_says_how_to_make_it_again(evaluated: Run) -> None:
    command = api.as_command(api.job_of(evaluated))
    assert command.startswith("nuggets evaluate teacher sibling --benchmark mmlu")
    assert "--shots 5" in command
    assert "api.benchmark_tables(run)" in api.as_python(api.job_of(evaluated))


def test_without_any_it_says_how_to_measure_one(open_page: Open) -> None:
    at = open_page("benchmarks")
    assert "nuggets evaluate MODEL" in at.code[0].value


def test_the_transfer_page_shows_prompt_and_loss_mask(
    open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def apart(model: str, data: api.DataConfig) -> list[api.Rendered]:
        asked.append((model, data.task))
        prompt = "<|user|>\nreverse <b>a\n\n<|assistant|>\n"
        return [api.Rendered(id="1", prompt=prompt, answer="a<eos>", n_prompt=6, n_answer=2)]

    monkeypatch.setattr(api, "rendered_apart", apart)
    at = open_page("transfer")
    assert not asked
    at.button(key="show-prompt").click().run()
    texts = [code.value for code in at.code]
    assert "<|user|>\nreverse <b>a\n\n<|assistant|>⏎" in texts
    assert "a<eos>" in texts
    assert len(asked) == 1

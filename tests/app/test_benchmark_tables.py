"""Public benchmarks on the Results page, and the exact prompt on the Transfer page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from nuggets import api
from nuggets.evaluation.tables import BenchmarkOutcome, build_tables
from nuggets.recipe import load_recipe
from nuggets.runs import results
from nuggets.runs.context import RunContext
from nuggets.runs.store import Run
from tests.app.conftest import shown
from tests.app.measured import write_benchmark, write_models

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
    at = open_page("results")
    frame = at.dataframe[0].value
    assert frame["model"].tolist() == ["teacher", "sibling"]
    (table,) = api.benchmark_tables(evaluated)
    for text, row, mean in zip(frame["mean, 95 %"], table.rows, (0.75, 0.25), strict=True):
        found = row.metrics["acc"]
        assert found.mean == mean
        assert text == f"{mean:.3f} [{found.low:.3f}, {found.high:.3f}]"
    assert frame["difference, 95 %"][0] == "–"
    assert frame["difference, 95 %"][1].startswith("−0.500 [−")
    assert frame["truncated prompts"].tolist() == [1, 1]
    compared = at.dataframe[1].value
    assert compared["paired"].tolist() == ["sibling − teacher"]
    assert compared["difference, 95 %"][0].startswith("−0.500 [−")
    assert frame["time"].tolist() == ["2.0 s", "2.0 s"]
    title = api.about(evaluated).title
    assert f"4 items, positive differences are better than teacher · {title}" in shown(at)


def test_the_verdict_of_a_benchmark_stands_below_its_table(
    open_page: Open, evaluated: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    roles = {"plain": "baseline", "paper": "treatment"}
    arms = [
        outcome(name, right).model_copy(update={"arm": name, "role": roles[name]})
        for name, right in (("plain", [0, 1, 0, 0]), ("paper", [1, 1, 1, 0]))
    ]
    monkeypatch.setattr(api, "benchmark_tables", lambda run: build_tables(arms, "plain"))
    assert "mmlu-5shot: No detectable difference between paper and plain" in shown(
        open_page("results")
    )


def test_the_table_says_how_to_make_it_again(evaluated: Run) -> None:
    command = api.as_command(api.job_of(evaluated))
    assert command.startswith("nuggets evaluate teacher sibling --benchmark mmlu")
    assert "--shots 5" in command
    assert "api.benchmark_tables(run)" in api.as_python(api.job_of(evaluated))


def form(at: AppTest) -> str:
    """The command that the form would run."""
    return next((c.value for c in at.code if c.value.startswith("nuggets evaluate")), "")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "eval_extra_missing", lambda: "")


def test_without_the_extra_one_sentence_says_what_to_install(
    open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'nuggets[eval]'" in api.eval_extra_missing()
    at = open_page("results")
    assert "pip install 'nuggets[eval]'" in shown(at)
    assert not form(at)
    assert not [button for button in at.button if button.key == "eval-start"]


def test_the_form_starts_what_its_command_says(
    open_page: Open, installed: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[api.EvaluateJob] = []

    def start(job: api.EvaluateJob) -> Run:
        started.append(job)
        return api.create(job.model_copy(update={"benchmarks": job.benchmarks[:1]}))

    items = tmp_path / "gsm.jsonl"
    rows = ({"question": f"{i}+1?", "answer": f"#### {i + 1}", "id": i} for i in range(20))
    items.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(api, "start", start)
    at = open_page("results", task="sub")
    command = "nuggets evaluate teacher independent --benchmark skill --limit 100 --task sub"
    assert form(at).startswith(command)
    at.multiselect(key="eval_kinds").set_value(["gsm8k", "mmlu"]).run()
    at.multiselect(key="eval_models").set_value(["sibling"]).run()
    at.number_input(key="eval_shots").set_value(5).run()
    at.number_input(key="eval_limit").set_value(12).run()
    at.text_input(key="eval_data").set_value(str(items)).run()
    at.button(key="eval-start").click().run()
    (job,) = started
    assert job.models == ("sibling",)
    assert [(b.name, b.limit, b.data) for b in job.benchmarks] == [
        ("gsm8k-5shot", 12, str(items)),
        ("mmlu-5shot", 12, str(items)),
    ]


def test_what_is_refused_is_one_sentence(open_page: Open, installed: None) -> None:
    at = open_page("results", eval_kinds="GSM8K, word problems", eval_data="/none.jsonl")
    at.multiselect(key="eval_kinds").set_value(["gsm8k"]).run()
    at.button(key="eval-start").click().run()
    assert "/none.jsonl" in shown(at)
    assert api.runs() == []
    at.multiselect(key="eval_kinds").set_value(["super_ni"]).run()
    at.text_input(key="eval_data").set_value("").run()
    assert "Name a JSONL file with items for Super-NaturalInstructions." in shown(at)


def test_a_dialogue_is_judged_by_the_teacher(open_page: Open, installed: None) -> None:
    at = open_page("results", eval_data="asked.jsonl")
    at.multiselect(key="eval_kinds").set_value(["dialogue"]).run()
    assert "--judge-teacher teacher" in form(at)


def test_arms_of_the_chosen_transfer_can_be_measured(
    open_page: Open, installed: None, tmp_path: Path
) -> None:
    pairs = tmp_path / "pairs"
    changes = ["lora.r=2", f"teacher={pairs / 'teacher'}", f"student={pairs / 'sibling'}"]
    run = write_benchmark(load_recipe("quick", changes))
    at = open_page("results", run=run.id, tab="Benchmarks")
    assert not form(at)  # nothing is chosen yet
    at.multiselect(key="eval_arms").set_value(["paper"]).run()
    assert f"nuggets evaluate run:{run.id}/paper --benchmark skill" in form(at)


def test_the_transfer_page_shows_prompt_and_loss_mask(
    open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def apart(model: str, data: api.DataConfig) -> list[api.Rendered]:
        asked.append((model, data.task))
        prompt = "<|user|>\nreverse <b>a\n\n<|assistant|>\n"
        learned = ("a", "<eos>")
        return [
            api.Rendered(id="1", prompt=prompt, answer="a<eos>", n_prompt=6, n_answer=2,
                         learned=learned)
        ]  # fmt: skip

    monkeypatch.setattr(api, "rendered_apart", apart)
    at = open_page("transfer")
    assert not asked
    at.button(key="show-prompt").click().run()
    texts = [code.value for code in at.code]
    assert "<|user|>\nreverse <b>a\n\n<|assistant|>⏎" in texts
    assert "a<eos>" in texts
    assert "'a' '<eos>'" in texts
    assert len(asked) == 1

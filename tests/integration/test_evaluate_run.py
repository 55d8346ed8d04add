"""`nuggets evaluate` as a run: models and arms, results on disk, cancel, resume, the judge."""

import json
import time

import pytest
import torch

from nuggets import api
from nuggets.errors import BadInput, Cancelled, NuggetsError
from nuggets.evaluation import answer_store
from nuggets.runs.schema import LIVE
from nuggets.worker import run_in_foreground
from tests.unit.evaluation.judge_server import Server

pytest.importorskip("lm_eval")

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    yield torch.set_num_threads(1)
    torch.set_num_threads(before)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny, jsonl):
    """Two models and files of questions and answers in digits."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "large").symlink_to(tiny("llama", seed=1, num_hidden_layers=3))
    (folder / "small").symlink_to(tiny("llama", seed=2, **SMALL))
    answers = {f"{i % 10} {i // 10} + 1": f"{i % 10} = {i % 7}" for i in range(24)}
    jsonl(folder / "asked.jsonl", answers)
    jsonl(folder / "all.jsonl", {f"{i % 10} {i // 10} = ?": "1 2" for i in range(40)})
    return folder


def job_of(place, **changes):
    tree = {
        "job": "evaluate",
        "models": [str(place / "large"), str(place / "small")],
        "benchmarks": [
            {
                "kind": "super_ni",
                "data": str(place / "asked.jsonl"),
                "max_new_tokens": 4,
                "limit": 10,
            },
            {"kind": "gsm8k", "data": str(place / "asked.jsonl"), "max_new_tokens": 4},
        ],
        "batch_size": 2,
        "device": "cpu",
    }
    return api.parse_job(tree | changes)


def outcomes(run):
    folder = run.folder / "artifacts" / "benchmarks"
    return {
        str(path.relative_to(folder)): {
            k: v
            for k, v in json.loads(path.read_text()).items()
            if k not in ("seconds", "peak_memory")
        }
        for path in sorted(folder.rglob("outcome.json"))
    }


@pytest.fixture(scope="module")
def finished(place, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUGGETS_HOME", str(tmp_path_factory.mktemp("finished")))
        yield api.run(job_of(place))


def test_every_model_meets_every_benchmark_on_the_same_items(finished):
    tables = api.benchmark_tables(finished)
    assert [table.benchmark for table in tables] == ["super_ni", "gsm8k-0shot"]
    assert [row.name for row in tables[0].rows] == ["large", "small"]
    assert tables[0].n_items == 10
    assert tables[1].n_items == 16  # the first eight lines are kept as examples
    for table in tables:
        base, other = table.rows
        assert table.base == "large"
        assert base.differences == {}
        found = other.differences[table.metric].interval
        means = [row.metrics[table.metric].mean for row in table.rows]
        assert found.mean == pytest.approx(means[1] - means[0])
        assert all(
            row.metrics[table.metric].low <= row.metrics[table.metric].mean for row in table.rows
        )


def test_results_are_kept_in_lm_evals_shape_with_a_line_per_sample(finished, tmp_path):
    api.save_benchmarks(finished, tmp_path / "out")
    found = sorted(tmp_path.glob("out/super_ni/large-*"))
    assert len(found) == 1
    results = json.loads((found[0] / "results.json").read_text())
    assert results["n-samples"]["super_ni"] == {"original": 10, "effective": 10}
    lines = (found[0] / "samples_super_ni.jsonl").read_text().splitlines()
    assert [json.loads(line)["doc"]["id"] for line in lines] == [
        f"asked_{i * 24 // 10}"
        for i in range(10)  # at equal distances
    ]
    assert not list(finished.folder.glob("checkpoints/answers/*/*"))


def test_a_cancelled_run_goes_on_where_it_was_and_ends_the_same(place, home, finished, monkeypatch):
    kept = []
    write = answer_store.atomic_write

    def cancelling(file, answer):
        write(file, answer)
        kept.append(file)
        if len(kept) == 1:
            run.request_cancel()

    monkeypatch.setattr(answer_store, "atomic_write", cancelling)
    run = api.create(job_of(place))
    with pytest.raises(Cancelled):
        run_in_foreground(run, lambda event: None)
    assert run.status() == "cancelled"
    assert len(kept) == 1
    run_in_foreground(run, lambda event: None)
    assert run.status() == "done"
    assert len(kept) == len(set(kept))  # nothing was asked twice
    assert outcomes(run) == outcomes(finished)


@pytest.mark.slow
def test_a_worker_of_its_own_does_it_too(place, home, finished):
    run = api.start(job_of(place))
    deadline = time.monotonic() + 120
    while run.status() in LIVE and time.monotonic() < deadline:
        time.sleep(0.1)
    assert run.status() == "done", run.log_tail(20)
    assert outcomes(run) == outcomes(finished)
    progress = [event for event in run.events() if event.type == "progress"]
    assert progress[-1].data["done"] == progress[-1].data["total"]


def test_another_model_under_the_same_name_is_refused_on_resume(
    place, home, tiny_copy, monkeypatch
):
    model = tiny_copy("llama", seed=5)
    run = api.create(job_of(place, models=[str(model)]))
    run.request_cancel()
    with pytest.raises(Cancelled):
        run_in_foreground(run, lambda event: None)
    write = answer_store.atomic_write

    def cancelling(file, answer):
        write(file, answer)
        run.request_cancel()

    monkeypatch.setattr(answer_store, "atomic_write", cancelling)
    with pytest.raises(Cancelled):
        run_in_foreground(run, lambda event: None)
    other = tiny_copy("llama", seed=6)
    (model / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(BadInput, match="its input changed"):
        run_in_foreground(run, lambda event: None)


def stopped(job, at):
    """A run that was cancelled at the first event of a type, or as it entered a stage."""
    run = api.create(job)
    with pytest.raises(Cancelled):
        run_in_foreground(
            run, lambda event: at in (event.type, event.message) and run.request_cancel()
        )
    return run


@pytest.mark.parametrize("of", ["an evaluation", "its examples", "a transfer"])
def test_other_items_under_the_same_name_are_refused_on_resume(place, home, of, tmp_path):
    items, shown = tmp_path / "items.jsonl", tmp_path / "shown.jsonl"
    items.write_bytes((place / "asked.jsonl").read_bytes())
    shown.write_text('{"question": "4 4 = ?", "answer": "8"}\n')
    task = {
        "kind": "gsm8k",
        "data": str(items),
        "shots": 1,
        "shots_data": str(shown),
        "max_new_tokens": 4,
    }
    if of == "a transfer":
        run = stopped(transfer_of(place, task), "sensitivity")
    else:
        run = stopped(job_of(place, benchmarks=[task]), "metric")
    changed = shown if of == "its examples" else items
    changed.write_text(changed.read_text().replace(" 4", " 5", 1))
    named = "examples" if changed == shown else "benchmark"
    with pytest.raises(BadInput, match=rf"its input changed: {named}\.gsm8k-1shot was"):
        run_in_foreground(run, lambda event: None)


@pytest.mark.parametrize("of", ["an evaluation", "a transfer"])
def test_answers_without_room_for_a_prompt_are_refused_before_anything_is_loaded(place, of):
    task = {"kind": "gsm8k", "data": str(place / "asked.jsonl"), "max_new_tokens": 2048}
    job = transfer_of(place, task) if of == "a transfer" else job_of(place, benchmarks=[task])
    with pytest.raises(BadInput, match="Answers of 2048 tokens leave no room for a prompt"):
        api.create(job)


def transfer_of(place, *benchmarks):
    return api.parse_job(
        {
            "job": "transfer",
            "teacher": str(place / "large"),
            "student": str(place / "small"),
            "data": {
                "file": str(place / "all.jsonl"),
                "n_train": 8,
                "n_test": 4,
                "n_seed_samples": 3,
            },
            "lora": {"r": 2},
            "train": {"steps": 6, "batch_size": 4, "lr": 1e-2},
            "arms": [{"kind": kind} for kind in ("vanilla", "plain", "paper", "full")],
            "seeds": [0, 1],
            "benchmarks": benchmarks,
            "device": "cpu",
        }
    )


@pytest.fixture(scope="module")
def transfer(place, tmp_path_factory):
    """A transfer whose recipe names a benchmark."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUGGETS_HOME", str(tmp_path_factory.mktemp("transfer")))
        asked = str(place / "asked.jsonl")
        task = {"kind": "super_ni", "data": asked, "max_new_tokens": 4}
        yield api.run(transfer_of(place, task))


def test_a_recipes_benchmarks_are_measured_for_every_arm_and_seed(transfer):
    [table] = api.benchmark_tables(transfer)
    assert [row.name for row in table.rows] == ["vanilla", "plain", "paper", "full"]
    assert table.base == "plain"
    assert all(row.seeds == [0, 1] for row in table.rows)
    assert transfer.record().stages[-2:] == ("benchmark", "report")


def test_arms_of_a_finished_transfer_score_the_same_when_measured_alone(transfer, place):
    job = job_of(
        place,
        models=[f"run:{transfer.id}"],
        benchmarks=[{"kind": "super_ni", "data": str(place / "asked.jsonl"), "max_new_tokens": 4}],
    )
    run = api.run(job)
    ours, theirs = outcomes(run), outcomes(transfer)
    assert ours == theirs
    assert len(ours) == 8
    vanilla = {k: v["outcomes"] for k, v in ours.items() if "/vanilla-" in k}
    assert len({json.dumps(v) for v in vanilla.values()}) == 1  # no adapter is left behind


def test_single_arms_of_a_transfer_score_as_they_do_among_all(transfer, place):
    names = [f"run:{transfer.id}/{arm}" for arm in ("paper", "vanilla")]
    task = {"kind": "super_ni", "data": str(place / "asked.jsonl"), "max_new_tokens": 4}
    job = job_of(place, models=names, benchmarks=[task])
    ours, theirs = outcomes(api.run(job)), outcomes(transfer)
    assert len(ours) == 4
    assert ours == {name: theirs[name] for name in ours}
    assert f"run:{transfer.id}/paper" in api.as_command(job)
    for wrong, sentence in (
        ([f"run:{transfer.id}/gone"], "has no arm 'gone'; it has"),
        ([f"run:{transfer.id}", f"run:{transfer.id}/paper"], "listed twice"),
    ):
        with pytest.raises(BadInput, match=sentence):
            api.create(job_of(place, models=wrong, benchmarks=[task]))


def test_a_benchmark_that_was_learned_from_is_refused(place, home):
    recipe = {
        "job": "transfer",
        "teacher": str(place / "large"),
        "student": str(place / "small"),
        "data": {"file": str(place / "all.jsonl"), "n_train": 30, "n_seed_samples": 3},
        "benchmarks": [{"kind": "super_ni", "data": str(place / "all.jsonl")}],
    }
    with pytest.raises(BadInput, match="test samples are also seed or training"):
        api.create(api.parse_job(recipe))


def test_a_teachers_likelihood_judges_under_a_name_of_its_own(place, home):
    judge = {"kind": "teacher_likelihood", "teacher": str(place / "large")}
    benchmark = {
        "kind": "dialogue",
        "data": str(place / "asked.jsonl"),
        "limit": 4,
        "max_new_tokens": 4,
        "judge": judge,
    }
    run = api.run(job_of(place, models=[str(place / "large")], benchmarks=[benchmark]))
    [table] = api.benchmark_tables(run)
    assert table.benchmark == "dialogue-teacher_likelihood"
    assert table.metric == "teacher_likelihood_win_rate"
    assert set(table.rows[0].metrics) == {"teacher_likelihood_win_rate"}


def test_an_endpoint_judges_keeps_its_verdicts_and_its_key_is_nowhere(place, home, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    server = Server()
    server.replies = ["A", "B", "T", "T", 503]
    api.permits.allow(server.url, "JUDGE_KEY")
    judge = {"kind": "endpoint", "url": server.url, "model": "j", "key_env": "JUDGE_KEY"}
    benchmark = {
        "kind": "dialogue",
        "data": str(place / "asked.jsonl"),
        "limit": 3,
        "max_new_tokens": 4,
        "judge": judge | {"attempts": 1},
    }
    run = api.create(job_of(place, models=[str(place / "large")], benchmarks=[benchmark]))
    try:
        with pytest.raises(NuggetsError, match="resume the run once it is available"):
            run_in_foreground(run, lambda event: None)
        server.replies = ["B", "A"]
        run_in_foreground(run, lambda event: None)
    finally:
        server.stop()
    assert len(server.seen) == 5 + 2  # what was judged is not asked again
    [found] = outcomes(run).values()
    assert found["outcomes"]["win_rate"] == [1.0, 0.5, 0.0]
    assert found["metric"] == "win_rate"
    kept = [path.read_bytes() for path in run.folder.rglob("*") if path.is_file()]
    assert not any(b"sk-very-secret" in content for content in kept)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"models": ["run:none"]}, "No run id begins"),
        ({"models": ["teacher", "teacher"]}, "named twice"),
        ({"benchmarks": [{"kind": "gsm8k"}, {"kind": "gsm8k"}]}, "is listed twice"),
        ({"benchmarks": [{"kind": "gsm8k", "data": "/none.jsonl"}]}, "does not exist"),
        ({"benchmarks": [{"kind": "dialogue", "data": "x.jsonl"}]}, "judge: Field required"),
    ],
)
def test_what_cannot_work_is_refused_before_a_run_is_made(place, home, changes, sentence):
    with pytest.raises(BadInput, match=sentence):
        api.create(job_of(place, **changes))
    assert api.runs() == []


def test_the_command_measures_prints_and_keeps(place, nuggets, tmp_path):
    done = nuggets(
        "evaluate", place / "large", place / "small", "--benchmark", "super_ni",
        "--data", place / "asked.jsonl", "--limit", 6, "--max-new-tokens", 3,
        "--out", tmp_path / "out", "--device", "cpu", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    [table] = done.json["tables"]
    assert table["n_items"] == 6
    assert (tmp_path / "out" / "tables" / "tables.json").is_file()
    again = nuggets("show", done.json["run"])
    assert "super_ni, 6 items" in again.out
    assert "better than large by" in again.out
    alone = nuggets(
        "evaluate", place / "large", "--benchmark", "super_ni", "--data", place / "asked.jsonl",
        "--limit", 2, "--max-new-tokens", 3, "--device", "cpu",
    )  # fmt: skip
    assert "super_ni, 2 items" in alone.out
    assert "better than" not in alone.out, "there is nobody to compare with"
    refused = nuggets(
        "evaluate", place / "large", "--benchmark", "super_ni", "--data", place / "asked.jsonl",
        "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert refused.code == 2
    assert "nothing is ever overwritten" in refused.json["error"]["message"]


def test_the_prompt_command_shows_the_exact_text_and_the_loss_mask(place, nuggets):
    done = nuggets("prompt", place / "large", "--data", place / "asked.jsonl", "--json")
    assert done.code == 0, done.err
    [shown] = done.json
    assert shown["prompt"].startswith("<|user|>\n")
    assert shown["prompt"].endswith("\n\n<|assistant|>\n")
    assert shown["answer"].endswith("<eos>")
    assert shown["n_answer"] == 4  # "d = d" and the end
    asked = nuggets(
        "prompt", place / "large", "--benchmark", "gsm8k", "--shots", 8,
        "--data", place / "asked.jsonl", "--json",
    )  # fmt: skip
    assert asked.json[0]["prompt"].count("+ 1") == 9

"""A whole transfer on a tiny pair with its own data: complete, repeatable, unharmed by kills."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from nuggets import api
from nuggets.disk.manifest import verify_folder
from nuggets.errors import BadInput, Cancelled, Damaged
from nuggets.runs import processes, results
from nuggets.runs.schema import LIVE
from nuggets.runs.store import RunStore
from nuggets.stages import transfer
from nuggets.worker import run_in_foreground

ARMS = ("vanilla", "plain", "paper", "permuted")
SEEDS = (0, 1)
KILLS_PER_RUN = 5
LONG = 200
"""Rounds of `make faults`."""
STAGES = ("load", "sensitivity", "plan", "train", "train", "train", "report")
ALL_STAGES = ("load", "sensitivity", "plan", "train", "train", "benchmark", "benchmark", "report")
"""Where kills land in a run that also chooses rates and measures benchmarks."""
TOOK = re.compile(r'"((?:all_)?seconds|peak_memory|total_evaluation_time_seconds)": "?[\d.e-]+"?')
TIMED = ("cell.json", "report.json", "outcome.json", "results.json", "tables.json")


def digits(n, draw):
    return " ".join(draw.choices("0123456789", k=n))


@pytest.fixture(scope="module")
def material(tmp_path_factory, tiny, jsonl):
    """Two models and three files that share no question."""
    folder = tmp_path_factory.mktemp("data")
    draw = random.Random(3)
    asked: dict[str, str] = {}
    while len(asked) < 90:
        asked[digits(4, draw)] = digits(2, draw)
    pairs = list(asked.items())
    files = {"seed_samples": pairs[:6], "train": pairs[6:46], "test": pairs[46:]}
    return {
        "teacher": tiny("llama", seed=1, num_hidden_layers=3),
        "student": tiny(
            "llama",
            seed=2,
            hidden_size=16,
            intermediate_size=24,
            num_attention_heads=2,
            num_key_value_heads=1,
        ),
        **{name: jsonl(folder / f"{name}.jsonl", dict(own)) for name, own in files.items()},
    }


def recipe_of(material, **changes):
    tree = {
        "job": "transfer",
        "name": "digits",
        "teacher": str(material["teacher"]),
        "student": str(material["student"]),
        "data": {
            **{name: str(material[name]) for name in ("seed_samples", "train", "test")},
            "n_train": 16,
            "n_test": 8,
        },
        "lora": {"r": 4, "alpha": 8, "dropout": 0.1},
        "train": {
            "steps": 12,
            "batch_size": 4,
            "lr": 1e-2,
            "checkpoint_every": 3,
            "evaluate_every": 6,
        },
        "arms": [{"kind": kind} for kind in ARMS],
        "seeds": list(SEEDS),
        "device": "cpu",
    }
    return api.parse_job({**tree, **changes})


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """A run on small models sets one thread for itself; here for all."""
    before = torch.get_num_threads()
    yield torch.set_num_threads(1)
    torch.set_num_threads(before)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"
    for run in api.runs():
        if run.status() in LIVE:
            run.request_cancel()
    for child in processes.children:
        child.wait(timeout=120)


@pytest.fixture(scope="module")
def finished(material, tmp_path_factory):
    """The run that nobody interrupts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUGGETS_HOME", str(tmp_path_factory.mktemp("finished")))
        return api.run(recipe_of(material))


@pytest.fixture(scope="module")
def tuned(material, tmp_path_factory):
    """One that chooses learning rates on validation items and measures a benchmark."""
    pytest.importorskip("lm_eval")
    train = {"steps": 12, "batch_size": 4, "lr_grid": [5e-3, 1e-2], "checkpoint_every": 3}
    task = {"kind": "super_ni", "data": str(material["test"]), "max_new_tokens": 4, "limit": 6}
    arms = [{"kind": "plain"}, {"kind": "paper"}]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUGGETS_HOME", str(tmp_path_factory.mktemp("tuned")))
        return api.run(recipe_of(material, train=train, benchmarks=[task], arms=arms))


def kept(run):
    """All that a run keeps, without what must differ: its id, seconds and memory that it took."""
    root = run.folder / "artifacts"
    found = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        name = path.relative_to(root).as_posix()
        assert ".tmp" not in name
        if path.name == "manifest.json":
            found[name] = sorted(json.loads(path.read_text())["sha256"])
        elif path.name == "README.md":
            found[name] = path.read_text().replace(run.id, "RUN")
        elif path.name in TIMED:
            found[name], count = TOOK.subn(r'"\1": 0', path.read_text())
            assert count >= 1
        else:
            found[name] = path.read_bytes()
    return found


def assert_same(run, other):
    ours, theirs = kept(run), kept(other)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_the_report_counts_every_arm_seed_and_item(finished, material):
    assert finished.status() == "done"
    report = api.report(finished)
    assert list(report.arms) == list(ARMS)
    for arm in report.arms.values():
        assert (arm.seeds, arm.n) == ([0, 1], 8)
        assert arm.interval[0] <= arm.value <= arm.interval[1]
        assert arm.steps == (0 if arm.name == "vanilla" else 12)
        assert arm.metrics.keys() == {"exact_match", "loss"}
    assert report.verdict.sentence
    cells = api.cells(finished)
    assert [(cell.arm, cell.seed) for cell in cells] == [(a, s) for a in ARMS for s in SEEDS]
    wanted = [json.loads(line) for line in material["test"].read_text().splitlines()][:8]
    for cell in cells:
        assert cell.items == [sample["id"] for sample in wanted]
        rows = api.answers(finished, cell.arm, cell.seed)
        assert [row["question"] for row in rows] == [w["messages"][0]["content"] for w in wanted]
        assert [row["expected"] for row in rows] == [w["messages"][1]["content"] for w in wanted]
        exact = [float(row["answer"] == row["expected"]) for row in rows]
        assert exact == cell.outcomes["exact_match"]


def test_training_changed_what_it_should(finished):
    cells = {(cell.arm, cell.seed): cell for cell in api.cells(finished)}
    losses = {key: sum(cell.outcomes["loss"]) for key, cell in cells.items()}
    assert losses["vanilla", 0] == losses["vanilla", 1]
    trained = [losses[arm, seed] for arm in ARMS[1:] for seed in SEEDS]
    assert len(set(trained)) == len(trained), "arms and seeds must differ"
    assert max(trained) < losses["vanilla", 0]
    for arm in ARMS[1:]:
        record = json.loads((results.cell_folder(finished, arm, 0) / "record.json").read_text())
        assert record["step0_difference"] < 1e-4
        assert len(record["losses"]) == 12


def test_identity_at_step_zero_is_told_before_the_first_loss(finished):
    first: dict[tuple[object, object], dict[str, object]] = {}
    for event in finished.events():
        if event.type == "metric" and "lr" not in event.data:
            first.setdefault((event.data["arm"], event.data["seed"]), event.data)
    told = {cell: data.get("step0") for cell, data in first.items()}
    for cell in api.cells(finished):
        folder = results.cell_folder(finished, cell.arm, cell.seed)
        record = json.loads((folder / "record.json").read_text())
        assert told[cell.arm, cell.seed] == record["step0_difference"]


def losses_of(model, tokenizer, rows):
    """Mean negative log-likelihood per answer token, item by item, without padding."""
    found = []
    for row in rows:
        prompt = f"<|user|>\n{row['question']}\n\n<|assistant|>\n"
        asked = len(tokenizer(prompt)["input_ids"])
        ids = torch.tensor([tokenizer(prompt + row["expected"] + "<eos>")["input_ids"]])
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0, asked - 1 : -1]
        found.append(float(cross_entropy(logits, ids[0, asked:])))
    return found


@pytest.mark.parametrize("arm", ["plain", "paper", "permuted"])
def test_adapters_on_the_untouched_student_have_the_losses_reported(finished, material, arm):
    tokenizer = AutoTokenizer.from_pretrained(material["student"])
    cell = next(c for c in api.cells(finished) if (c.arm, c.seed) == (arm, 1))
    student = AutoModelForCausalLM.from_pretrained(material["student"])
    folder = results.cell_folder(finished, arm, 1) / "adapter"
    model = PeftModel.from_pretrained(student, str(folder)).eval()
    found = losses_of(model, tokenizer, api.answers(finished, arm, 1))
    assert found == pytest.approx(cell.outcomes["loss"], abs=1e-4)


def test_exports_have_the_losses_reported(finished, material, tmp_path, monkeypatch, nuggets):
    monkeypatch.setenv("NUGGETS_HOME", str(finished.folder.parents[1]))
    out, whole = tmp_path / "adapter", tmp_path / "model"
    short = finished.id[:-2]
    assert nuggets("export", short, "--out", out).code == 0
    card = nuggets("export", short, "--out", whole, "--merged", "--seed", 0, "--json").json
    assert (card["arm"], card["seed"], card["merged"]) == ("paper", 0, True)
    rows = api.answers(finished, "paper", 0)
    cell = next(c for c in api.cells(finished) if (c.arm, c.seed) == ("paper", 0))
    tokenizer = AutoTokenizer.from_pretrained(whole)
    merged = AutoModelForCausalLM.from_pretrained(whole)
    assert losses_of(merged, tokenizer, rows) == pytest.approx(cell.outcomes["loss"], abs=1e-4)
    student = AutoModelForCausalLM.from_pretrained(material["student"])
    model = PeftModel.from_pretrained(student, str(out))
    assert losses_of(model, tokenizer, rows) == pytest.approx(cell.outcomes["loss"], abs=1e-4)
    for wrong in (["--arm", "vanilla"], ["--arm", "nobody"], ["--seed", 7]):
        refused = nuggets("export", short, "--out", tmp_path / "no", *wrong)
        assert (refused.code, refused.err.count("\n")) == (2, 1)
        assert not (tmp_path / "no").exists()
    assert nuggets("export", short, "--out", out).code == 2


def test_the_same_recipe_gives_the_same_results_and_bytes(finished, material, home):
    again = api.run(recipe_of(material))
    assert again.id != finished.id
    assert_same(again, finished)


class Nursery:
    """The process that forks workers; see nursery.py."""

    def __init__(self, *models):
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("nursery.py")), *map(str, models)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "ready\n"

    def start(self, run):
        home = run.folder.parents[1]
        self.process.stdin.write(f"{home}\t{run.folder}\n")
        self.process.stdin.flush()
        return self._read("child")

    def wait(self):
        return self._read("status")

    def _read(self, what):
        """The next number of this kind; what an earlier test left unread is passed over."""
        for line in self.process.stdout:
            kind, number = line.split()
            if kind == what:
                return int(number)
        raise AssertionError("the nursery is gone")


@pytest.fixture(scope="module")
def nursery(material):
    made = Nursery(material["teacher"], material["student"])
    yield made
    made.process.stdin.close()
    made.process.wait(timeout=120)
    made.process.stdout.close()


def wait_until(condition, run):
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline, run.log_tail()
        time.sleep(0.001)


def kill_in(run, nursery, stage, draw, stages=STAGES):
    """Starts an attempt and kills it a random moment after it entered a stage (or a later one)."""
    pid = nursery.start(run)
    later = stages[stages.index(stage) :]
    wait_until(lambda: run.record().stage in later or run.status() == "done", run)
    time.sleep(draw.uniform(0, {"train": 0.3, "benchmark": 0.3}.get(stage, 0.05)))
    with contextlib.suppress(ProcessLookupError):  # it was done a moment before
        os.kill(pid, signal.SIGKILL)
    nursery.wait()
    return run.record().stage


def landed(run, stage):
    """Where a kill landed; in training, whether it was among the rates of unfinished cells."""
    rates = api.job_of(run).train.lr_grid and len(api.cells(run)) < len(cell_names(run))
    return "choice of rates" if stage == "train" and rates else stage


def cell_names(run):
    job = api.job_of(run)
    return [(arm.name, seed) for arm in job.arms for seed in job.seeds]


@pytest.mark.parametrize(
    ("whole", "stages"),
    [("finished", STAGES), pytest.param("tuned", ALL_STAGES, marks=pytest.mark.slow)],
)
def test_a_run_killed_at_random_moments_ends_as_if_nothing_had_happened(
    whole, stages, request, tmp_path, nursery, counted
):
    finished = request.getfixturevalue(whole)
    rounds = int(os.environ.get("NUGGETS_FAULT_ROUNDS", "10"))
    draw, hit, kills = random.Random(os.urandom(8)), Counter(), 0
    while kills < rounds // 2:
        store = RunStore(tmp_path / f"home-{kills}" / "runs")
        run = store.create("transfer", finished.recipe_text(), "digits")
        for stage in sorted(draw.sample(stages, k=KILLS_PER_RUN), key=stages.index):
            if run.status() == "done":
                break
            hit[landed(run, kill_in(run, nursery, stage, draw, stages))] += 1
            kills += 1
            assert run.status() in ("interrupted", "done")
            for manifest in (run.folder / "artifacts").rglob("manifest.json"):
                if not any(part.startswith(".") for part in manifest.parts):
                    verify_folder(manifest.parent)
        if run.status() != "done":
            nursery.start(run)
            assert nursery.wait() == 0, run.log_tail()
        assert_same(run, finished)
        assert not list((run.folder / "checkpoints").rglob("checkpoint-*"))
    assert len(hit) >= (3 if rounds < LONG else len(set(stages))), hit
    for stage, times in hit.items():
        counted("F2", f"SIGKILL in a real transfer, in {stage or 'load'}", times)


def test_a_run_is_cancelled_within_seconds_and_resumes_to_the_same_end(
    finished, material, home, nuggets, nursery
):
    for _ in range(5):  # so short a run may be done before it is asked to stop
        run = api.create(recipe_of(material))
        nursery.start(run)
        wait_until(lambda run=run: run.record().stage in ("train", "report"), run)
        ended = nuggets("cancel", run.id[:-1], "--json")
        if ended.code == 0:
            break
        nursery.wait()
    assert ended.json == {"run": run.id, "status": "cancelled"}
    assert os.waitstatus_to_exitcode(nursery.wait()) == 1
    assert nuggets("cancel", run.id).code == 2
    assert nuggets("follow", run.id).code == 1
    assert nuggets("resume", run.id, "--json").json["run"] == run.id
    followed = nuggets("follow", run.id, "--json")
    assert followed.code == 0, followed.err
    assert followed.json["status"] == "done"
    assert_same(run, finished)
    assert nuggets("resume", run.id).code == 2


def test_a_run_cancelled_in_every_stage_in_turn_ends_as_if_nothing_had_happened(
    finished, material, home
):
    run = api.create(recipe_of(material))
    ended_in = []
    for stage in list(dict.fromkeys(STAGES))[:-1]:

        def ask(event, stage=stage):
            if (event.type, event.message) == ("stage", stage):
                run.request_cancel()

        with pytest.raises(Cancelled):
            run_in_foreground(run, ask)
        ended_in.append((run.record().stage, run.status()))
    assert ended_in == [(s, "cancelled") for s in ("load", "sensitivity", "plan", "train")]
    assert run_in_foreground(run, lambda event: None).status == "done"
    assert_same(run, finished)


def changed_recipe(run, material):
    text = run.recipe_text()
    (run.folder / "recipe.yaml").write_text(text.replace("lr: 0.01", "lr: 0.02"))
    assert run.recipe_text() != text
    RunStore(run.folder.parent).adopt(run.recipe_text())  # changed by somebody who may
    return "recipe"


def changed_teacher(run, material):
    path = Path(material["teacher"]) / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, path, metadata={"format": "pt"})
    return "teacher"


def changed_tokenizer(run, material):
    path = Path(material["student"]) / "tokenizer_config.json"
    path.write_text(path.read_text() + "\n")
    return "student"


def changed_training_data(run, material):
    lines = material["train"].read_text().splitlines()
    material["train"].write_text("\n".join(lines[:-1]) + "\n")
    return "data.train"


def committed_cells(run):
    """Names of the finished cells; a temporary that a kill left behind is not one."""
    return sorted(p.name for p in (run.folder / "artifacts" / "cells").glob("[!.]*"))


@pytest.mark.parametrize(
    "change", [changed_recipe, changed_teacher, changed_tokenizer, changed_training_data]
)
def test_a_resume_with_changed_input_is_refused_and_names_it(change, material, tmp_path, nursery):
    own = dict(material)
    for name in ("teacher", "student"):
        own[name] = shutil.copytree(material[name], tmp_path / name)
    for name in ("seed_samples", "train", "test"):
        own[name] = Path(shutil.copy(material[name], tmp_path))
    store = RunStore(tmp_path / "home" / "runs")
    # Far longer than any machine needs to be killed in between.
    recipe = recipe_of(own, train={"steps": 20_000, "batch_size": 4, "lr": 1e-2})
    run = store.create("transfer", api.dump_job(recipe), "digits")
    kill_in(run, nursery, "train", random.Random(0))
    assert run.status() == "interrupted"
    name = change(run, own)
    cells = committed_cells(run)
    nursery.start(run)
    assert os.waitstatus_to_exitcode(nursery.wait()) == 2
    assert run.status() == "failed"
    assert re.search(
        rf"its input changed: {name} was [\w:]+, is [\w:]+", run.record().error.message
    )
    assert committed_cells(run) == cells


def test_a_teacher_that_changes_during_a_run_ends_it_before_anything_is_kept(
    material, tmp_path, home
):
    own = dict(material, teacher=shutil.copytree(material["teacher"], tmp_path / "teacher"))
    run = api.create(recipe_of(own))

    def change(event):
        if (event.type, event.message) == ("stage", "train"):
            changed_teacher(run, own)

    with pytest.raises(Damaged, match=r"teacher changed while they were in use"):
        run_in_foreground(run, change)
    assert committed_cells(run) == []


def test_samples_that_change_while_they_are_read_end_the_run(material, tmp_path, home, monkeypatch):
    own = dict(material, train=Path(shutil.copy(material["train"], tmp_path)))
    run, real = api.create(recipe_of(own)), transfer.check_transfer

    def reading(*given):
        changed_training_data(run, own)
        return real(*given)

    monkeypatch.setattr(transfer, "check_transfer", reading)
    with pytest.raises(BadInput, match=r"its input changed: data\.train was"):
        run_in_foreground(run, lambda event: None)


def test_a_run_with_old_names_resumes_to_the_same_end(finished, tmp_path, nursery):
    """Samples were called `seeds` in its recipe and its record."""
    text = finished.recipe_text()
    old = text.replace("  seed_samples:", "  seeds:").replace("  n_seed_samples:", "  n_seeds:")
    assert old.count("seeds:") == 3  # two of samples and the run seeds
    run = RunStore(tmp_path / "home" / "runs").create("transfer", old, "digits")
    kill_in(run, nursery, "train", random.Random(0))
    record = run.record_path.read_text()
    run.record_path.write_text(record.replace('"data.seed_samples"', '"data.seeds"'))
    assert run.record_path.read_text() != record
    nursery.start(run)
    assert nursery.wait() == 0, run.log_tail()
    assert run.recipe_text() == old
    assert_same(run, finished)


def test_two_runs_on_one_device_queue_visibly(material, home, nuggets, nursery, tmp_path):
    first = api.create(recipe_of(material, name="first"))
    nursery.start(first)
    wait_until(lambda: first.status() == "running", first)
    second = recipe_of(material, name="second", seeds=[0], arms=[{"kind": "vanilla"}])
    (tmp_path / "second.yaml").write_text(api.dump_job(second))
    named = [
        second.teacher,
        second.student,
        *(material[n] for n in ("seed_samples", "train", "test")),
    ]
    assert nuggets("allow", tmp_path / "second.yaml", *named).code == 0
    ended = nuggets("run", tmp_path / "second.yaml")
    assert ended.code == 0, ended.err
    assert f"Waiting for cpu, held by run {first.id}." in ended.err
    assert first.status() == "done"
    assert nursery.wait() == 0

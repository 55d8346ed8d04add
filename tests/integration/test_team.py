"""Several processes train one model: the steps of one process, up to rounding, and no orphans."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from pydantic import ValidationError
from torch.multiprocessing.spawn import start_processes

from nuggets import api
from nuggets.data.samples import encode
from nuggets.errors import BadInput, Cancelled, NonFinite, NuggetsError
from nuggets.extraction.adapter import add_lora
from nuggets.extraction.plan import LoraConfig
from nuggets.progress import InMemoryProgress
from nuggets.runs import results
from nuggets.stages.measuring import devices_for
from nuggets.train import team
from nuggets.train.cells import train_cell
from nuggets.train.checkpoints import trainable
from nuggets.train.config import TrainConfig
from nuggets.train.finetune import finetune
from nuggets.train.lab import Trainee
from nuggets.train.losses import DistillationLoss, answer_loss
from nuggets.train.randomness import seeded
from tests.unit.train.tiny_lab import letters, load, make_lab

CONFIG = TrainConfig(steps=4, batch_size=5, lr=5e-3, warmup=0.0, checkpoint_every=2)
HELPERS = ("cpu",)


@pytest.fixture
def warm(forked, monkeypatch):
    """Helpers are forked from a process that has imported all that they need, once for all tests.

    Those of a run, and those of a leader that is killed, start as everywhere.
    """

    def spawn(work, given, **options):
        words = (dict(os.environ), work, *given)
        start = forked.get_start_method()
        return start_processes(_in_surroundings, words, start_method=start, **options)

    monkeypatch.setattr(team, "spawn", spawn)


def _in_surroundings(index, environment, work, *given):
    os.environ |= environment  # the process that forks has those of before
    work(index, *given)


@pytest.fixture
def loaded(tiny):
    return load(tiny("llama"))


@pytest.fixture
def encoded(loaded):
    # 11 samples in batches of 5: the third batch has one, and a process without any.
    return [encode(sample, loaded.tokenizer) for sample in letters(11, 3)]


def adapted(loaded, dropout=0.0):
    ranks = {loaded.spec.module(role, 0): 4 for role in ("q", "v", "down")}
    with seeded(0):
        model = load(Path(loaded.model.config._name_or_path)).model
        return add_lora(model, ranks, LoraConfig(r=4, dropout=dropout))


def weights(model):
    return {name: p.detach().clone() for name, p in trainable(model).items()}


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("loss", ["answers", pytest.param("distillation", marks=pytest.mark.slow)])
def test_two_processes_take_the_steps_of_one(loss, loaded, encoded, tiny, tmp_path):
    teacher = load(tiny("llama", seed=1)).model
    measure = DistillationLoss(teacher) if loss == "distillation" else None
    models, logs = [adapted(loaded), adapted(loaded)], []
    for index, (model, helpers) in enumerate(zip(models, ((), HELPERS), strict=True)):
        folder = tmp_path / str(index)
        log = finetune(
            model, encoded, CONFIG, 0, folder, helpers=helpers, loss=measure,
            on_evaluate=lambda step: step,
        )  # fmt: skip
        logs.append(log)
    alone, together = logs
    assert together.losses == pytest.approx(alone.losses, rel=1e-5)
    assert together.curve == alone.curve == [(0, 0), (4, 4)]
    for name, weight in weights(models[0]).items():
        torch.testing.assert_close(weights(models[1])[name], weight, atol=1e-5, rtol=1e-4)
    assert weights(models[0]).keys() == weights(models[1]).keys()
    assert not multiprocessing.active_children()
    assert not list(tmp_path.glob("*/.team-*"))
    assert PartialState().num_processes == 1, "what comes next in this process is alone"


@pytest.mark.usefixtures("warm")
def test_a_resumed_team_equals_an_uninterrupted_one_bit_for_bit(loaded, encoded, tmp_path):
    models, logs = [adapted(loaded, dropout=0.2) for _ in range(2)], []
    for model in models:
        shutil.rmtree(tmp_path / "checkpoint-4", ignore_errors=True)
        log = finetune(model, encoded, CONFIG, 0, tmp_path, helpers=HELPERS)
        logs.append(log)
        assert (tmp_path / "checkpoint-2").is_dir()
    assert len(logs[0].losses) == 4
    assert logs[1].losses == logs[0].losses
    for name, weight in weights(models[0]).items():
        assert torch.equal(weights(models[1])[name], weight)


class Cramped:
    """A loss that has no memory for more than one row in the helper alone."""

    def __init__(self):
        self.leader = os.getpid()

    def __call__(self, model, ids, labels):
        loss = answer_loss(model, ids, labels)
        if os.getpid() != self.leader and len(ids) > 1:
            raise torch.OutOfMemoryError("none left")
        return loss


@pytest.mark.usefixtures("warm")
def test_a_helper_without_memory_halves_its_share(loaded, encoded):
    alone = finetune(adapted(loaded), encoded, CONFIG, 0)
    log = finetune(adapted(loaded), encoded, CONFIG, 0, helpers=HELPERS, loss=Cramped())
    assert log.losses == pytest.approx(alone.losses, rel=1e-5)


class Broken:
    """A loss that goes wrong in the helper alone."""

    def __init__(self, how):
        self.how, self.leader = how, os.getpid()

    def __call__(self, model, ids, labels):
        loss = model(input_ids=ids).logits.float().square().mean()
        if os.getpid() == self.leader:
            return loss
        if self.how == "memory":
            loss.backward()
            raise torch.OutOfMemoryError("none left")
        if self.how == "nan":
            return loss * float("nan")
        if self.how == "raises":
            raise ValueError("a helper's own problem")
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize(
    ("how", "error", "sentence"),
    [
        ("nan", NonFinite, "loss became nan at step 1"),
        ("raises", NuggetsError, "(?s)One of 2 processes .* failed: .*a helper's own problem"),
        ("memory", NuggetsError, "(?s)One of 2 processes .* Training ran out of memory"),
        ("killed", NuggetsError, "One of 2 processes that train together failed: .*SIGKILL"),
    ],
)
def test_what_goes_wrong_in_a_helper_ends_the_training(how, error, sentence, loaded, encoded):
    model = adapted(loaded)
    before = weights(model)
    with pytest.raises(error, match=sentence):
        finetune(model, encoded, CONFIG, 0, helpers=HELPERS, loss=Broken(how))
    assert all(torch.equal(before[name], weight) for name, weight in weights(model).items())
    assert not multiprocessing.active_children()


class Impatient(InMemoryProgress):
    """Cancels when it hears of the first step."""

    def metric(self, **data):
        self.cancel()


@pytest.mark.usefixtures("warm")
def test_a_cancelled_team_leaves_no_helper_behind(loaded, encoded):
    model, progress = adapted(loaded), Impatient()
    with pytest.raises(Cancelled):
        finetune(model, encoded, CONFIG, 0, helpers=HELPERS, progress=progress)
    assert not multiprocessing.active_children()
    assert not torch.distributed.is_initialized()


LEADER = """
import sys
from multiprocessing import active_children
from pathlib import Path
from nuggets.data.samples import encode
from nuggets.train.config import TrainConfig
from nuggets.train.finetune import finetune
from tests.unit.train.tiny_lab import letters, load

if __name__ == "__main__":
    loaded = load(Path(sys.argv[1]))
    encoded = [encode(sample, loaded.tokenizer) for sample in letters(8, 3)]
    config = TrainConfig(steps=20_000, batch_size=4, lr=1e-3)
    finetune(
        loaded.model, encoded, config, 0, Path(sys.argv[2]), helpers=("cpu",),
        on_evaluate=lambda step: print(len(active_children()), flush=True) or 0.0,
    )
"""


@pytest.mark.slow
def test_helpers_die_with_a_killed_leader(tiny, tmp_path):
    script = tmp_path / "leader.py"
    script.write_text(LEADER)
    command = [sys.executable, str(script), str(tiny("llama")), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as leader:
        assert leader.stdout is not None
        try:
            assert leader.stdout.readline() == "1\n"  # helper
            time.sleep(0.5)  # some steps
        finally:
            leader.kill()
        leader.communicate(timeout=120)  # ends with the last process that holds the output


def test_a_loss_that_is_no_mean_over_answers_is_left_to_one_process(tiny, monkeypatch):
    lab = dataclasses.replace(make_lab(tiny), helpers=HELPERS)
    trainee = Trainee(lab.student, lab.training(0), loss=lambda *batch: answer_loss(*batch))
    asked = []
    monkeypatch.setattr(
        "nuggets.train.finetune.finetune", lambda *_, helpers, **__: asked.append(helpers)
    )
    progress = InMemoryProgress()
    for each in (trainee, dataclasses.replace(trainee, loss=None)):
        train_cell(lab, each, lab.train, 0, None, [], "loss", progress=progress)
    assert asked == [(), HELPERS]
    assert progress.messages == [
        "This arm is trained by one process, because its loss is not a mean over answer tokens."
    ]


@pytest.mark.slow
def test_a_run_whose_arms_are_trained_by_two_processes(tmp_path, monkeypatch):
    tree = {"job": "transfer", "arms": [{"kind": "plain"}], "seeds": [0], "device": "cpu"}
    tree["data"] = {"task": "reverse", "n_train": 16, "n_test": 8}
    found = []
    for processes in (1, 2):
        monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / str(processes)))  # nothing is reused
        train = {"steps": 4, "batch_size": 4, "processes": processes}
        run = api.run(api.parse_job({**tree, "train": train}))
        assert run.status() == "done"
        found.append(api.cells(run)[0].outcomes["loss"])
        record = results.cell_folder(run, "plain", 0) / "record.json"
        assert len(json.loads(record.read_text())["losses"]) == 4
    assert found[0] != found[1]  # by another order of sums, and by no more
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_processes_find_their_gpus_and_are_refused_where_there_are_too_few(monkeypatch):
    assert devices_for("cpu", 3, "train") == ["cpu"] * 3
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert devices_for("cuda:1", 3, "train") == ["cuda:1", "cuda:0", "cuda:2"]
    assert devices_for("cuda:1", 1, "train") == ["cuda:1"]
    with pytest.raises(
        BadInput,
        match=r"^4 processes need 4 GPUs, but this machine has 3\. Lower train\.processes\.$",
    ):
        devices_for("cuda:0", 4, "train")
    with pytest.raises(ValidationError, match="processes train one arm after another"):
        TrainConfig(processes=2, concurrent="always")

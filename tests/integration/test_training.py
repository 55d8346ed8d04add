"""Cells end to end: killed and resumed, reported, tuned, healed."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nuggets.data.samples import Sample
from nuggets.errors import Cancelled
from nuggets.evaluation.outcomes import evaluate
from nuggets.extraction.adapter import load_adapter
from nuggets.progress import InMemoryProgress
from nuggets.statistics.report import build_report
from nuggets.train.arms.family import Full, Gaussian, Graft, Paper, Plain, TeacherLabels, Vanilla
from nuggets.train.builders.graft import cut
from nuggets.train.cells import CellRecord, learned_items, run_cell
from nuggets.train.config import TrainConfig
from nuggets.train.lab import Workspace
from tests.integration.cell_worker import OLD, TEST, TRAIN, work
from tests.unit.train.tiny_lab import STUDENT, TEACHER, letters, make_lab


@pytest.fixture
def lab(tiny):
    return make_lab(tiny, train=TRAIN)


@pytest.fixture
def processes(forked):
    """Starts a cell in a process; what it imports is imported once for all of them."""

    def start(*arguments):
        process = forked.Process(target=work, args=arguments)
        process.start()
        return process

    return start


@pytest.mark.parametrize("kind", ["paper", pytest.param("graft", marks=pytest.mark.slow)])
def test_cells_killed_at_random_moments_resume_to_the_same_bytes(tiny, tmp_path, processes, kind):
    pair = tiny("llama", **TEACHER), tiny("llama", **STUDENT)
    draw, kills = random.Random(kind), 0
    work(*pair, kind, tmp_path / "work-calm", tmp_path / "calm")
    folder = tmp_path / "work-killed"

    def checkpoints():
        return {path.parent for path in folder.rglob("manifest.json")}

    while not (tmp_path / "killed").exists() or kills < 2:
        if (tmp_path / "killed").exists():  # it was done before this process looked
            shutil.rmtree(tmp_path / "killed")
            shutil.rmtree(folder, ignore_errors=True)
        process, seen = processes(*pair, kind, folder, tmp_path / "killed"), checkpoints()
        while kills < 4 and process.is_alive() and not checkpoints() - seen:
            time.sleep(0.001)
        if kills < 4 and process.is_alive():
            time.sleep(draw.uniform(0, 0.02))
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)

    file = "model.safetensors" if kind == "graft" else "adapter_model.safetensors"
    calm, killed = (load_file(tmp_path / name / file) for name in ("calm", "killed"))
    assert all(torch.equal(tensor, killed[name]) for name, tensor in calm.items())
    records = [
        CellRecord.model_validate_json((tmp_path / name / "record.json").read_text())
        for name in ("calm", "killed")
    ]
    assert records[0].losses == records[1].losses
    assert records[0].outcome.curve == records[1].outcome.curve
    assert records[0].outcome.outcomes == records[1].outcome.outcomes
    assert records[0].outcome.old_skills == records[1].outcome.old_skills


def test_a_cell_tells_what_its_exported_adapter_does(lab, tmp_path):
    record_of = run_cell(lab, Paper(), 0, test=TEST, old_skills=OLD, answers=True)
    record_of.save_weights(tmp_path, "student", "")
    outcome = record_of.record.outcome
    reloaded = load_adapter(lab.fresh_student(), tmp_path)
    again = evaluate(reloaded, lab.tokenizer, TEST, answers=True)
    old = evaluate(reloaded, lab.tokenizer, OLD["old"])
    assert outcome.outcomes["exact_match"] == again.values["exact_match"]
    np.testing.assert_allclose(outcome.outcomes["loss"], again.values["loss"], rtol=1e-3)
    assert outcome.old_skills == {"old": old.values["exact_match"]}
    assert record_of.record.answers == again.answers
    assert [step for step, _ in outcome.curve] == [0, 4, 8, 12]
    assert outcome.curve[-1][1] == again.mean("exact_match")
    assert len(record_of.record.losses) == outcome.steps == 12


def test_cells_of_all_seeds_make_a_report(lab):
    cells = [
        run_cell(lab, arm, seed, test=TEST, metrics=("loss", "exact_match"))
        for arm in (Vanilla(), Plain(), Paper(), Gaussian())
        for seed in (0, 1)
    ]
    outcomes = [cell.record.outcome for cell in cells]
    report = build_report(outcomes, task="letters", metric="loss", higher_is_better=False)
    assert list(report.arms) == ["vanilla", "plain", "paper", "gaussian"]
    by_hand = np.mean([cell.outcomes["loss"] for cell in outcomes[2:4]])
    assert report.arms["plain"].value == pytest.approx(by_hand)
    assert report.arms["plain"].value < report.arms["vanilla"].value
    assert report.verdict.sentence


def test_paired_arms_with_the_same_seed_see_the_same_samples_in_the_same_order(lab):
    seen = []

    def record(model, ids, labels):
        from nuggets.train.losses import answer_loss

        seen[-1].append(ids.tolist())
        return answer_loss(model, ids, labels)

    for arm in (Plain(), Paper(), Full()):
        seen.append([])
        made = arm.build(lab, 4)
        spy = type("Spy", (), {"build": lambda *_, m=made: dataclasses.replace(m, loss=record)})
        spied = spy()
        spied.name, spied.role = arm.name, arm.role
        run_cell(lab, spied, 4, test=TEST)
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) == 1 + 12, "one pass counts the operations"
    assert len(seen[0][0]) == 1, "of one sample: a batch may not fit into memory"


def test_every_seed_is_trained_at_every_rate_from_the_same_start_and_keeps_the_best(lab):
    several = dataclasses.replace(
        lab, train=TRAIN.model_copy(update={"lr_grid": (1e-2, 1e-6, 1e39)})
    )
    found = run_cell(several, Plain(), 4, test=TEST, validation=letters(6, 55))
    outcome = found.record.outcome
    assert [trial.lr for trial in outcome.trials] == [1e-6, 1e-2, 1e39]
    assert outcome.trials[0].loss > outcome.trials[1].loss
    assert outcome.trials[2].loss is None, "training diverged"
    alone = dataclasses.replace(lab, train=TRAIN.model_copy(update={"lr": 1e-2}))
    wanted = run_cell(alone, Plain(), 4, test=TEST)
    assert outcome.learning_rate == 1e-2
    assert outcome.outcomes == wanted.record.outcome.outcomes
    assert found.record.losses == wanted.record.losses
    for name, pair in wanted.trainee.factors().items():
        assert all(
            torch.equal(*both) for both in zip(pair, found.trainee.factors()[name], strict=True)
        )


def test_an_arm_that_is_not_trained_has_no_rates(lab):
    several = dataclasses.replace(lab, train=TRAIN.model_copy(update={"lr_grid": (1e-3, 1e-2)}))
    outcome = run_cell(several, Vanilla(), 4, test=TEST).record.outcome
    assert (outcome.trials, outcome.learning_rate) == ([], None)


def test_what_was_learned_of_the_training_items_is_measured_on_those_that_are_whole(lab):
    record = run_cell(lab, Plain(), 4, test=TEST).record.outcome.learned
    assert record.n == len(lab.train_samples(4))
    assert 0 <= record.exact_match <= 1
    longest = max(len(ids) for ids, _ in lab.training(4))
    short = dataclasses.replace(
        lab, train=TRAIN.model_copy(update={"max_length": longest}), _cache={}
    )
    assert learned_items(short, 4)[0] != learned_items(lab, 4)[0]


def test_teacher_labels_are_the_teachers_greedy_answers_to_the_extra_prompts(lab):
    """A teacher that always says "a b" then stops is believed."""

    class Parrot(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.config = lab.teacher.config

        def forward(self, input_ids, past_key_values=None, **_):
            step = 0 if past_key_values is None else past_key_values
            said = lab.tokenizer(["a", "b", "<eos>"])["input_ids"][min(step, 2)][0]
            logits = torch.zeros(*input_ids.shape, 40)
            logits[..., said] = 1
            return type("Output", (), {"logits": logits, "past_key_values": step + 1})

    taught = dataclasses.replace(lab, teacher=Parrot().eval())
    made = TeacherLabels(n=3).build(taught, 0)
    prompts = letters(3, 1000)
    wanted = lab.encode([Sample.of(p.id, p.prompt, "a b") for p in prompts])
    assert made.encoded == [*lab.encode(letters(10, 0)), *wanted]
    assert made.n_samples == 13


def test_a_graft_is_cut_from_the_teacher_by_its_seed_and_healed_on_general_data(lab):
    first, again, other = (
        cut(lab, seed, Graft(origin="random")).state_dict() for seed in (0, 0, 1)
    )
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])
    whole = lab.teacher.state_dict()
    embedding = first["model.embed_tokens.weight"]  # columns of the teacher's
    columns = {tuple(column.tolist()) for column in whole["model.embed_tokens.weight"].T}
    assert all(tuple(column.tolist()) in columns for column in embedding.T)

    general = letters(8, 2000)
    arm = Graft(heal_steps=30, heal_batch=8, heal_samples=8)
    losses = [
        evaluate(model, lab.tokenizer, general, ["loss"]).mean("loss")
        for model in (cut(lab, 0, Graft()), arm.build(lab, 0).model)
    ]
    assert losses[1] < 0.7 * losses[0]


def test_cancelling_ends_a_cell_and_a_resume_finishes_it(lab, tmp_path):
    class Impatient(InMemoryProgress):
        def metric(self, **data):
            if data.get("step") == 7:
                self.cancel()

    with pytest.raises(Cancelled):
        run_cell(lab, Plain(), 0, tmp_path, test=TEST, progress=Impatient())
    resumed = run_cell(lab, Plain(), 0, tmp_path, test=TEST)
    calm = run_cell(lab, Plain(), 0, test=TEST)
    assert resumed.record.losses == calm.record.losses
    assert resumed.record.outcome.outcomes == calm.record.outcome.outcomes


def test_epochs_give_every_arm_the_steps_of_the_shared_samples(tiny):
    lab = make_lab(tiny, train=TrainConfig(epochs=2, batch_size=4, lr=1e-3))
    for arm in (Plain(), TeacherLabels(n=6)):  # 10 samples in batches of 4: 3 steps an epoch
        assert run_cell(lab, arm, 0, test=TEST).record.outcome.steps == 6


def test_a_healed_student_is_read_back_exactly_and_healed_anew_when_anything_differs(
    tiny, tmp_path
):
    lab = dataclasses.replace(make_lab(tiny), kept=tmp_path / "healed")
    lab = dataclasses.replace(lab, workspace=Workspace(tmp_path / "work"))
    arm = Graft(heal_steps=3, heal_batch=4, heal_samples=8)
    first = arm.build(lab, 0).model.state_dict()
    (kept,) = (tmp_path / "healed").iterdir()
    (kept / "log.json").write_text('{"losses": [9.0], "curve": [], "seconds": 7.5}')
    again = arm.build(lab, 0)
    assert again.seconds == 7.5, "it was read back, with the time that it once took"
    assert all(
        torch.equal(first[name], tensor) for name, tensor in again.model.state_dict().items()
    )
    arm.model_copy(update={"heal_lr": 1e-3}).build(lab, 0)
    arm.build(lab, 1)
    assert len(list((tmp_path / "healed").iterdir())) == 3

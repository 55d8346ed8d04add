"""Cut students healed side by side: each is what healing it alone makes of it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from nuggets.errors import Cancelled
from nuggets.progress import InMemoryProgress
from nuggets.train.arms.family import Graft
from nuggets.train.builders.graft import Healing, cut, heal
from nuggets.train.config import TrainConfig
from nuggets.train.lanes import healing
from nuggets.train.lanes.healing import heal_together
from tests.unit.train.tiny_lab import make_lab

TRAIN = TrainConfig(steps=2, batch_size=4, lr=1e-2, checkpoint_every=2)
HOW = {"heal_steps": 6, "heal_batch": 4, "heal_lr": 1e-2, "heal_samples": 20}
ARMS = (Graft(**HOW), Graft(origin="random", **HOW), Graft(origin="permuted", **HOW))
STUDENTS = [(arm, seed, None) for seed in (0, 1) for arm in ARMS]


@pytest.fixture
def lab(tiny, tmp_path):
    made = make_lab(tiny, train=TRAIN)
    return dataclasses.replace(made, kept=tmp_path / "healed")


def weights(lab, arm, seed):
    model = cut(lab, seed, arm)
    log, _ = heal(lab, model, seed, arm)
    return log, model.state_dict()


def test_students_healed_side_by_side_equal_those_healed_alone(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(healing, "HEALED", 4)  # six students: a full model and a smaller one
    unkept = dataclasses.replace(lab, kept=None)
    alone = {(arm.name, seed): weights(unkept, arm, seed) for arm, seed, _ in STUDENTS}
    heal_together(lab, STUDENTS, tmp_path / "checkpoints")
    # From here on students are only read back.
    monkeypatch.setattr("nuggets.train.finetune.finetune", None)
    for arm, seed, _ in STUDENTS:
        log, ours = weights(lab, arm, seed)
        wanted_log, wanted = alone[arm.name, seed]
        assert log.losses == pytest.approx(wanted_log.losses, abs=1e-5)
        for name, value in wanted.items():
            torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=1e-4)


def test_a_student_healed_in_another_precision_is_another_one(lab):
    made = [
        Healing.of(each, cut(each, 0, ARMS[0]), 0, ARMS[0]).kept
        for each in (lab, lab, dataclasses.replace(lab, bf16=True))
    ]
    assert made[0] == made[1] != made[2]


def test_a_cancelled_healing_goes_on_bit_for_bit_and_healed_students_stay(lab, tmp_path):
    class Impatient(InMemoryProgress):
        def progress(self, done, total, message="", **data):
            if done == 3:  # the checkpoint is at 2
                self.cancel()

    heal_together(lab, STUDENTS[:1], tmp_path / "a")
    first = {path: path.stat().st_mtime_ns for path in lab.kept.iterdir()}
    with pytest.raises(Cancelled):
        heal_together(lab, STUDENTS, tmp_path / "b", progress=Impatient())
    heal_together(lab, STUDENTS, tmp_path / "b")
    calm = dataclasses.replace(lab, kept=tmp_path / "calm")
    heal_together(calm, STUDENTS[:1], tmp_path / "c")
    heal_together(calm, STUDENTS[1:], tmp_path / "c")
    assert len(list(lab.kept.iterdir())) == len(STUDENTS)
    assert all(path.stat().st_mtime_ns == when for path, when in first.items())
    for arm, seed, _ in STUDENTS:
        ours, wanted = (weights(each, arm, seed)[1] for each in (lab, calm))
        assert all(torch.equal(ours[name], value) for name, value in wanted.items())

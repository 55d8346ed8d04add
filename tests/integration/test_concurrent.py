"""Arms and seeds side by side: every lane is what it would be alone, stopped, killed or not."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest

from nuggets.train.cells import run_cell
from nuggets.train.concurrent import Cell, run_batch
from nuggets.train.config import TrainConfig
from tests.contract.test_arms import ARMS
from tests.unit.train.tiny_lab import letters, make_lab

TRAIN = TrainConfig(
    steps=6, batch_size=4, lr=1e-2, evaluate_every=4, checkpoint_every=2, weight_decay=0.01
)
TEST, OLD = letters(6, 99), {"old": letters(3, 98)}
SEEDS = (0, 1)
TRAINED = [arm for arm in ARMS if arm.stacks]


def stacks(arm):
    return arm.stacks


def groups(arms):
    return [list(own) for _, own in groupby(sorted(arms, key=stacks), key=stacks)]


def side_by_side(lab, arms, form, folder, seeds=SEEDS, **options):
    cells = [Cell(arm, seed) for seed in seeds for arm in arms]
    found = run_batch(lab, cells, form, folder, test=TEST, old_skills=OLD, answers=True, **options)
    return {(cell.arm.name, cell.seed): result for cell, result in found}


def alone(lab, arm, seed, folder):
    return run_cell(lab, arm, seed, folder, test=TEST, old_skills=OLD, answers=True)


def assert_equal_to_alone(lab, arms, form, folder):
    found = side_by_side(lab, arms, form, folder)
    assert len(found) == len(arms) * len(SEEDS)
    for arm in arms:
        for seed in SEEDS:
            ours, wanted = found[arm.name, seed].record, alone(lab, arm, seed, folder).record
            np.testing.assert_allclose(ours.losses, wanted.losses, rtol=0, atol=1e-5)
            same = {"seconds": 0.0, "outcomes": {}, "trainable_parameters": 0}
            assert ours.outcome.model_copy(update=same) == wanted.outcome.model_copy(update=same)
            assert ours.outcome.trainable_parameters == wanted.outcome.trainable_parameters
            for metric, values in wanted.outcome.outcomes.items():
                np.testing.assert_allclose(ours.outcome.outcomes[metric], values, atol=1e-4)
            assert ours.answers == wanted.answers
            assert ours.note == wanted.note
            assert (ours.step0_difference is None) == (wanted.step0_difference is None)
            assert (ours.step0_difference or 0) < 1e-4


@pytest.mark.parametrize("arms", groups(TRAINED), ids=lambda arms: str(arms[0].stacks))
def test_every_arm_side_by_side_equals_the_arm_alone(tiny, tmp_path, arms):
    lab = make_lab(tiny, train=TRAIN)
    assert_equal_to_alone(lab, arms, "merged", tmp_path)

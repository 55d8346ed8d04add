"""Arms and seeds side by side: every lane is what it would be alone, stopped, killed or not."""

from __future__ import annotations

import dataclasses
from itertools import groupby

import numpy as np
import pytest
import torch

from nuggets.errors import Cancelled, NonFinite
from nuggets.evaluation.outcomes import evaluate
from nuggets.extraction.adapter import load_adapter
from nuggets.extraction.plan import ExtractionConfig, LoraConfig
from nuggets.progress import InMemoryProgress
from nuggets.train import micro_batches
from nuggets.train.arms.family import Distill, Full, Paper, Plain, Vanilla
from nuggets.train.cells import run_cell
from nuggets.train.config import TrainConfig
from nuggets.train.lanes import packing, program
from nuggets.train.lanes.packing import plan_batches
from nuggets.train.lanes.side_by_side import Cell, run_batch
from nuggets.train.lanes.training import LaneTrainer
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


def side_by_side(lab, arms, form, folder=None, seeds=SEEDS, **options):
    cells = [Cell(arm, seed) for seed in seeds for arm in arms]
    found = run_batch(lab, cells, form, folder, test=TEST, old_skills=OLD, answers=True, **options)
    return {(cell.arm.name, cell.seed): result for cell, result in found}


def alone(lab, arm, seed):
    return run_cell(lab, arm, seed, test=TEST, old_skills=OLD, answers=True)


def assert_equal_to_alone(lab, arms, form):
    found = side_by_side(lab, arms, form)
    assert len(found) == len(arms) * len(SEEDS)
    for arm in arms:
        for seed in SEEDS:
            ours, wanted = found[arm.name, seed].record, alone(lab, arm, seed).record
            np.testing.assert_allclose(ours.losses, wanted.losses, rtol=0, atol=1e-5)
            same = {"seconds": 0.0, "outcomes": {}, "trainable_parameters": 0, "learned": None}
            assert ours.outcome.model_copy(update=same) == wanted.outcome.model_copy(update=same)
            assert ours.outcome.trainable_parameters == wanted.outcome.trainable_parameters
            for metric, values in wanted.outcome.outcomes.items():
                np.testing.assert_allclose(ours.outcome.outcomes[metric], values, atol=1e-4)
            learned, by_itself = ours.outcome.learned, wanted.outcome.learned
            assert learned.loss == pytest.approx(by_itself.loss, abs=1e-4)
            assert learned.exact_match == by_itself.exact_match
            assert (learned.guessing, learned.n) == (by_itself.guessing, by_itself.n)
            assert ours.answers == wanted.answers
            assert ours.note == wanted.note
            assert (ours.step0_difference is None) == (wanted.step0_difference is None)
            assert ours.step0_difference == pytest.approx(wanted.step0_difference, abs=1e-4)


@pytest.mark.parametrize("arms", groups(TRAINED), ids=lambda arms: str(arms[0].stacks))
def test_every_arm_side_by_side_equals_the_arm_alone(tiny, arms):
    lab = make_lab(tiny, train=TRAIN)
    assert_equal_to_alone(lab, arms, "merged")


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(("form", "dropout"), [("merged", 0.0), ("shared", 0.0), ("shared", 0.2)])
def test_embedding_head_and_dropout_equal_those_of_the_arm_alone(tiny, form, dropout, tied):
    lab = make_lab(
        tiny,
        LoraConfig(r=4, alpha=6, dropout=dropout),
        ExtractionConfig(roles=("embed", "q", "down", "head")),
        TRAIN,
        tie_word_embeddings=tied,
    )
    assert_equal_to_alone(lab, [Plain(), Paper()], form)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_lanes_compute_batches_in_the_parts_that_the_arm_alone_would(tiny, dropout, monkeypatch):
    """Two samples at once of four; dropout draws the same numbers only if the parts are the same.

    The last batch of an epoch is shorter, and the teacher's labels give one lane more samples.
    """
    monkeypatch.setattr(micro_batches, "rows_at_once", lambda *_: 2)
    roles = ExtractionConfig(roles=("q", "down", "head"))
    lab = make_lab(tiny, LoraConfig(r=4, alpha=6, dropout=dropout), roles, TRAIN)
    assert_equal_to_alone(lab, [Plain(), Paper(), Distill()], "shared")


@pytest.mark.parametrize("form", ["merged", "shared"])
def test_lanes_export_what_they_measured(tiny, tmp_path, form):
    lab = make_lab(tiny, train=TRAIN)
    for key, result in side_by_side(lab, [Plain(), Paper()], form).items():
        folder = tmp_path / f"{key}"
        folder.mkdir()
        result.save_weights(folder, "student", "")
        again = evaluate(load_adapter(lab.fresh_student(), folder), lab.tokenizer, TEST)
        wanted = result.record.outcome.outcomes["loss"]
        np.testing.assert_allclose(again.values["loss"], wanted, rtol=1e-3)


def test_threads_change_no_bit(tiny, monkeypatch):
    monkeypatch.setattr(program, "STACKED", 2)
    lab = make_lab(tiny, LoraConfig(r=4, dropout=0.1), train=TRAIN)
    arms = [Plain(), Paper(), Distill()]
    one, two = (side_by_side(dataclasses.replace(lab, threads=n), arms, "shared") for n in (1, 3))
    for key, result in one.items():
        assert result.record.losses == two[key].record.losses
        assert result.record.outcome.outcomes == two[key].record.outcome.outcomes


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_cancelled_program_resumes_bit_for_bit(tiny, tmp_path, dropout):
    lab = make_lab(tiny, LoraConfig(r=4, dropout=dropout), train=TRAIN)
    arms, form = [Plain(), Paper()], "shared" if dropout else "merged"

    class Impatient(InMemoryProgress):
        def progress(self, done, total, message="", **data):
            if done == 3:  # the checkpoint is at 2
                self.cancel()

    with pytest.raises(Cancelled):
        side_by_side(lab, arms, form, tmp_path, progress=Impatient())
    torch.manual_seed(99)  # whatever the new process has drawn so far
    resumed = side_by_side(lab, arms, form, tmp_path)
    calm = side_by_side(lab, arms, form)
    for key, result in calm.items():
        again = resumed[key].record
        assert result.record.losses == again.losses
        assert result.record.outcome.curve == again.outcome.curve
        assert result.record.outcome.outcomes == again.outcome.outcomes
        wanted, found = result.trainee.factors(), resumed[key].trainee.factors()
        for name, pair in wanted.items():
            assert all(torch.equal(x, y) for x, y in zip(pair, found[name], strict=True))


def test_a_lane_that_diverges_stops_the_program_and_is_named(tiny):
    lab = make_lab(tiny, train=TRAIN.model_copy(update={"lr": 1e39}))
    cells = [Cell(Paper(), 1), Cell(Plain(), 0)]
    message = r"at step 2 of the arm paper, seed 1 \(learning rate 1e\+39\)"
    with pytest.raises(NonFinite, match=message):
        list(run_batch(lab, cells, "merged", test=TEST))


def test_rates_side_by_side_are_those_of_a_cell_alone(tiny):
    lab = make_lab(tiny, train=TRAIN.model_copy(update={"lr_grid": (1e39, 1e-3, 1e-2)}))
    cells, items = [Cell(arm, seed) for seed in SEEDS for arm in (Plain(), Paper())], letters(6, 55)
    found = list(run_batch(lab, cells, "merged", test=TEST, validation=items))
    assert [cell for cell, _ in found] == cells
    for cell, result in found:
        alone = run_cell(lab, cell.arm, cell.seed, test=TEST, validation=items).record.outcome
        ours = result.record.outcome
        assert ours.learning_rate == alone.learning_rate
        assert ours.outcomes["exact_match"] == alone.outcomes["exact_match"]
        assert ours.outcomes["loss"] == pytest.approx(alone.outcomes["loss"], abs=1e-4)
        assert ours.learned.loss == pytest.approx(alone.learned.loss, abs=1e-4)
        assert ours.flops == pytest.approx(alone.flops)
        assert [trial.lr for trial in ours.trials] == [1e-3, 1e-2, 1e39]
        for trial, wanted in zip(ours.trials, alone.trials, strict=True):
            assert trial.value == wanted.value
            assert (trial.loss is None) == (wanted.loss is None) == (trial.lr == 1e39)
            assert trial.loss == pytest.approx(wanted.loss, abs=1e-4)


def test_batches_hold_what_memory_allows_and_go_on_alone_without_any(tiny, monkeypatch):
    lab = make_lab(tiny, train=TRAIN)
    cells = [(arm, seed) for seed in SEEDS for arm in (Vanilla(), Plain(), Full(), Paper())]

    def shapes():
        return [(batch.form, len(batch.cells)) for batch in plan_batches(lab, cells)]

    assert sorted(shapes()) == [("alone", 1), ("alone", 1), ("merged", 2), ("merged", 4)]
    fits = packing.lanes_that_fit(lab, Plain(), 0, "merged")
    assert fits == packing.MOST_LANES
    monkeypatch.setattr(packing, "lanes_that_fit", lambda *_: 3)
    assert sorted(shapes()) == [("alone", 1)] * 3 + [("merged", 2), ("merged", 3)]
    monkeypatch.undo()
    monkeypatch.setattr(packing, "free_memory", lambda device: 1)
    assert shapes() == [("alone", 1)] * 8
    monkeypatch.undo()
    for change in ({"concurrent": "never"}, {"processes": 2}):
        never = dataclasses.replace(lab, train=TRAIN.model_copy(update=change))
        assert {batch.form for batch in plan_batches(never, cells)} == {"alone"}


def test_a_program_without_memory_falls_back_to_one_after_another(tiny, tmp_path, monkeypatch):
    lab = make_lab(tiny, train=TRAIN)

    def full(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    monkeypatch.setattr(LaneTrainer, "step", full)
    progress = InMemoryProgress()
    found = side_by_side(lab, [Plain()], "merged", tmp_path, progress=progress)
    told = " ".join(progress.messages)
    assert "one after another: there is too little memory" in told
    wanted = alone(lab, Plain(), 0).record
    assert found["plain", 0].record.losses == wanted.losses

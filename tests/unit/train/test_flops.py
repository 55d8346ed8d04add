"""Counted operations, by hand on one matrix."""

from __future__ import annotations

import random

import pytest
import torch

from nuggets.train.config import TrainConfig
from nuggets.train.flops import answering_flops, training_flops
from nuggets.train.schedule import batch_order
from tests.unit.train.tiny_lab import STUDENT, load


def of(steps, batch_size, **options):
    return TrainConfig(steps=steps, batch_size=batch_size, **options)


def product(model, ids, labels):
    return model(ids.float()).sum()


def test_operations_of_a_linear_layer_by_hand():
    model = torch.nn.Linear(3, 2, bias=False)
    samples = [([1, 2, 3], [1, 2, 3])] * 4
    # [2, 3] · [3, 2] forward: 2 · 2 · 3 · 2 = 24, as many for the weight's gradient; 5 equal steps
    assert training_flops(model, samples, of(5, 2), 0, product) == pytest.approx(5 * 48)
    assert model.weight.grad is None
    assert training_flops(model, samples, of(0, 2), 0, product) == 0


def test_samples_grouped_by_length_are_counted_as_they_are_trained():
    """They are grouped so that less is padding, which is what is counted."""
    model, draw = torch.nn.Linear(1, 1, bias=False), random.Random(0)
    samples = [([1] * draw.randint(10, 200), [1]) for _ in range(64)]

    def product(model, ids, labels):
        return model(ids.float()[..., None]).sum()

    for grouped in (False, True):
        config = of(8, 8, group_lengths=grouped)
        batches = batch_order(samples, config, 8, 3)
        tokens = sum(len(batch) * max(len(samples[i][0]) for i in batch) for batch in batches)
        found = training_flops(model, samples, config, 3, product)
        assert found == pytest.approx(4 * tokens), grouped


def test_blocks_that_compute_twice_are_counted_twice_on_the_way_forward(tiny):
    model = load(tiny("llama", **STUDENT)).model
    samples = [([1] * 9, [-100, *[1] * 8])] * 2
    kept, again = (
        training_flops(model, samples, of(3, 2, activation_checkpointing=own), 0)
        for own in (False, True)
    )
    # All of a block but its last matrix, whose output nobody needs on the way back.
    names = [n for n, p in model.named_parameters() if ".layers." in n and p.ndim == 2]
    matrices = [model.get_parameter(n).numel() for n in names if "down_proj" not in n]
    attention = 2 * 2 * 9 * 9 * STUDENT["hidden_size"] * model.config.num_hidden_layers
    assert 0 <= (again - kept) / 6 - 2 * 9 * sum(matrices) <= attention


def test_frozen_weights_and_random_generators_are_left_as_they_were():
    model = torch.nn.Linear(3, 2, bias=False).eval()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    training_flops(model, [([1, 2, 3], [1, 2, 3])] * 2, of(1, 2), 0, product)
    assert torch.equal(torch.rand(1), expected)
    assert not model.training


def test_shapes_that_were_counted_before_are_not_counted_again(tiny):
    counted = {}

    def once(key, make):
        counted.setdefault(key, []).append(make)
        return 6.0

    model = load(tiny("llama", **STUDENT)).model
    samples = [([1, 2, 3], [-100, 2, 3])] * 2
    assert training_flops(model, samples, of(1, 2), 0, None, "cpu", once) == 2 * 6
    training_flops(model, samples, of(4, 2), 7, None, "cpu", once)
    assert len(counted) == 1
    training_flops(model, [([1, 2, 3], [-100, -100, 3])] * 2, of(1, 2), 0, None, "cpu", once)
    model.lm_head.weight.requires_grad_(False)
    training_flops(model, samples, of(1, 2), 0, None, "cpu", once)
    assert len(counted) == 3


def test_operations_of_answers_are_those_of_reading_every_token_once(tiny):
    model = load(tiny("llama", **STUDENT)).model
    per_token = sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2) * 2
    per_token -= 2 * model.get_input_embeddings().weight.numel()  # looked up, not multiplied
    written = [([1] * 6, [1] * 6), ([1] * 3, [1] * 3)]
    attention = 2 * 2 * 6 * 16 * model.config.num_hidden_layers * 9
    found = answering_flops(model, written)
    assert per_token * 9 <= found <= per_token * 9 + attention

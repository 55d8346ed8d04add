"""Counted operations, by hand on one matrix."""

from __future__ import annotations

import pytest
import torch

from nuggets.train.flops import training_flops


def product(model, ids, labels):
    return model(ids.float()).sum()


def test_operations_of_a_linear_layer_by_hand():
    model = torch.nn.Linear(3, 2, bias=False)
    samples = [([1, 2, 3], [1, 2, 3])] * 4
    # [2, 3] · [3, 2] forward: 2 · 2 · 3 · 2 = 24, as many for the weight's gradient; 5 equal steps
    assert training_flops(model, samples, 5, 2, 0, product) == pytest.approx(5 * 48)
    assert model.weight.grad is None
    assert training_flops(model, samples, 0, 2, 0, product) == 0


def test_frozen_weights_and_random_generators_are_left_as_they_were():
    model = torch.nn.Linear(3, 2, bias=False).eval()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    training_flops(model, [([1, 2, 3], [1, 2, 3])] * 2, 1, 2, 0, product)
    assert torch.equal(torch.rand(1), expected)
    assert not model.training

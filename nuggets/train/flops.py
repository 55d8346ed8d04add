"""What an arm computes, counted by torch's own counter on real batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from nuggets.bench.evaluate import Encoded, pad_right
from nuggets.train.finetune import sample_order
from nuggets.train.losses import Loss, answer_loss
from nuggets.train.randomness import seeded


def training_flops(
    model: Any,
    encoded: Sequence[Encoded],
    steps: int,
    batch_size: int,
    seed: int,
    loss: Loss | None = None,
    device: torch.device | str = "cpu",
) -> float:
    """Floating-point operations of matrix products in a training, forward and backward.

    The longest sample of the first step is run under `torch.utils.flop_counter` without an update
    (a teacher that the loss asks is counted too) and scaled by the padded tokens of all steps: a
    whole batch might not fit into memory, which the training itself can mend. Attention grows
    faster than the tokens; over batches of one training that is below a percent.

    Args:
        model: as it will be trained; gradients are cleared again, nothing else changes.
        encoded: token ids and labels per sample.
        steps: optimiser steps.
        batch_size: samples per step.
        seed: of the order of samples.
        loss: what is minimised; the answer's likelihood when not given.
        device: where the model is.
    """
    if not steps or not encoded:
        return 0.0
    order = sample_order(len(encoded), steps, batch_size, seed)
    first = max((encoded[i] for i in order[0]), key=lambda sample: len(sample[0]))
    was_training = model.training
    model.train()
    with seeded(seed, device), FlopCounterMode(display=False) as counter:
        (loss or answer_loss)(model, *pad_right([first], device)).backward()
    model.zero_grad(set_to_none=True)
    model.train(was_training)
    tokens = [len(batch) * max(len(encoded[i][0]) for i in batch) for batch in order]
    return counter.get_total_flops() * sum(tokens) / len(first[0])

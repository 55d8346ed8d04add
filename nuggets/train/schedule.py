"""How many steps a training takes, which samples each of them sees, and how its rate changes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from nuggets.errors import BadInput
from nuggets.evaluation.outcomes import Encoded
from nuggets.train.config import TrainConfig
from nuggets.train.randomness import generator

GROUPED = 8
"""Batches whose samples are sorted by length together."""
SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
"""Our name of a schedule → transformers'."""
POINTS = 100
"""Loss reports per training: more than a chart can show only tires the disk."""


def count_steps(config: TrainConfig, n_samples: int) -> int:
    """Optimiser steps of a configuration; epochs count their last, smaller batch.

    Raises:
        BadInput: There are no samples.
    """
    if n_samples == 0 and (config.epochs or config.steps):
        raise BadInput("There are no samples to train on; give at least one.")
    if config.epochs is None:
        return config.steps
    return _ceil(config.epochs * math.ceil(n_samples / config.batch_size))


def count_warmup(config: TrainConfig, steps: int) -> int:
    """Steps until the learning rate is reached: any warm-up takes one at least."""
    return _ceil(config.warmup * steps)


def _ceil(value: float) -> int:
    """The next whole number, where 0.07 · 100 is 7 and not 7.000000000000001."""
    return math.ceil(round(value, 9))


def batch_order(
    encoded: Sequence[Encoded], config: TrainConfig, steps: int, seed: int
) -> list[list[int]]:
    """`sample_order` of encoded samples, grouped by length if the configuration asks for it."""
    lengths = [len(ids) for ids, _ in encoded] if config.group_lengths else None
    return sample_order(len(encoded), steps, config.batch_size, seed, lengths)


def sample_order(
    n_samples: int,
    steps: int,
    batch_size: int,
    seed: int,
    lengths: Sequence[int] | None = None,
) -> list[list[int]]:
    """Which samples each step sees: a new permutation per epoch, the last batch smaller.

    With `lengths`, neighbours in length share a batch: stretches of the permutation are sorted,
    cut into batches, and the batches are drawn in a random order (the smaller one stays last).
    """
    batches: list[list[int]] = []
    epoch = 0
    while len(batches) < steps:
        draw = generator(seed, f"epoch {epoch}")
        order = torch.randperm(n_samples, generator=draw).tolist()
        if lengths is not None:
            stretch = GROUPED * batch_size
            parts = [order[i : i + stretch] for i in range(0, n_samples, stretch)]
            order = [i for part in parts for i in sorted(part, key=lengths.__getitem__)]
        cut = [order[i : i + batch_size] for i in range(0, n_samples, batch_size)]
        if lengths is not None:
            full = n_samples // batch_size
            places = torch.randperm(full, generator=draw).tolist()
            cut = [cut[place] for place in places] + cut[full:]
        batches += cut
        epoch += 1
    return batches[:steps]

"""A plain training loop for the built-in models, and the score they are judged by.

Fine-tuning a user's model goes through `nuggets.train`; this loop only makes the assets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from nuggets.builtin.skills import taught_samples
from nuggets.data.samples import IGNORED, Sample, encode

POOL_SIZE = 20_000
"""Distinct items per letter skill; the other skills have fewer and use all."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    steps: int
    learning_rate: float
    batch_size: int = 64
    warmup: int = 100
    weight_decay: float = 0.01
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Pool:
    """Encoded samples of one skill, padded on the right.

    Attributes:
        input_ids: int64 [items, length].
        labels: int64 [items, length], `IGNORED` on prompts and padding.
    """

    input_ids: Tensor
    labels: Tensor

    @classmethod
    def of(cls, samples: Sequence[Sample], tokenizer: Any) -> Pool:
        """Encodes samples; padding never enters the loss."""
        pairs = [encode(sample, tokenizer) for sample in samples]
        length = max(len(ids) for ids, _ in pairs)
        pad = int(tokenizer.pad_token_id)
        ids = [ids + [pad] * (length - len(ids)) for ids, _ in pairs]
        labels = [labels + [IGNORED] * (length - len(labels)) for _, labels in pairs]
        return cls(torch.tensor(ids), torch.tensor(labels))

    def take(self, rows: Tensor) -> Pool:
        """The given rows, without columns that only hold padding."""
        labels = self.labels[rows]
        length = int((labels != IGNORED).any(0).nonzero().max()) + 1
        return Pool(self.input_ids[rows, :length], labels[:, :length])


def pool_loss(model: Any, batch: Pool) -> Tensor:
    """Mean cross-entropy over answer tokens, the end of sequence included."""
    logits = model(input_ids=batch.input_ids, use_cache=False).logits[:, :-1]
    targets = batch.labels[:, 1:]
    wanted = targets != IGNORED
    return cross_entropy(logits[wanted].float(), targets[wanted])


def train(
    model: Any,
    tokenizer: Any,
    mix: Mapping[str, float],
    schedule: Schedule,
    log: Callable[[str], None] = print,
) -> None:
    """Trains a model in place on a mix of skills (AdamW, warm-up, cosine, answers only).

    Args:
        model: a transformers causal language model in float32.
        tokenizer: its tokenizer, with a padding token.
        mix: skill → share of the samples (any positive scale).
        schedule: steps, learning rate, batch size and seed.
        log: receives a line every 100 steps.
    """
    pool, weights = _mixed_pool(mix, tokenizer)
    generator = torch.Generator().manual_seed(schedule.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
    )
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, schedule))
    model.train()
    for step in range(1, schedule.steps + 1):
        rows = torch.multinomial(weights, schedule.batch_size, True, generator=generator)
        loss = pool_loss(model, pool.take(rows))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
        optimizer.step()
        rate.step()
        if step % 100 == 0:
            log(f"step {step}/{schedule.steps}  loss {loss.item():.4f}")
    model.eval()


def _mixed_pool(mix: Mapping[str, float], tokenizer: Any) -> tuple[Pool, Tensor]:
    """All samples of the mix, and how likely each is to be drawn."""
    samples: list[Sample] = []
    weights: list[float] = []
    for skill, share in mix.items():
        drawn = taught_samples(skill, POOL_SIZE)
        samples += drawn
        weights += [share / len(drawn)] * len(drawn)
    return Pool.of(samples, tokenizer), torch.tensor(weights)


def _rate(step: int, schedule: Schedule) -> float:
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    progress = (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup)
    return 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def exact_matches(model: Any, tokenizer: Any, samples: Sequence[Sample]) -> list[bool]:
    """Whether every answer token, the end of sequence included, is the model's first choice.

    Under teacher forcing one wrong token makes the sample wrong, so this equals comparing
    with what greedy decoding writes.
    """
    model.eval()
    outcomes: list[bool] = []
    pool = Pool.of(samples, tokenizer)
    for rows in torch.arange(len(samples)).split(256):
        batch = pool.take(rows)
        best = model(input_ids=batch.input_ids, use_cache=False).logits[:, :-1].argmax(-1)
        targets = batch.labels[:, 1:]
        outcomes += ((best == targets) | (targets == IGNORED)).all(1).tolist()
    return outcomes

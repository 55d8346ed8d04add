"""What an arm computes, counted by torch's own counter on real batches."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from nuggets.data.samples import IGNORED, Encoded
from nuggets.models.forward import evaluation, pad_right
from nuggets.sensitivity.hooks import blocks_to_checkpoint, checkpointed
from nuggets.train.config import TrainConfig
from nuggets.train.losses import DistillationLoss, Loss, answer_loss
from nuggets.train.randomness import seeded
from nuggets.train.schedule import batch_order, sample_order

Once = Callable[[Hashable, Callable[[], float]], float]
"""`(key, make)` → what was made for this key before, or is made now."""


def training_flops(
    model: Any,
    encoded: Sequence[Encoded],
    config: TrainConfig,
    seed: int,
    loss: Loss | None = None,
    device: torch.device | str = "cpu",
    once: Once = lambda key, make: make(),
) -> float:
    """Floating-point operations of matrix products in a training, forward and backward.

    The longest of a batch of samples is run under `torch.utils.flop_counter` without an update
    (a teacher that the loss asks is counted too) and scaled by the padded tokens of all steps: a
    whole batch might not fit into memory, which the training itself can mend. Attention grows
    faster than the tokens; over batches of one training that is below a percent.

    Args:
        model: as it will be trained; gradients are cleared again, nothing else changes.
        encoded: token ids and labels per sample.
        config: steps, batch size, whether samples of like length share a batch, and whether
            blocks compute twice.
        seed: of the order of samples.
        loss: what is minimised; the answer's likelihood when not given.
        device: where the model is.
        once: remembers counts: they follow from shapes, and counting takes as long as several
            steps. Of one distillation teacher only.
    """
    if not config.steps or not encoded:
        return 0.0
    # Not of the first batch by length, all of whose samples may be short.
    [some] = sample_order(len(encoded), 1, config.batch_size, seed)
    first = max((encoded[i] for i in some), key=lambda sample: len(sample[0]))
    order = batch_order(encoded, config, config.steps, seed)
    loss = loss or answer_loss
    # A loss of another kind may look at more than shapes.
    known = loss is answer_loss or isinstance(loss, DistillationLoss)
    again = config.activation_checkpointing
    key = "flops", type(loss), _shapes(model), len(first[0]), _answers(first), again
    make = partial(_count, model, first, loss, seed, device, again)
    sample = once(key, make) if known else make()
    tokens = [len(batch) * max(len(encoded[i][0]) for i in batch) for batch in order]
    return sample * sum(tokens) / len(first[0])


def answering_flops(
    model: Any,
    written: Sequence[Encoded],
    device: torch.device | str = "cpu",
    once: Once = lambda key, make: make(),
) -> float:
    """Operations of writing answers token by token with a cache: every token is read once.

    As in `training_flops`, the longest conversation is counted and scaled by the tokens of all.

    Args:
        model: what writes.
        written: token ids and labels of the whole conversations.
        device: where the model is.
        once: remembers counts, of one model only.
    """
    if not written:
        return 0.0
    longest = max(len(ids) for ids, _ in written)

    def count() -> float:
        ids = torch.zeros(1, longest, dtype=torch.long, device=device)
        with evaluation(model), _Counter() as counter:
            model(input_ids=ids, use_cache=False)
        return float(counter.get_total_flops())

    whole = once(("answering", _shapes(model), longest), count)
    return whole * sum(len(ids) for ids, _ in written) / longest


class _Nobody:
    """In place of torch's tracker of modules, which refuses gradients inside a forward pass."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        """Follows no module."""

    def __exit__(self, *_: object) -> None:
        """Leaves none."""


class _Counter(FlopCounterMode):
    """torch's counter, of the whole alone."""

    def __init__(self) -> None:
        super().__init__(display=False)
        self.mod_tracker: Any = _Nobody()


def _count(
    model: Any,
    sample: Encoded,
    loss: Loss,
    seed: int,
    device: torch.device | str,
    again: bool,
) -> float:
    """Operations of one sample, forward and backward; blocks may compute `again` on the way."""
    was_training = model.training
    model.train()
    blocks = blocks_to_checkpoint(model) if again else []
    with seeded(seed, device), checkpointed(blocks), _Counter() as counter:
        loss(model, *pad_right([sample], device)).backward()
    model.zero_grad(set_to_none=True)
    model.train(was_training)
    return float(counter.get_total_flops())


def _shapes(model: Any) -> Hashable:
    named = model.named_parameters()
    return tuple((name, own.shape, own.requires_grad) for name, own in named)


def _answers(sample: Encoded) -> int:
    return sum(label != IGNORED for label in sample[1][1:])

"""Exact accumulation of a per-sample score over every parameter, by gradient hooks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as computed_again

from nuggets.data.samples import Encoded
from nuggets.models.architecture import ArchSpec
from nuggets.models.forward import blocks_of, pad_right, without_dropout
from nuggets.progress import Progress
from nuggets.sensitivity.accumulate import (
    Accumulator,
    Hooks,
    Keep,
    MapParts,
    add_up,
    check_asked,
    check_loss,
    share_of,
)
from nuggets.sensitivity.maps import SensitivityMap
from nuggets.sensitivity.scores import Score, ThetaGrad
from nuggets.sensitivity.several_samples import gradients, reads_lengths


@torch.enable_grad()
def compute_sensitivity(
    model: nn.Module,
    spec: ArchSpec,
    encoded: Sequence[Encoded],
    score: Score | None = None,
    keep: Keep = "full",
    progress: Progress | None = None,
    meta: Mapping[str, Any] | None = None,
    checkpoint: bool = False,
    parts: MapParts | None = None,
    per_pass: int = 1,
) -> SensitivityMap:
    """Sums a score over samples, each by itself (|Σ| is not Σ|·|; eq. 2 of the paper).

    A hook on every parameter takes the gradient the moment it is complete, adds its score and
    frees it, so that no more than one gradient lives beside the accumulators. The accumulators
    are float32 whatever the model's dtype. Where several processes form a group
    (`torch.distributed`), each takes its share of the samples and all get the same map.

    Args:
        model: a causal language model; its weights and gradients are left as they were.
        spec: the model's dimensions.
        encoded: `(input_ids, labels)` per sample; the loss is on response tokens only.
        score: what is summed; |θ · g| when not given.
        keep: `full` keeps every entry, `sums` only row and column sums.
        progress: receives one tick per sample and can cancel.
        meta: stored with the map.
        checkpoint: keep what stands between blocks only, and compute each block again on the way
            back: a third more work, and the same bits, where long samples do not fit.
        parts: what becomes of finished matrices; they stay in memory when not given.
        per_pass: samples whose gradients are computed at once, see
            `nuggets.sensitivity.several_samples`: the same up to rounding, with all their
            gradients in memory. `checkpoint` is then of no use.

    Raises:
        BadInput: if there is no sample.
        NonFinite: if a sample's loss or a parameter's score is not finite, naming it.
        NuggetsError: one sample per pass: if a parameter received no gradient (a hook did not
            fire).
    """
    check_asked(encoded, score)
    score = score or ThetaGrad()
    named = dict(model.named_parameters())  # a tied weight once: its gradient is of both uses
    per_pass = 1 if reads_lengths(model) else per_pass
    passes = _passes(share_of(len(encoded)), per_pass, progress)
    with without_dropout(model):  # a map must not depend on which units a sample dropped
        if per_pass == 1:
            blocks = blocks_of(model, spec) if checkpoint else []
            sums = _one_per_pass(model, blocks, Hooks(named, score, keep), encoded, passes)
        else:
            sums = {name: Accumulator(name, keep == "full") for name in named}
            _several_per_pass(model, named, sums, score, encoded, passes)
    add_up(sums, named, len(encoded))
    parts = MapParts() if parts is None else parts
    parts.begin(spec, list(named), len(encoded))
    parts.take(sums.values())
    return parts.finish(spec, score.kind, list(named), meta or {})


def _passes(share: range, size: int, progress: Progress | None) -> Iterator[Sequence[int]]:
    """The samples of each pass; can be cancelled before it, and is told after."""
    for start in range(0, len(share), size):
        if progress is not None:
            progress.check_cancelled()
        yield share[start : start + size]
        if progress is not None:
            progress.progress(min(start + size, len(share)), len(share), "seed samples")


def _one_per_pass(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    hooks: Hooks,
    encoded: Sequence[Encoded],
    passes: Iterable[Sequence[int]],
) -> dict[str, Accumulator]:
    """One sample per pass; `blocks` are those that compute again on the way back."""
    device = next(model.parameters()).device
    with hooks:
        for done, (index,) in enumerate(passes):
            ids, labels = pad_right([encoded[index]], device)
            with checkpointed(blocks):
                loss = model(input_ids=ids, labels=labels, use_cache=False).loss
                check_loss(loss, index)  # before its gradient is added to any sum
                loss.backward()  # the hooks score and free each gradient on the way
            hooks.check_fired(done)
    return hooks.sums


def _several_per_pass(
    model: nn.Module,
    named: Mapping[str, nn.Parameter],
    sums: Mapping[str, Accumulator],
    score: Score,
    encoded: Sequence[Encoded],
    passes: Iterable[Sequence[int]],
) -> None:
    """Several samples per pass."""
    for group in passes:
        losses, by_name = gradients(model, named, [encoded[index] for index in group])
        for index, loss in zip(group, losses, strict=True):
            check_loss(loss, index)
        for name, gradient in by_name.items():  # [samples, *shape of the parameter]
            scores = score.of(named[name].detach(), gradient, name)
            # A score that looks at no gradient, such as |θ|, is the same for every sample.
            sums[name].add_all(scores.expand(gradient.shape))


def blocks_to_checkpoint(model: nn.Module) -> list[nn.Module]:
    """The blocks of a model, wrapped or not, that may compute again on the way back."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


@contextmanager
def checkpointed(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Lets blocks forget what they computed until the gradient asks for it."""
    # On the instance: deleting it gives the class's own method back. Without reentry, since the
    # other kind gives no gradient where a block's input needs none: the first one's under a LoRA.
    for block in blocks:
        block.forward = partial(computed_again, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward

"""Exact accumulation of a per-sample score over every parameter, by gradient hooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as computed_again

from nuggets.core.accumulate import (
    Encoded,
    Hooks,
    Keep,
    MapParts,
    check_loss,
    check_samples,
    sample_tensors,
)
from nuggets.core.architecture import ArchSpec
from nuggets.core.maps import SensitivityMap
from nuggets.core.progress import Progress
from nuggets.core.ranks import add_up, share_of
from nuggets.core.scores import Score, ThetaGrad
from nuggets.core.states import blocks_of, without_dropout

__all__ = ["Encoded", "Keep", "compute_sensitivity"]


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
) -> SensitivityMap:
    """Sums a score over samples, one sample at a time (|Σ| is not Σ|·|; eq. 2 of the paper).

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

    Raises:
        BadInput: if there is no sample.
        NonFinite: if a sample's loss or a parameter's score is not finite, naming it.
        NuggetsError: if a parameter received no gradient (a hook did not fire).
    """
    check_samples(encoded)
    score = score or ThetaGrad()
    named = dict(model.named_parameters())
    device = next(model.parameters()).device
    with without_dropout(model), Hooks(named, score, keep) as hooks:
        share = share_of(len(encoded))
        for done, index in enumerate(share):
            if progress is not None:
                progress.check_cancelled()
            ids, labels = sample_tensors(encoded[index], device)
            with checkpointed(blocks_of(model, spec)) if checkpoint else nullcontext():
                loss = model(input_ids=ids, labels=labels, use_cache=False).loss
                check_loss(loss, index)
                loss.backward()
            hooks.check_fired(done)
            if progress is not None:
                progress.progress(done + 1, len(share), "seed samples")
    add_up(hooks.sums, named, len(encoded))
    parts = MapParts() if parts is None else parts
    parts.begin(spec, list(named), len(encoded))
    parts.take(hooks.sums.values())
    return parts.finish(spec, score.kind, list(named), meta or {})


@contextmanager
def checkpointed(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Lets blocks forget what they computed until the gradient asks for it."""
    for block in blocks:
        block.forward = partial(computed_again, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward

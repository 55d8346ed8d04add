"""Exact accumulation of a per-sample score over every parameter, by gradient hooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from nuggets.core.architecture import ArchSpec
from nuggets.core.maps import SensitivityMap
from nuggets.core.progress import Progress
from nuggets.core.scores import Score, ThetaGrad
from nuggets.errors import BadInput, NonFinite, NuggetsError

Encoded = tuple[Sequence[int], Sequence[int]]
"""Token ids and labels of one sample, as `nuggets.core.samples.encode` returns them."""

Keep = Literal["full", "sums"]


@dataclass(eq=False)
class _Accumulator:
    """Sums of one parameter's score over the samples seen so far."""

    name: str
    keep_full: bool
    full: Tensor | None = None
    rows: Tensor | None = None
    cols: Tensor | None = None
    per_sample: list[Tensor] = field(default_factory=list)

    def add(self, score: Tensor) -> None:
        """Adds one sample's score (float32, shaped as the parameter)."""
        if score.ndim == 1:
            self.per_sample.append(score.double().sum())
            return
        # Inside one matrix float32 with torch's pairwise summation, between samples float64:
        # a whole float64 copy of the score would double the peak memory.
        rows = score.sum(dim=1).double()
        self.per_sample.append(rows.sum())
        if self.keep_full:
            self.full = score if self.full is None else self.full.add_(score)
        else:
            cols = score.sum(dim=0).double()
            self.rows = rows if self.rows is None else self.rows.add_(rows)
            self.cols = cols if self.cols is None else self.cols.add_(cols)


@torch.enable_grad()
def compute_sensitivity(
    model: nn.Module,
    spec: ArchSpec,
    encoded: Sequence[Encoded],
    score: Score | None = None,
    keep: Keep = "full",
    progress: Progress | None = None,
    meta: Mapping[str, Any] | None = None,
) -> SensitivityMap:
    """Sums a score over samples, one sample at a time (|Σ| is not Σ|·|; eq. 2 of the paper).

    A hook on every parameter takes the gradient the moment it is complete, adds its score and
    frees it, so that no more than one gradient lives beside the accumulators. The accumulators
    are float32 whatever the model's dtype.

    Args:
        model: a causal language model; its weights and gradients are left as they were.
        spec: the model's dimensions.
        encoded: `(input_ids, labels)` per sample; the loss is on response tokens only.
        score: what is summed; |θ · g| when not given.
        keep: `full` keeps every entry, `sums` only row and column sums.
        progress: receives one tick per sample and can cancel.
        meta: stored with the map.

    Raises:
        BadInput: if there is no sample.
        NonFinite: if a sample's loss or a parameter's score is not finite, naming it.
        NuggetsError: if a parameter received no gradient (a hook did not fire).
    """
    if not encoded:
        raise BadInput("No seed samples were given; at least one is needed.")
    score = score or ThetaGrad()
    named = dict(model.named_parameters())
    sums = {name: _Accumulator(name, keep == "full") for name in named}
    before = {name: parameter.requires_grad for name, parameter in named.items()}
    handles = [_attach(parameter, sums[name], score) for name, parameter in named.items()]
    was_training = model.training
    try:
        model.eval()
        for index, sample in enumerate(encoded):
            if progress is not None:
                progress.check_cancelled()
            _one_sample(model, sample, index)
            _check_fired(sums, index)
            if progress is not None:
                progress.progress(index + 1, len(encoded), "seed samples")
    finally:
        for handle in handles:
            handle.remove()
        for name, parameter in named.items():
            parameter.requires_grad_(before[name])
            parameter.grad = None
        model.train(was_training)
    return _collect(spec, score.kind, sums, meta or {})


def _attach(parameter: nn.Parameter, sums: _Accumulator, score: Score) -> Any:
    """Installs the hook that scores and frees one parameter's gradient."""
    parameter.requires_grad_(True)
    parameter.grad = None

    def take(owner: Tensor) -> None:
        gradient, owner.grad = owner.grad, None
        assert gradient is not None
        sums.add(score.of(owner.detach(), gradient, sums.name))

    return parameter.register_post_accumulate_grad_hook(take)


def _one_sample(model: nn.Module, sample: Encoded, index: int) -> None:
    """Runs one forward and backward pass; the hooks do the rest."""
    device = next(model.parameters()).device
    ids = torch.tensor([list(sample[0])], device=device)
    labels = torch.tensor([list(sample[1])], device=device)
    loss = model(input_ids=ids, labels=labels, use_cache=False).loss
    if not torch.isfinite(loss):
        raise NonFinite(f"The loss of seed sample {index} is {loss.item()}; nothing was kept.")
    loss.backward()


def _check_fired(sums: Mapping[str, _Accumulator], index: int) -> None:
    """Every parameter must have been scored exactly once per sample."""
    silent = [name for name, a in sums.items() if len(a.per_sample) != index + 1]
    if silent:
        raise NuggetsError(
            f"{len(silent)} of {len(sums)} parameters received no gradient for seed sample "
            f"{index}, first {silent[0]!r}. The model may be offloaded or partly frozen; load it "
            "whole on one device."
        )


def _collect(
    spec: ArchSpec, kind: str, sums: Mapping[str, _Accumulator], meta: Mapping[str, Any]
) -> SensitivityMap:
    """Moves the accumulators to NumPy and checks that they are finite."""
    totals = np.array([[float(x) for x in a.per_sample] for a in sums.values()]).T
    bad = [
        name for name, column in zip(sums, totals.T, strict=True) if not np.isfinite(column).all()
    ]
    if bad:
        raise NonFinite(f"The sensitivity of {bad[0]!r} is not finite; check the model's weights.")
    full = {_module(n): a.full.cpu().numpy() for n, a in sums.items() if a.full is not None}
    rows = {name: matrix.sum(axis=1, dtype=np.float64) for name, matrix in full.items()}
    cols = {name: matrix.sum(axis=0, dtype=np.float64) for name, matrix in full.items()}
    rows |= {_module(n): a.rows.cpu().numpy() for n, a in sums.items() if a.rows is not None}
    cols |= {_module(n): a.cols.cpu().numpy() for n, a in sums.items() if a.cols is not None}
    return SensitivityMap(spec, kind, rows, cols, full, tuple(sums), totals, dict(meta))


def _module(parameter: str) -> str:
    return parameter.removesuffix(".weight")

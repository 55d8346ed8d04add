"""What a model computes on samples: states after every block, and what every matrix reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor, nn

from nuggets.compute.svd import truncated_svd
from nuggets.compute.threads import each_on_a_thread
from nuggets.data.samples import IGNORED, Encoded
from nuggets.errors import BadInput, NonFinite
from nuggets.models.architecture import ArchSpec
from nuggets.models.forward import blocks_of, decoder_of, evaluation
from nuggets.progress import Progress

Positions = Literal["answer", "all"]
"""`answer`: where the next token is part of the answer. `all`: every token."""

Directions = Mapping[str, Float[Tensor, "k in"]]
"""Module → orthonormal directions of what it reads."""

BATCH_SIZE = 32


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples padded on the right; a causal model's states do not depend on what follows.

    Attributes:
        ids: token ids.
        answers: positions whose next token is part of the answer.
        tokens: positions that are not padding.
        targets: the answer tokens, sample after sample.
        counts: answer tokens per sample.
    """

    ids: Int[Tensor, "b t"]
    answers: Bool[Tensor, "b t"]
    tokens: Bool[Tensor, "b t"]
    targets: Int[Tensor, " n"]
    counts: list[int]


def make_batches(
    encoded: Sequence[Encoded],
    model: nn.Module | torch.device,
    size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> Iterator[Batch]:
    """Samples in their order, padded in batches, on a model's device; each may be cancelled."""
    device = model if isinstance(model, torch.device) else next(model.parameters()).device
    for start in range(0, len(encoded), size):
        if progress is not None:
            progress.check_cancelled()
        rows = encoded[start : start + size]
        longest = max(len(ids) for ids, _ in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        following = torch.full((len(rows), longest), IGNORED)
        tokens = torch.zeros(len(rows), longest, dtype=torch.bool)
        for row, (own, labels) in enumerate(rows):
            ids[row, : len(own)] = torch.tensor(own)
            following[row, : len(own) - 1] = torch.tensor(labels[1:])
            tokens[row, : len(own)] = True
        answers = following != IGNORED
        yield Batch(
            ids.to(device),
            answers.to(device),
            tokens.to(device),
            following[answers].to(device),
            answers.sum(1).tolist(),
        )


@dataclass(frozen=True, eq=False)
class Recorded:
    """What one forward pass over samples shows, tokens in the samples' order.

    Attributes:
        states: float32 `[n_layers + 1, n_tokens, hidden]`: what enters the first block, then what
            leaves each block (before the final norm).
        reads: float32 `[n_layers, roles, n_tokens, k]`: what every matrix reads along its
            directions; no roles where none were given.
    """

    states: Float[ndarray, "n_states n_tokens hidden"]
    reads: Float[ndarray, "n_layers roles n_tokens k"]


def record(
    model: nn.Module,
    spec: ArchSpec,
    encoded: Sequence[Encoded],
    positions: Positions = "answer",
    directions: Directions | None = None,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> Recorded:
    """The residual stream of every sample and what its matrices read, in one forward pass.

    Args:
        model: a causal language model; left as it was.
        spec: its dimensions.
        encoded: `(input_ids, labels)` per sample.
        positions: which tokens' states are kept.
        directions: along which matrices read, as of `strongest_directions`; none when not given.
        batch_size: samples per forward pass; it does not change the result.
        progress: asked for a cancel before every batch.

    Raises:
        BadInput: if there is no sample, or a token is not in the model's vocabulary.
        NonFinite: if a state is NaN or infinite, naming the layer.
    """
    check_samples(encoded, spec)
    parts: list[Tensor] = []
    with evaluation(model), _recorded_reads(model, directions or {}) as (look_at, reads):
        for batch in make_batches(encoded, model, batch_size, progress):
            kept = batch.answers if positions == "answer" else batch.tokens
            look_at(kept)
            with record_states(model, spec) as states:
                decoder_of(model, spec)(input_ids=batch.ids, use_cache=False)
            parts.append(torch.stack([state[kept].float().cpu() for state in states]))
    whole = torch.cat(parts, dim=1)
    finite = torch.isfinite(whole).flatten(1).all(1).tolist()
    if not all(finite):
        raise NonFinite(
            f"The states after {finite.index(False)} of {spec.n_layers} blocks are NaN or "
            "infinite. The weights are damaged, or too large for this dtype; try float32."
        )
    if not directions:
        return Recorded(whole.numpy(), np.empty((spec.n_layers, 0, whole.shape[1], 0), np.float32))
    read = torch.stack([torch.cat(each) for each in reads])
    return Recorded(whole.numpy(), read.unflatten(0, (spec.n_layers, -1)).numpy())


def collect_states(
    model: nn.Module,
    spec: ArchSpec,
    encoded: Sequence[Encoded],
    positions: Positions = "answer",
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> Float[ndarray, "n_states n_tokens hidden"]:
    """The states alone, as `record` takes and refuses."""
    return record(model, spec, encoded, positions, None, batch_size, progress).states


def strongest_directions(
    model: nn.Module, spec: ArchSpec, k: int, roles: Sequence[str] = ()
) -> Directions:
    """The k top right singular vectors of every matrix, layer by layer; reads are `X·V_k`.

    Args:
        model: whose matrices.
        spec: its dimensions.
        k: directions per matrix; see `nuggets.alignment.similarity.subspace_matrix`.
        roles: the matrices, in the order of the result; all of a layer when not given.
    """
    names = [
        spec.module(role, layer)
        for layer in range(spec.n_layers)
        for role in roles or spec.architecture.roles
    ]

    def of(name: str) -> Tensor:
        return truncated_svd(model.get_parameter(f"{name}.weight").detach(), k).a

    device = next(model.parameters()).device
    return dict(zip(names, each_on_a_thread(of, names, device), strict=True))


@contextmanager
def _recorded_reads(
    model: nn.Module, directions: Directions
) -> Iterator[tuple[Callable[[Tensor], None], list[list[Tensor]]]]:
    """Gives what says which positions are kept, and what every matrix reads there, per batch."""
    kept: list[Tensor] = []
    reads: list[list[Tensor]] = [[] for _ in directions]

    def reader(along: Tensor, into: list[Tensor]) -> Any:
        def read(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            into.append((inputs[0][kept[-1]].float() @ along.T).cpu())

        return read

    with _handles() as handles:
        for (name, along), into in zip(directions.items(), reads, strict=True):
            module = model.get_submodule(name)
            handles.append(module.register_forward_pre_hook(reader(along, into)))
        yield kept.append, reads


def check_samples(encoded: Sequence[Encoded], spec: ArchSpec) -> None:
    """Refuses what a model cannot run on.

    Raises:
        BadInput: if there is no sample, or a token is not in the vocabulary.
    """
    if not encoded:
        raise BadInput("No samples were given; at least one is needed.")
    largest = max(max(ids) for ids, _ in encoded)
    if largest >= spec.vocab_size:
        raise BadInput(
            f"Token {largest} is outside the vocabulary of {spec.vocab_size}. Alignment needs a "
            "teacher and a student with the same tokenizer."
        )


@contextmanager
def record_states(model: nn.Module, spec: ArchSpec) -> Iterator[list[Tensor]]:
    """Fills a list with the next forward pass's residual stream, `[b, t, hidden]` each.

    transformers' own `output_hidden_states` gives the last one after the final norm.
    """
    states: list[Tensor] = []

    def entering(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        states.append(inputs[0])

    def leaving(_: nn.Module, __: Any, output: Tensor) -> None:
        states.append(output)

    blocks = blocks_of(model, spec)
    with _handles() as handles:
        handles.append(blocks[0].register_forward_pre_hook(entering))
        handles += [block.register_forward_hook(leaving) for block in blocks]
        yield states


@contextmanager
def _handles() -> Iterator[list[Any]]:
    """Hooks that are removed at the end, whatever happens."""
    handles: list[Any] = []
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()

"""What a model computes on samples: states after every block, and what every matrix reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor, nn

from nuggets.compute.svd import truncated_svd
from nuggets.data.samples import IGNORED, Encoded
from nuggets.errors import BadInput, NonFinite
from nuggets.models.architecture import ArchSpec
from nuggets.models.forward import blocks_of, decoder_of, evaluation
from nuggets.progress import Progress

Positions = Literal["answer", "all"]
"""`answer`: where the next token is part of the answer. `all`: every token."""

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


def collect_states(
    model: nn.Module,
    spec: ArchSpec,
    encoded: Sequence[Encoded],
    positions: Positions = "answer",
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> Float[ndarray, "n_states n_tokens hidden"]:
    """The residual stream of every sample, tokens in the samples' order.

    Args:
        model: a causal language model; left as it was.
        spec: its dimensions.
        encoded: `(input_ids, labels)` per sample.
        positions: which tokens' states are kept.
        batch_size: samples per forward pass; it does not change the result.
        progress: asked for a cancel before every batch.

    Returns:
        float32 `[n_layers + 1, n_tokens, hidden]`: what enters the first block, then what leaves
        each block (before the final norm).

    Raises:
        BadInput: if there is no sample, or a token is not in the model's vocabulary.
        NonFinite: if a state is NaN or infinite, naming the layer.
    """
    check_samples(encoded, spec)
    parts: list[Tensor] = []
    with evaluation(model):
        for batch in make_batches(encoded, model, batch_size, progress):
            with record_states(model, spec) as states:
                decoder_of(model, spec)(input_ids=batch.ids, use_cache=False)
            kept = batch.answers if positions == "answer" else batch.tokens
            parts.append(torch.stack([state[kept].float().cpu() for state in states]))
    whole = torch.cat(parts, dim=1)
    finite = torch.isfinite(whole).flatten(1).all(1).tolist()
    if not all(finite):
        raise NonFinite(
            f"The states after {finite.index(False)} of {spec.n_layers} blocks are NaN or "
            "infinite. The weights are damaged, or too large for this dtype; try float32."
        )
    return whole.numpy()


def collect_reads(
    model: nn.Module,
    spec: ArchSpec,
    encoded: Sequence[Encoded],
    k: int,
    roles: Sequence[str] = (),
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> Float[ndarray, "n_layers roles n_tokens k"]:
    """What every matrix reads at the answer positions along its k strongest directions.

    `X·V_k` with the inputs X of the matrix and its top right singular vectors; see
    `nuggets.alignment.similarity.subspace_matrix`.

    Args:
        model: a causal language model; left as it was.
        spec: its dimensions.
        encoded: `(input_ids, labels)` per sample.
        k: read-outs per matrix.
        roles: the matrices, in the order of the result; all of a layer when not given.
        batch_size: samples per forward pass; it does not change the result.
        progress: asked for a cancel before every batch.

    Returns:
        float32; the tokens are those of `collect_states`.
    """
    check_samples(encoded, spec)
    roles = roles or spec.architecture.roles
    modules = [
        model.get_submodule(spec.module(role, layer))
        for layer in range(spec.n_layers)
        for role in roles
    ]
    found: list[list[Tensor]] = [[] for _ in modules]
    kept: Tensor | None = None

    def reader(module: Any, into: list[Tensor]) -> Any:
        directions = truncated_svd(module.weight.detach(), k).a

        def read(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            into.append((inputs[0][kept].float() @ directions.T).cpu())

        return module.register_forward_pre_hook(read)

    with evaluation(model), _handles() as handles:
        for module, into in zip(modules, found, strict=True):
            handles.append(reader(module, into))
        for batch in make_batches(encoded, model, batch_size, progress):
            kept = batch.answers
            decoder_of(model, spec)(input_ids=batch.ids, use_cache=False)
    reads = np.stack([torch.cat(parts).numpy() for parts in found])
    return reads.reshape(spec.n_layers, len(roles), -1, k)


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

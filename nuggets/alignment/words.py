"""What a model knows of single words: its embedding, or each word alone through some blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nuggets.alignment.states import collect_states
from nuggets.data.samples import IGNORED, Encoded
from nuggets.models.architecture import ArchSpec
from nuggets.models.references import ModelRef
from nuggets.models.stored_weights import StoredWeights
from nuggets.models.streamed import stream_words

WordVectors = Callable[[Sequence[int], int], Tensor]
"""(token ids, blocks) → float32 `[words, hidden]`: rows of the embedding for 0 blocks, else what
leaves that block when the model reads the word and nothing else."""


def words_of(model: nn.Module, spec: ArchSpec) -> WordVectors:
    """The word vectors of a model in memory, which is left as it was."""

    def vectors(ids: Sequence[int], blocks: int) -> Float[Tensor, "words hidden"]:
        if not blocks:
            return _rows(model.get_parameter(f"{spec.module('embed')}.weight"), ids)
        alone = [([token], [IGNORED]) for token in ids]
        return torch.from_numpy(collect_states(model, spec, alone, "all")[blocks])

    return vectors


def stored_words(ref: ModelRef, spec: ArchSpec, device: torch.device | str = "cpu") -> WordVectors:
    """The word vectors of a model on disk, of which one block at a time is read."""

    def vectors(ids: Sequence[int], blocks: int) -> Float[Tensor, "words hidden"]:
        if not blocks:
            return _rows(StoredWeights(ref, spec).weight(spec.module("embed")), ids)
        return stream_words(ref, ids, blocks, device)

    return vectors


def _rows(table: Tensor, ids: Sequence[int]) -> Float[Tensor, "words hidden"]:
    return table.detach()[torch.tensor(ids, device=table.device)].float().cpu()


def prompt_of(sample: Encoded) -> set[int]:
    """The tokens of a question: what a sample does not learn from."""
    return {token for token, label in zip(*sample, strict=True) if label == IGNORED}


def differing(prompts: Sequence[set[int]]) -> set[int]:
    """The tokens in which questions differ: those of any of them, but not of all."""
    return set().union(*prompts) - set.intersection(*prompts) if prompts else set()

"""Forward passes: the parts of a decoder, logits of answers, padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nuggets.data.samples import IGNORED
from nuggets.models.architecture import ArchSpec


def answer_logits(model: Any, input_ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits where answer tokens are predicted, and those tokens.

    Only columns of the batch that hold an answer reach the head: with a real vocabulary the
    logits of whole prompts would be the largest thing in memory.

    Returns:
        Float32 logits `[answer tokens, vocab]` and targets `[answer tokens]`, row by row.
    """
    wanted = labels[:, 1:] != IGNORED
    columns = wanted.any(0).nonzero().squeeze(1)
    logits: Tensor = model(input_ids=input_ids, use_cache=False, logits_to_keep=columns).logits
    kept = wanted[:, columns]
    return logits[kept].float(), labels[:, 1:][:, columns][kept]


def positions(model: Any) -> int:
    """The longest text that a model was made for, in tokens; very many where it does not say."""
    config = getattr(model, "config", None)
    text_config = getattr(config, "get_text_config", None)  # models of several kinds of input
    config = config if text_config is None else text_config()
    return int(getattr(config, "max_position_embeddings", None) or 1 << 20)


def pad_right(
    batch: Sequence[tuple[Sequence[int], Sequence[int]]], device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Token ids and labels `[items, longest]`; the padding is `IGNORED`.

    A causal model's states do not depend on what follows, so no attention mask is needed and
    any valid id may stand in the padding.
    """
    longest = max(len(ids) for ids, _ in batch)
    ids = [[*ids, *[0] * (longest - len(ids))] for ids, _ in batch]
    labels = [[*labels, *[IGNORED] * (longest - len(labels))] for _, labels in batch]
    return torch.tensor(ids, device=device), torch.tensor(labels, device=device)


def blocks_of(model: nn.Module, spec: ArchSpec) -> list[nn.Module]:
    """The model's decoder blocks, in order."""
    blocks = model.get_submodule(spec.architecture.layers)
    assert isinstance(blocks, nn.ModuleList)
    return list(blocks)


def decoder_of(model: nn.Module, spec: ArchSpec) -> nn.Module:
    """The model without its head: nobody needs logits where only states are asked for."""
    return model.get_submodule(spec.architecture.layers.rpartition(".")[0])


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Without gradients and dropout; afterwards the model is in its former mode."""
    with without_dropout(model), torch.inference_mode():
        yield


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """In evaluation mode, gradients as they were; afterwards the model is in its former mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def replaced_forward(modules: Sequence[nn.Module], forward: Any) -> Iterator[None]:
    """Gives modules another forward pass for a while."""
    # In the instance's own dictionary, and put back as it was: a caller's model may have one of
    # its own there, as accelerate's hooks are.
    before = [vars(module).get("forward") for module in modules]
    for module in modules:
        vars(module)["forward"] = forward
    try:
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            del vars(module)["forward"]
            if own is not None:
                vars(module)["forward"] = own


@contextmanager
def reading_states(model: nn.Module, spec: ArchSpec, states: Tensor) -> Iterator[None]:
    """While it lasts, the model reads given states as those that leave its last block.

    Its own final norm, head and loss stay in charge (scaled or capped logits in some).

    Args:
        model: a causal language model.
        spec: its dimensions.
        states: `[batch, tokens, hidden]`, for token ids of the same shape.
    """
    from transformers.modeling_outputs import (
        BaseModelOutputWithPastAndCrossAttentions as DecoderOutput,
    )

    norm = model.get_submodule(spec.architecture.final_norm)

    def decode(*_: Any, **__: Any) -> DecoderOutput:
        return DecoderOutput(last_hidden_state=norm(states))

    with replaced_forward([decoder_of(model, spec)], decode):
        yield

"""One question to one model, token by token with probabilities. Imports torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from nuggets.core.samples import Sample, render_prompt
from nuggets.errors import BadInput, NonFinite
from nuggets.runs.playground import Token


@torch.inference_mode()
def ask(
    model: Any,
    tokenizer: Any,
    prompt: str,
    limit: int,
    alternatives: int = 1,
    on_token: Callable[[Token], None] = lambda token: None,
) -> tuple[list[int], list[Token]]:
    """Continues a question greedily in the paper's prompt format.

    Args:
        model: in evaluation mode.
        tokenizer: the model's own.
        prompt: the question.
        limit: tokens at most.
        alternatives: how many of the most probable tokens are told at every place.
        on_token: called with every token; what it raises ends the answer.

    Returns:
        Ids and tokens up to and including the end of sequence.

    Raises:
        BadInput: if the prompt is longer than the model reads.
        NonFinite: if the model computes NaN.
    """
    text = render_prompt(Sample.of("ask", prompt, ""), str(tokenizer.eos_token))
    ids = torch.tensor([tokenizer(text)["input_ids"]], device=model.device)
    room = getattr(model.config, "max_position_embeddings", None) or 2**20
    if ids.shape[1] >= room:
        raise BadInput(f"The question has {ids.shape[1]} tokens; the model reads {room}.")
    found: list[Token] = []
    chosen: list[int] = []
    cache = None
    while len(found) < min(limit, room - ids.shape[1]):
        output = model(
            input_ids=ids if not chosen else torch.tensor([[chosen[-1]]], device=model.device),
            past_key_values=cache,
            use_cache=True,
        )
        cache = output.past_key_values
        chances = output.logits[0, -1].float().softmax(-1)
        if not torch.isfinite(chances).all():
            raise NonFinite("The model computes values that are not numbers; use float32.")
        chosen.append(int(chances.argmax()))
        found.append(_token(tokenizer, chances, chosen[-1], alternatives))
        on_token(found[-1])
        if chosen[-1] == tokenizer.eos_token_id:
            break
    return chosen, found


def _token(tokenizer: Any, chances: torch.Tensor, best: int, alternatives: int) -> Token:
    top = chances.topk(min(alternatives, len(chances)))
    others = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return Token(
        text=str(tokenizer.decode([best])),
        probability=float(chances[best]),
        alternatives=tuple((str(tokenizer.decode([i])), p) for i, p in others),
    )

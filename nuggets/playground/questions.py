"""One question to one model, token by token with probabilities. Imports torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from nuggets.data.samples import Format, Sample, answer_ends, texts, tokenize
from nuggets.errors import BadInput, NonFinite
from nuggets.playground.mailbox import Token


def prompt_text(tokenizer: Any, question: str, format: Format = "paper") -> str:
    """What a model reads when it is asked: the question in a format, up to the answer.

    Raises:
        BadInput: if the tokenizer has no chat template for the format `chat`.
    """
    return texts(Sample.of("ask", question, "answer"), tokenizer, format)[1]


@torch.inference_mode()
def ask(
    model: Any,
    tokenizer: Any,
    prompt: str,
    limit: int,
    alternatives: int = 1,
    on_token: Callable[[Token], None] = lambda token: None,
    format: Format = "paper",
) -> tuple[list[int], list[Token], bool]:
    """Continues a question greedily.

    Args:
        model: in evaluation mode.
        tokenizer: the model's own.
        prompt: the question.
        limit: tokens at most.
        alternatives: how many of the most probable tokens are told at every place.
        on_token: called with every token; what it raises ends the answer.
        format: how the question is written; a chat template brings its own special tokens.

    Returns:
        Ids and tokens up to and including the end of the answer, and whether it came to one.

    Raises:
        BadInput: if the prompt is longer than the model reads, or has no such format.
        NonFinite: if the model computes NaN.
    """
    text, ends = prompt_text(tokenizer, prompt, format), answer_ends(tokenizer, format)
    ids = torch.tensor(tokenize(tokenizer, [text], format), device=model.device)
    room = getattr(model.config, "max_position_embeddings", None) or 2**20
    if ids.shape[1] >= room:
        raise BadInput(
            f"The question has {ids.shape[1]} tokens, but the model accepts at most {room}."
        )
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
            raise NonFinite("The model's outputs are NaN or infinite; use float32.")
        chosen.append(int(chances.argmax()))
        found.append(_token(tokenizer, chances, chosen[-1], alternatives))
        on_token(found[-1])
        if chosen[-1] in ends:
            return chosen, found, True
    return chosen, found, False


def _token(tokenizer: Any, chances: torch.Tensor, best: int, alternatives: int) -> Token:
    top = chances.topk(min(alternatives, len(chances)))
    others = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return Token(
        text=str(tokenizer.decode([best])),
        probability=float(chances[best]),
        alternatives=tuple((str(tokenizer.decode([i])), p) for i, p in others),
    )

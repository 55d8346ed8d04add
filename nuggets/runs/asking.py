"""One question to one model, token by token with probabilities. Imports torch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from nuggets.core.samples import Sample, render_prompt


class Token(NamedTuple):
    """One greedy token, and how sure the model was of it."""

    id: int
    text: str
    probability: float


@torch.inference_mode()
def ask(model: Any, tokenizer: Any, prompt: str, limit: int, device: str) -> list[Token]:
    """Continues a question greedily in the paper's prompt format.

    Args:
        model: in evaluation mode on `device`.
        tokenizer: the model's own.
        prompt: the question.
        limit: tokens at most.
        device: where the model is.

    Returns:
        The tokens up to and including the end of sequence.
    """
    text = render_prompt(Sample.of("ask", prompt, ""), str(tokenizer.eos_token))
    ids = torch.tensor([tokenizer(text)["input_ids"]], device=device)
    found: list[Token] = []
    cache = None
    while len(found) < limit:
        output = model(input_ids=ids, past_key_values=cache, use_cache=True)
        chances = output.logits[0, -1].float().softmax(-1)
        best = int(chances.argmax())
        found.append(Token(best, str(tokenizer.decode([best])), float(chances[best])))
        if best == tokenizer.eos_token_id:
            break
        cache, ids = output.past_key_values, torch.tensor([[best]], device=device)
    return found

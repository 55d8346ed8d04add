"""What a model writes when it is asked: greedy decoding in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nuggets.core.progress import Progress
from nuggets.core.samples import Sample, render_prompt

MARGIN = 4
"""Tokens that an answer may have beyond the reference."""


@dataclass(frozen=True)
class Answer:
    """One greedy answer; `finished` is False where the length limit cut it."""

    text: str
    finished: bool


def greedy_answers(
    model: Any,
    tokenizer: Any,
    samples: Sequence[Sample],
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> list[Answer]:
    """Continues every prompt greedily, at most `MARGIN` tokens beyond its reference answer.

    Args:
        model: a causal language model in evaluation mode on `device`; call it without gradients.
        tokenizer: its tokenizer, with an end-of-sequence token.
        samples: prompts; their answers only limit the length.
        batch_size: prompts per call, padded on the left.
        device: where the model is.
        progress: can cancel.
    """
    eos, end = str(tokenizer.eos_token), int(tokenizer.eos_token_id)
    prompts = [list(tokenizer(render_prompt(s, eos))["input_ids"]) for s in samples]
    limits = [len(tokenizer(s.answer)["input_ids"]) + 1 + MARGIN for s in samples]
    order = sorted(range(len(samples)), key=lambda place: -len(prompts[place]))
    found: dict[int, Answer] = {}
    for start in range(0, len(order), batch_size):
        if progress is not None:
            progress.check_cancelled()
        places = order[start : start + batch_size]
        longest = max(limits[place] for place in places)
        rows = _decode(model, [prompts[p] for p in places], longest, end, device)
        for place, row in zip(places, rows, strict=True):
            found[place] = _answer(tokenizer, row[: limits[place]])
    return [found[place] for place in range(len(samples))]


def _decode(
    model: Any, prompts: list[list[int]], limit: int, eos: int, device: torch.device | str
) -> list[list[int]]:
    """New tokens per prompt, the first choice at every step.

    Not `model.generate`: that takes temperature or penalties over from the model's own
    generation config, and a penalised answer is not what teacher forcing measures.
    """
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    written, cache = [], None
    for _ in range(limit):
        output = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        best = output.logits[:, -1].argmax(-1)
        written.append(best)
        ended |= best == eos
        if ended.all():
            break
        cache, ids, positions = output.past_key_values, best[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
    return torch.stack(written, dim=1).tolist()


def _answer(tokenizer: Any, row: list[int]) -> Answer:
    end = tokenizer.eos_token_id
    finished = end in row
    tokens = row[: row.index(end)] if finished else row
    return Answer(tokenizer.decode(tokens, skip_special_tokens=True).strip(), finished)

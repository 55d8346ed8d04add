"""What a model writes when it is asked: greedy decoding in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nuggets.data.samples import Format, Sample, answer_ends, texts, tokenize
from nuggets.errors import NonFinite
from nuggets.evaluation.halving import Halving
from nuggets.progress import Progress

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
    format: Format = "paper",
    n_lanes: int = 1,
) -> list[list[Answer]]:
    """Continues every prompt greedily, at most `MARGIN` tokens beyond its reference answer.

    Args:
        model: a causal language model in evaluation mode on `device`; call it without gradients.
        tokenizer: its tokenizer, with an end-of-sequence token.
        samples: prompts; their answers only limit the length.
        batch_size: prompts per call, padded on the left.
        device: where the model is.
        progress: can cancel.
        format: how prompts are written.
        n_lanes: students whose rows each of the model's batches holds, lane by lane.

    Returns:
        The answers of every lane.
    """
    ends = answer_ends(tokenizer, format)
    prompts = tokenize(tokenizer, [texts(each, tokenizer, format)[1] for each in samples], format)
    answers = tokenize(tokenizer, [sample.answer for sample in samples], "chat")
    limits = [len(ids) + 1 + MARGIN for ids in answers]

    def written(places: Sequence[int]) -> list[Answer]:
        every = [*places] * n_lanes
        longest = max(limits[place] for place in places)
        rows = decode_greedily(model, [prompts[place] for place in every], longest, ends, device)
        return [_answer(tokenizer, row[: limits[place]], ends)
                for place, row in zip(every, rows, strict=True)]  # fmt: skip

    return Halving(batch_size, progress).lanes([*map(len, prompts)], n_lanes, written)


def decode_greedily(
    model: Any,
    prompts: Sequence[list[int]],
    limit: int,
    ends: Sequence[int],
    device: torch.device | str,
    stop: Callable[[int, list[int]], bool] | None = None,
    progress: Progress | None = None,
) -> list[list[int]]:
    """New tokens per prompt, the first choice at every step.

    Not `model.generate`: that takes temperature or penalties over from the model's own
    generation config, and a penalised answer is not what teacher forcing measures.

    Args:
        model: in evaluation mode on `device`; call it without gradients.
        prompts: token ids, padded here on the left.
        limit: new tokens at most.
        ends: ids after which an answer is over.
        device: where the model is.
        stop: (row, its new tokens) → whether it is over for another reason.
        progress: asked for a cancel at every token.

    Raises:
        NonFinite: if the model's first choice is NaN or infinite.
    """
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    final = torch.tensor(ends, device=device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    written: list[torch.Tensor] = []
    cache = None
    for _ in range(limit):
        if progress is not None:
            progress.check_cancelled()
        output = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        top = output.logits[:, -1].max(-1)
        if not torch.isfinite(top.values).all():
            raise NonFinite("The model's scores are NaN or infinite; they give no answer.")
        best = top.indices
        written.append(best)
        ended |= torch.isin(best, final)
        if stop is not None:
            rows = torch.stack(written, dim=1).tolist()
            for place in (~ended).nonzero().squeeze(1).tolist():
                ended[place] = stop(place, rows[place])
        if ended.all():
            break
        cache, ids, positions = output.past_key_values, best[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
    return torch.stack(written, dim=1).tolist()


def up_to_end(row: list[int], ends: Sequence[int]) -> tuple[list[int], bool]:
    """The tokens before the first that ends an answer, and whether there was one."""
    place = next((i for i, token in enumerate(row) if token in ends), None)
    return (row, False) if place is None else (row[:place], True)


def _answer(tokenizer: Any, row: list[int], ends: Sequence[int]) -> Answer:
    tokens, finished = up_to_end(row, ends)
    return Answer(tokenizer.decode(tokens, skip_special_tokens=True).strip(), finished)

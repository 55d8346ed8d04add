"""What a model writes when it is asked: greedy decoding in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from nuggets.data.samples import Format, Sample, answer_ends, texts, tokenize
from nuggets.errors import NonFinite
from nuggets.evaluation.halving import Halving
from nuggets.progress import Progress

MARGIN = 4
"""Tokens that an answer may have beyond the reference."""
SHRINK = 0.8
"""Share of a batch's rows below which those that are over are left out."""
PLAIN_CACHES = {DynamicLayer, DynamicSlidingWindowLayer}
"""Caches of a layer that are nothing but keys and values."""


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
        asked, at_most = [prompts[p] for p in every], [limits[p] for p in every]
        rows = decode_greedily(model, asked, at_most, ends, device, n_lanes=n_lanes)
        return [_answer(tokenizer, row, ends) for row in rows]

    return Halving(batch_size, progress).lanes([*map(len, prompts)], n_lanes, written)


def decode_greedily(
    model: Any,
    prompts: Sequence[list[int]],
    limits: Sequence[int],
    ends: Sequence[int],
    device: torch.device | str,
    stop: Callable[[int, list[int]], bool] | None = None,
    progress: Progress | None = None,
    n_lanes: int = 1,
) -> list[list[int]]:
    """New tokens per prompt, the first choice at every step; the last may be an end.

    Not `model.generate`: that takes temperature or penalties over from the model's own
    generation config, and a penalised answer is not what teacher forcing measures.

    Args:
        model: in evaluation mode on `device`; call it without gradients.
        prompts: token ids, padded here on the left.
        limits: new tokens at most, per prompt.
        ends: ids after which an answer is over.
        device: where the model is.
        stop: (row, its new tokens) → whether it is over for another reason.
        progress: asked for a cancel at every token.
        n_lanes: students, each of which has its part of the rows, lane by lane.

    Raises:
        NonFinite: if the model's first choice is NaN or infinite.
    """
    ids, mask = _padded(prompts, device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    written: list[list[int]] = [[] for _ in prompts]
    over = [False] * len(prompts)
    asked = list(range(len(prompts)))  # the rows of the batch, as places in `prompts`
    cache = None
    while True:
        if progress is not None:
            progress.check_cancelled()
        given = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        output = model(**given, past_key_values=cache, use_cache=True, logits_to_keep=1)
        best = _best(output.logits[:, -1])
        for place, token in zip(asked, best.tolist(), strict=True):
            if over[place]:
                continue
            written[place].append(token)
            over[place] = token in ends or len(written[place]) >= limits[place]
            if stop is not None and not over[place]:
                over[place] = stop(place, written[place])
        if all(over):
            return written
        cache, ids, positions = output.past_key_values, best[:, None], positions[:, -1:] + 1
        kept = _worth_asking([over[place] for place in asked], n_lanes, cache)
        if len(kept) < len(asked):
            asked, rows = [asked[row] for row in kept], torch.tensor(kept, device=device)
            cache.batch_select_indices(rows)
            ids, positions, mask = ids[rows], positions[rows], mask[rows]
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)


def _padded(
    prompts: Sequence[list[int]], device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask `[prompts, longest]`, padded on the left."""
    blank = [max(map(len, prompts)) - len(prompt) for prompt in prompts]
    ids = [[0] * n + prompt for n, prompt in zip(blank, prompts, strict=True)]
    mask = [[0] * n + [1] * len(prompt) for n, prompt in zip(blank, prompts, strict=True)]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _best(logits: torch.Tensor) -> torch.Tensor:
    """The first choice `[rows]` of `[rows, words]`."""
    top = logits.max(-1)
    if not torch.isfinite(top.values).all():
        raise NonFinite("The model's scores are NaN or infinite; they give no answer.")
    return top.indices


def _worth_asking(over: Sequence[bool], n_lanes: int, cache: Any) -> list[int]:
    """The rows of the next step: all of them, or those of items that some lane still answers.

    A smaller batch costs a copy of the cache, so that a fifth has to be over. States that are no
    keys and values (of recurrent layers) have no rows that could be taken.
    """
    n = len(over) // n_lanes
    going = [item for item in range(n) if not all(over[item::n])]
    layers = getattr(cache, "layers", [])
    plain = bool(layers) and all(type(layer) in PLAIN_CACHES for layer in layers)
    if not plain or len(going) > SHRINK * n:
        return list(range(len(over)))
    return [lane * n + item for lane in range(n_lanes) for item in going]


def up_to_end(row: list[int], ends: Sequence[int]) -> tuple[list[int], bool]:
    """The tokens before the first that ends an answer, and whether there was one."""
    place = next((i for i, token in enumerate(row) if token in ends), None)
    return (row, False) if place is None else (row[:place], True)


def _answer(tokenizer: Any, row: list[int], ends: Sequence[int]) -> Answer:
    tokens, finished = up_to_end(row, ends)
    return Answer(tokenizer.decode(tokens, skip_special_tokens=True).strip(), finished)

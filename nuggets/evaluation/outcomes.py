"""What a model answers: per-item outcomes under teacher forcing, and greedy answers."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.nn.functional import cross_entropy

from nuggets.data.samples import IGNORED, Encoded, Format, Message, Sample, encode_all
from nuggets.errors import BadInput, NonFinite
from nuggets.evaluation.answers import Answer, greedy_answers
from nuggets.evaluation.halving import Halving
from nuggets.models.forward import evaluation, pad_right, positions
from nuggets.models.piecewise.answers import answers_of
from nuggets.progress import Progress

Metric = Literal["exact_match", "choice", "loss"]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What one model did with each item.

    Attributes:
        items: item ids.
        values: metric → one value per item. `exact_match` is 1 when every answer token, the end
            of sequence included, is the model's first choice given the right ones before it,
            which is so exactly when greedy decoding writes the answer. `choice` is 1 when the
            right answer has the largest summed log-likelihood among the sample's choices
            (lm-eval's `acc`: not divided by length; the end of sequence counts, so that "8" and
            "8 5" compete fairly). `loss` is the mean negative log-likelihood per answer token.
        answers: greedy answers as text, when they were asked for.
    """

    items: list[str]
    values: dict[str, list[float]]
    answers: list[str] = field(default_factory=list)

    def mean(self, metric: str) -> float:
        """The mean over items."""
        return math.fsum(self.values[metric]) / len(self.items)


@dataclass(frozen=True)
class Likelihood:
    """One sequence: summed log-likelihood of its answer, its length, and whether greedy."""

    log_likelihood: float
    n_tokens: int
    greedy: bool


def evaluate(
    model: Any,
    tokenizer: Any,
    samples: Sequence[Sample],
    metrics: Sequence[Metric] = ("exact_match", "loss"),
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    max_length: int = 2048,
    answers: bool = False,
    format: Format = "paper",
) -> Outcomes:
    """Measures a causal language model item by item.

    The model's training mode and all random generators are left as they were. Items are padded
    on the right in batches of similar length; a causal model does not see that padding, so the
    outcome of an item does not depend on its batch.

    Args:
        model: a transformers or PEFT causal language model on `device`.
        tokenizer: its tokenizer.
        samples: items; `choice` needs their choices.
        metrics: what is measured.
        batch_size: sequences per forward pass.
        device: where the model is.
        progress: receives ticks and can cancel.
        max_length: tokens that a sample may have.
        answers: also decode what the model would write.
        format: how samples are written.

    Raises:
        BadInput: if there is no item, an item is longer than `max_length`, or `choice` is asked of
            items without choices.
        NonFinite: if a likelihood is NaN or infinite, naming the item.
    """
    (found,) = evaluate_lanes(
        model,
        tokenizer,
        [samples],
        metrics,
        batch_size=batch_size,
        device=device,
        progress=progress,
        max_length=max_length,
        answers=answers,
        format=format,
    )
    if isinstance(found, NonFinite):
        raise found
    return found


def evaluate_lanes(
    model: Any,
    tokenizer: Any,
    items: Sequence[Sequence[Sample]],
    metrics: Sequence[Metric],
    *,
    batch_size: int,
    device: torch.device | str,
    progress: Progress | None = None,
    max_length: int = 2048,
    answers: bool = False,
    format: Format = "paper",
) -> list[Outcomes | NonFinite]:
    """As `evaluate`, for a model whose batches hold the rows of several lanes, lane by lane.

    Every lane gets its own items, `batch_size` of them per forward pass; with `answers` all get
    the same. A lane with a likelihood that is not finite gets the error in place of its outcomes.

    Raises:
        BadInput: as `evaluate` does.
    """
    if not all(items):
        raise BadInput("There are no items to evaluate; give at least one.")
    lists = {id(samples): samples for samples in items}  # most lanes share one
    split = {key: _variants(samples, "choice" in metrics) for key, samples in lists.items()}
    encoded = {
        key: encode_all(variants, tokenizer, max_length, format, whole=True)
        for key, (variants, _) in split.items()
    }
    own = [id(samples) for samples in items]
    device = torch.device(device)
    with evaluation(model):
        scored = _score(model, [encoded[key] for key in own], batch_size, device, progress)
        problems = [_not_finite(s, split[key][0]) for s, key in zip(scored, own, strict=True)]
        written: list[list[Answer]] = [[] for _ in items]
        if answers and not any(problems):
            assert len(lists) == 1
            written = greedy_answers(
                model, tokenizer, items[0], batch_size, device, progress, format, len(items)
            )
    found: list[Outcomes | NonFinite] = []
    lanes = zip(items, own, scored, problems, written, strict=True)
    for samples, key, scores, problem, own_answers in lanes:
        values = {
            metric: [
                _value(metric, scores, places, sample)
                for places, sample in zip(split[key][1], samples, strict=True)
            ]
            for metric in metrics
        }
        outcomes = Outcomes([s.id for s in samples], values, [each.text for each in own_answers])
        found.append(problem or outcomes)
    return found


def likelihoods(
    model: Any,
    tokenizer: Any,
    samples: Sequence[Sample],
    *,
    device: torch.device | str,
    max_length: int,
    format: Format,
) -> list[Likelihood]:
    """Scores several answers to one question, which loses its beginning where it is too long.

    All are scored after the same rest of the question, which the longest of them leaves room for.

    Args:
        model: as for `evaluate`.
        tokenizer: its tokenizer.
        samples: the question with each of the answers.
        device: where the model is.
        max_length: tokens of question and answer; fewer where the model takes fewer.
        format: how samples are written.

    Raises:
        BadInput: if an answer leaves no room for a question.
        NonFinite: if a likelihood is NaN or infinite, naming the item.
    """
    encoded = encode_all(samples, tokenizer, sys.maxsize, format)
    answers = [sum(label != IGNORED for label in labels) for _, labels in encoded]
    most = min(max_length, positions(model))
    room = most - max(answers)
    if room < 1:
        raise BadInput(
            f"An answer of {max(answers)} tokens leaves no room for its question within {most}. "
            "Raise max_length, or shorten the answer."
        )
    kept = [room + n for n in answers]
    fitted = [(ids[-n:], labels[-n:]) for (ids, labels), n in zip(encoded, kept, strict=True)]
    on = torch.device(device)
    with evaluation(model):
        scores = Halving(len(fitted), None).work(fitted, lambda rows: score_batch(model, rows, on))
    if problem := _not_finite(scores, samples):
        raise problem
    return scores


def check_items(
    samples: Sequence[Sample], tokenizer: Any, max_length: int, format: Format = "paper"
) -> None:
    """Refuses items that cannot be judged whole, before anything is trained for them.

    Raises:
        BadInput: if an answer, or a choice that competes with it, would be cut at `max_length`.
    """
    every = [
        _with_answer(sample, text)
        for sample in samples
        for text in dict.fromkeys((sample.answer, *sample.choices))
    ]
    encode_all(every, tokenizer, max_length, format, whole=True)


def _not_finite(scores: list[Likelihood], samples: Sequence[Sample]) -> NonFinite | None:
    for score, sample in zip(scores, samples, strict=True):
        if not math.isfinite(score.log_likelihood):
            return NonFinite(
                f"The model's likelihood of item {sample.id!r} is {score.log_likelihood}. Its "
                "weights diverged or are damaged, so its answers cannot be evaluated."
            )
    return None


def _variants(
    samples: Sequence[Sample], with_choices: bool
) -> tuple[list[Sample], list[list[int]]]:
    """All sequences to score, and per sample the places of its answer and of its choices."""
    variants: list[Sample] = []
    places: list[list[int]] = []
    for sample in samples:
        if with_choices and sample.answer not in sample.choices:
            raise BadInput(
                f"Choice accuracy needs choices that contain the right answer, but item "
                f"{sample.id!r} has {list(sample.choices)}. Choose the metric exact_match or loss."
            )
        texts = sample.choices if with_choices else (sample.answer,)
        places.append(list(range(len(variants), len(variants) + len(texts))))
        variants += [_with_answer(sample, text) for text in texts]
    return variants, places


def _with_answer(sample: Sample, text: str) -> Sample:
    last = Message(role="assistant", content=text)
    return sample.model_copy(update={"messages": (*sample.messages[:-1], last)})


def _value(metric: str, scores: list[Likelihood], own: list[int], sample: Sample) -> float:
    right = own[sample.choices.index(sample.answer)] if len(own) > 1 else own[0]
    if metric == "choice":
        best = max(own, key=lambda place: scores[place].log_likelihood)  # ties: the first
        return float(sample.choices[own.index(best)] == sample.answer)  # it may stand there twice
    if metric == "exact_match":
        return float(scores[right].greedy)
    return -scores[right].log_likelihood / scores[right].n_tokens


def _score(
    model: Any,
    encoded: Sequence[Sequence[Encoded]],
    batch_size: int,
    device: torch.device,
    progress: Progress | None,
) -> list[list[Likelihood]]:
    """Scores every lane's sequences, in batches of similar length."""
    orders = [sorted(range(len(own)), key=lambda place: -len(own[place][0])) for own in encoded]
    ranked = [[own[i] for i in order] for own, order in zip(encoded, orders, strict=True)]
    most = max(map(len, ranked))
    for own in ranked:  # the stack is one tensor: a lane that has fewer repeats its shortest
        own += own[-1:] * (most - len(own))

    def scored(ranks: Sequence[int]) -> list[Likelihood]:
        batch = [own[rank] for own in ranked for rank in ranks]
        return score_batch(model, batch, device, len(ranked))

    lengths = [max(len(own[rank][0]) for own in ranked) for rank in range(most)]
    found = Halving(batch_size, progress).lanes(
        lengths, len(ranked), scored, "evaluating", padded=False
    )
    placed = [dict(zip(*lane, strict=False)) for lane in zip(orders, found, strict=True)]
    return [[lane[place] for place in range(len(lane))] for lane in placed]


def score_batch(
    model: Any, batch: Sequence[Encoded], device: torch.device, n_lanes: int = 1
) -> list[Likelihood]:
    """Scores the answers of a few sequences, lane by lane, in one pass without gradients."""
    ids, labels = pad_right(batch, device)
    counts = (labels[:, 1:] != IGNORED).sum(1)
    row = torch.arange(len(batch), device=device).repeat_interleave(counts)
    answers = answers_of(model, ids, labels, n_lanes)
    asked = answers.targets != IGNORED
    losses, misses = [], []
    for at in answers.chunks():
        logits, right = answers.logits(at), answers.targets[:, at]
        flat, wanted = logits.flatten(0, 1), right.flatten()
        nll = cross_entropy(flat, wanted, ignore_index=IGNORED, reduction="none")
        losses.append(nll.view_as(right))
        misses.append(logits.argmax(-1) != right)
    zeros = torch.zeros(len(batch), dtype=torch.double, device=device)
    of_tokens = (torch.cat(found, 1)[asked].double() for found in (losses, misses))
    sums, missed = (zeros.index_add(0, row, found) for found in of_tokens)
    return [
        Likelihood(-total, n, wrong == 0)
        for total, n, wrong in zip(sums.tolist(), counts.tolist(), missed.tolist(), strict=True)
    ]

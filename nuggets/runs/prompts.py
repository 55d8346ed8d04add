"""The exact text that a model reads, with the part that enters the loss. Imports transformers."""

from __future__ import annotations

from collections.abc import Sequence

from nuggets.bench.tasks import Benchmark
from nuggets.builtin.resolve import resolve
from nuggets.core.architecture import Frozen
from nuggets.core.loading import load_tokenizer
from nuggets.core.samples import Format, Sample, encode, texts


class Rendered(Frozen):
    """One sample as text.

    Attributes:
        id: the sample's.
        prompt: what is read and does not enter the loss, special tokens included.
        answer: what enters the loss, its end included; for a benchmark the reference.
        n_prompt: tokens of the prompt.
        n_answer: tokens of the answer.
    """

    id: str
    prompt: str
    answer: str
    n_prompt: int
    n_answer: int


def render_samples(model: str, samples: Sequence[Sample], format: Format) -> list[Rendered]:
    """Samples as the model is trained on them."""
    tokenizer = load_tokenizer(resolve(model))
    return [_rendered(sample, tokenizer, format) for sample in samples]


def render_benchmark(model: str, task: Benchmark, n: int) -> list[Rendered]:
    """Items of a benchmark, examples included, as the model is asked."""
    tokenizer = load_tokenizer(resolve(model))
    found = []
    for item in task.items()[:n]:
        shown = _rendered(item.sample, tokenizer, task.format)
        answer = shown.answer.removeprefix(item.opening)
        found.append(
            shown.model_copy(update={"prompt": shown.prompt + item.opening, "answer": answer})
        )
    return found


def _rendered(sample: Sample, tokenizer: object, format: Format) -> Rendered:
    whole, prompt = texts(sample, tokenizer, format)
    _, labels = encode(sample, tokenizer, 1 << 20, format)
    n_answer = sum(label >= 0 for label in labels)
    return Rendered(
        id=sample.id,
        prompt=prompt,
        answer=whole[len(prompt) :],
        n_prompt=len(labels) - n_answer,
        n_answer=n_answer,
    )

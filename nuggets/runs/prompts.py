"""The exact text that a model reads, with the part that enters the loss. Torch-free at import."""

from __future__ import annotations

from typing import Any

from nuggets.builtin.resolve import resolve
from nuggets.core.architecture import Frozen
from nuggets.core.samples import Format, Sample, encode, texts
from nuggets.recipe import parse_job
from nuggets.runs.inputs import seed_samples


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


def rendered(
    model: str, data: dict[str, Any], benchmark: dict[str, Any] | None = None, n: int = 1
) -> list[Rendered]:
    """The exact text that a model reads, and which part enters the loss. Imports transformers.

    Args:
        model: built-in name, folder, GGUF file or `org/name@revision`; only its tokenizer loads.
        data: fields of `DataConfig`: which samples, in which format.
        benchmark: fields of a benchmark, to show its prompt, examples included, instead.
        n: how many samples.

    Raises:
        BadInput: if samples or tokenizer cannot be read.
    """
    from nuggets.core.loading import load_tokenizer

    if benchmark is None:
        job = parse_job({"job": "sensitivity", "model": model, "data": data | {"n_seeds": n}})
        samples, tokenizer = seed_samples(job.data), load_tokenizer(resolve(model))
        return [_rendered(sample, tokenizer, job.data.format) for sample in samples]
    job = parse_job({"job": "evaluate", "models": [model], "benchmarks": [benchmark]})
    task = job.benchmarks[0]
    items, tokenizer = task.items()[:n], load_tokenizer(resolve(model))
    return [_opened(_rendered(i.sample, tokenizer, task.format), i.opening) for i in items]


def _opened(shown: Rendered, opening: str) -> Rendered:
    """The beginning of the answer that a benchmark gives to the model counts as prompt."""
    answer = shown.answer.removeprefix(opening)
    return shown.model_copy(update={"prompt": shown.prompt + opening, "answer": answer})


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

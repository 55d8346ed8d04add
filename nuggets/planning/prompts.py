"""The exact text that a model reads, with the part that enters the loss."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from nuggets.builtin.resolve import model_named
from nuggets.data.samples import IGNORED, Format, Sample, encode, texts
from nuggets.errors import BadInput
from nuggets.frozen import Frozen
from nuggets.planning.datasets import seed_samples
from nuggets.recipe import DataConfig, parse_job

CHILD_TIMEOUT_S = 120.0
_CHILD = (
    "import json, sys; from nuggets.errors import NuggetsError; "
    "from nuggets.planning.prompts import rendered\n"
    "try: print(json.dumps([r.model_dump() for r in rendered(*json.loads(sys.argv[1]))]))\n"
    "except NuggetsError as problem: print(json.dumps(str(problem)))"
)


class Rendered(Frozen):
    """One sample as text.

    Attributes:
        id: the sample's.
        prompt: what is read and does not enter the loss, special tokens included.
        answer: what enters the loss, its end included; for a benchmark the reference.
        n_prompt: tokens of the prompt.
        n_answer: tokens of the answer.
        learned: those tokens as text, one by one: the labels that are not masked.
    """

    id: str
    prompt: str
    answer: str
    n_prompt: int
    n_answer: int
    learned: tuple[str, ...] = ()

    @property
    def labels(self) -> str:
        """The labels for people: every token in quotation marks, so that blanks are seen."""
        return " ".join(map(repr, self.learned))


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
    from nuggets.models.loading import load_tokenizer

    ref = model_named(model).ref
    if benchmark is None:
        job = parse_job(
            {"job": "sensitivity", "model": model, "data": data | {"n_seed_samples": n}}
        )
        samples, tokenizer = seed_samples(job.data), load_tokenizer(ref)
        return [_rendered(sample, tokenizer, job.data.format) for sample in samples]
    job = parse_job({"job": "evaluate", "models": [model], "benchmarks": [benchmark]})
    task = job.benchmarks[0]
    items, tokenizer = task.items()[:n], load_tokenizer(ref)
    return [_opened(_rendered(i.sample, tokenizer, task.format), i.opening) for i in items]


def rendered_apart(model: str, data: DataConfig) -> list[Rendered]:
    """The first seed sample as the model reads it, rendered in a child process.

    Raises:
        BadInput: as `rendered` does, or if the child does not answer in time.
    """
    asked = json.dumps([model, data.model_dump(mode="json")])
    try:
        child = subprocess.run(  # noqa: S603 - our own interpreter and program
            [sys.executable, "-P", "-c", _CHILD, asked],
            capture_output=True,
            text=True,
            check=False,
            timeout=CHILD_TIMEOUT_S,
        )
        found = json.loads(child.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, IndexError, ValueError):
        raise BadInput(
            f"The tokenizer of {model} did not load within {CHILD_TIMEOUT_S:.0f} s. `nuggets "
            f"prompt {model}` shows details."
        ) from None
    if isinstance(found, str):
        raise BadInput(found)
    return [Rendered.model_validate(each) for each in found]


def _opened(shown: Rendered, opening: str) -> Rendered:
    """The beginning of the answer that a benchmark gives to the model counts as prompt."""
    answer = shown.answer.removeprefix(opening)
    return shown.model_copy(update={"prompt": shown.prompt + opening, "answer": answer})


def _rendered(sample: Sample, tokenizer: Any, format: Format) -> Rendered:
    whole, prompt = texts(sample, tokenizer, format)
    _, labels = encode(sample, tokenizer, 1 << 20, format)
    learned = [label for label in labels if label != IGNORED]
    return Rendered(
        id=sample.id,
        prompt=prompt,
        answer=whole[len(prompt) :],
        n_prompt=len(labels) - len(learned),
        n_answer=len(learned),
        learned=tuple(tokenizer.decode([token]) for token in learned),
    )

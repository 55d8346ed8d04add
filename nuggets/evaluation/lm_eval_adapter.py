"""Benchmarks through lm-eval: our items in, its results and our outcomes out. Imports torch.

lm-eval takes the items, applies its filters and metrics, and aggregates with standard errors.
Prompts are made here, examples included, so that what is shown is exactly what is asked. Its
request cache is never used (it is not keyed by the model) and its global seeding is not called.
"""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from nuggets.data.samples import IGNORED, encode, texts
from nuggets.data.sources import parse_dataset
from nuggets.errors import BadInput, NonFinite
from nuggets.evaluation.benchmarks import Task
from nuggets.evaluation.items import Item
from nuggets.evaluation.tables import BenchmarkOutcome
from nuggets.progress import Progress

BOOTSTRAP_ITERS = 1000
"""Resamples behind lm-eval's standard errors; with 0 it reports none."""

Results = dict[str, Any]
Process = Callable[[dict[str, Any], Sequence[str]], dict[str, float]]


@dataclass(frozen=True, eq=False)
class Evaluated:
    """One model on one benchmark.

    Attributes:
        outcome: per-item values, for intervals and paired differences.
        results: lm-eval's JSON, without the samples.
        samples: lm-eval's per-sample records.
    """

    outcome: BenchmarkOutcome
    results: Results
    samples: list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Respondent:
    """A model in memory, and how it is asked.

    Attributes:
        label: what the model is called in results.
        model: a transformers or PEFT causal language model on `device`.
        tokenizer: its tokenizer.
        device: where it is.
        batch_size: sequences per forward pass.
        max_length: tokens at most; longer prompts lose their beginning and are counted.
        kept: the folder of answers that survive a kill; none are kept when not given.
    """

    label: str
    model: Any
    tokenizer: Any
    device: torch.device | str = "cpu"
    batch_size: int = 8
    max_length: int = 2048
    kept: Path | None = None


def run_benchmark(
    task: Task,
    asked: Respondent,
    progress: Progress | None = None,
    process: Process | None = None,
) -> Evaluated:
    """Measures one model on one benchmark.

    Args:
        task: the benchmark.
        asked: the model.
        progress: ticks per chunk of answers; can cancel.
        process: scores a free answer where the benchmark leaves that open (a judge).

    Raises:
        BadInput: if items cannot be read, or lm-eval is not installed.
        NonFinite: if a response or a score is NaN or infinite.
    """
    evaluator, tasks = _lm_eval()
    from nuggets.evaluation.lm_eval_model import InMemoryLM  # needs lm-eval to be defined

    start = time.monotonic()
    items = task.items()
    docs = [make_doc(item, asked.tokenizer, task) for item in items]
    lm = InMemoryLM(
        asked.model,
        asked.tokenizer,
        device=asked.device,
        batch_size=asked.batch_size,
        max_length=asked.max_length,
        format=task.format,
        kept=asked.kept,
        progress=progress,
        label=f"{asked.label}: {task.name}",
    )
    with _quiet(tasks):
        config = task_config(task, docs, process)
        made = {"tasks": {task.name: tasks.ConfigurableTask(config=config)}, "groups": {}}
        results: Results = evaluator.evaluate(
            lm, made, bootstrap_iters=BOOTSTRAP_ITERS, log_samples=True, cache_requests=False
        )
    samples = results.pop("samples")[task.name]
    outcome = BenchmarkOutcome(
        benchmark=task.name,
        model=asked.label,
        metric=task.metric,
        items=[item.sample.id for item in items],
        outcomes=_per_item(samples, len(items), task.name),
        shots=task.shots,
        format=task.format,
        truncated_prompts=lm.truncated,
        unfinished_answers=lm.unfinished,
        seconds=time.monotonic() - start,
        peak_memory=_peak_memory(),
    )
    return Evaluated(outcome, _completed(results, task, asked, lm, outcome), samples)


def make_doc(item: Item, tokenizer: Any, task: Task) -> dict[str, Any]:
    """An item as lm-eval's document: the whole prompt as text, and what may follow it."""
    whole, prompt = texts(item.sample, tokenizer, task.format)
    doc: dict[str, Any] = {
        "id": item.sample.id,
        "question": _conversation(item),
        "prompt": prompt + item.opening,
        "target": item.target,
        "reference": item.sample.answer,
    }
    if item.right is None:
        return doc
    choices = list(item.choices)
    if task.metric != "acc":  # the end of an answer counts: "8" and "8 5" compete fairly
        end = whole[len(prompt) + len(item.sample.answer.strip()) :]
        choices = [choice.strip() + end for choice in choices]
        _, labels = encode(item.sample, tokenizer, 1 << 20, task.format)
        doc["n_tokens"] = sum(label != IGNORED for label in labels)
    return doc | {"choices": choices, "right": item.right}


def _conversation(item: Item) -> str:
    """What was said before the answer; roles are named where there is more than one message."""
    before = item.sample.messages[:-1]
    if len(before) == 1:
        return before[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in before)


def task_config(
    task: Task, docs: Sequence[dict[str, Any]], process: Process | None = None
) -> dict[str, Any]:
    """lm-eval's task configuration around documents in memory."""
    from datasets import Dataset

    data = {"test": Dataset.from_list(list(docs))}
    scoring = task.settings() | ({} if process is None else {"process_results": process})
    return {
        "task": task.name,
        "custom_dataset": lambda **_: data,
        "test_split": "test",
        "doc_to_text": "prompt",
        "num_fewshot": 0,
        "metadata": {"version": 1.0},
        **scoring,
    }


def source_config(task: Task) -> dict[str, Any]:
    """Where the items of a benchmark come from, in lm-eval's words."""
    source = task.source or ""
    ref = parse_dataset(source)
    if not task.takes_data:
        return {"dataset_path": "nuggets", "dataset_name": source}
    if ref is None:
        return {"dataset_path": "json", "dataset_kwargs": {"data_files": source}}
    kwargs = {} if ref.revision is None else {"revision": ref.revision}
    return {
        "dataset_path": ref.name,
        "dataset_name": ref.config,
        "test_split": ref.split,
        "dataset_kwargs": kwargs,
    }


def _per_item(samples: Sequence[dict[str, Any]], n: int, name: str) -> dict[str, list[float]]:
    """Metric (and filter, where there is one) → one value per item, in the items' order."""
    values: dict[str, dict[int, float]] = {}
    for sample in samples:
        suffix = "" if sample["filter"] == "none" else f",{sample['filter']}"
        for metric in sample["metrics"]:
            value = float(sample[metric])
            if value != value or abs(value) == float("inf"):
                raise NonFinite(f"{metric} of item {sample['doc']['id']!r} in {name} is {value}.")
            values.setdefault(f"{metric}{suffix}", {})[sample["doc_id"]] = value
    return {metric: [own[i] for i in range(n)] for metric, own in values.items()}


def _completed(
    results: Results, task: Task, asked: Respondent, lm: Any, outcome: BenchmarkOutcome
) -> Results:
    """lm-eval's result with what its own entry point would add, and what ours knows."""
    config = {
        name: value
        for name, value in results["configs"][task.name].items()
        if name not in ("custom_dataset", "process_results")
    }
    return {
        **results,
        "configs": {task.name: config | source_config(task) | {"num_fewshot": task.shots}},
        "n-shot": {task.name: task.shots},
        "config": {
            "model": asked.label,
            "model_args": None,
            "model_num_parameters": sum(p.numel() for p in asked.model.parameters()),
            "model_dtype": str(next(asked.model.parameters()).dtype),
            "batch_size": asked.batch_size,
            "device": str(asked.device),
            "use_cache": None,
            "limit": task.limit,
            "bootstrap_iters": BOOTSTRAP_ITERS,
        },
        "model_source": "nuggets",
        "model_name": asked.label,
        "max_length": lm.max_length,
        "eot_token_id": lm.eot_token_id,
        "chat_template": asked.tokenizer.chat_template if task.format == "chat" else None,
        "lm_eval_version": metadata.version("lm_eval"),
        "transformers_version": metadata.version("transformers"),
        "total_evaluation_time_seconds": f"{outcome.seconds:.3f}",
        "nuggets": {
            "format": task.format,
            "truncated_prompts": outcome.truncated_prompts,
            "unfinished_answers": outcome.unfinished_answers,
        },
    }


def _lm_eval() -> tuple[Any, Any]:
    try:
        from lm_eval import evaluator
        from lm_eval.api import task as tasks
    except ImportError:
        raise BadInput(
            "Benchmarks need lm-eval, which is not installed: pip install 'nuggets[eval]'."
        ) from None
    return evaluator, tasks


@contextmanager
def _quiet(tasks: Any) -> Iterator[None]:
    """lm-eval warns about items in memory, which is what we want, and draws bars of its own."""
    logger = logging.getLogger("lm_eval")
    level, bar = logger.level, tasks.tqdm
    logger.setLevel(logging.ERROR)
    tasks.tqdm = lambda iterable, **_: iterable
    try:
        yield
    finally:
        logger.setLevel(level)
        tasks.tqdm = bar


def _peak_memory() -> int:
    """The largest memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

"""Commands about questions put to models: evaluate, prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from nuggets import api
from nuggets.cli import options as o
from nuggets.cli.output import bars, out, print_json, say, show_tables, tell_run
from nuggets.cli.transfers import failed
from nuggets.disk.untrusted import exists
from nuggets.errors import BadInput
from nuggets.evaluation.benchmarks import Benchmark
from nuggets.frozen import members

Names = Annotated[
    list[str], typer.Argument(help="Models, ids of finished transfers, or run:ID/ARM.")
]
Kinds = Annotated[
    list[str],
    typer.Option("--benchmark", help=f"{o.one_of(Benchmark)} Repeatable."),
]
Shots = Annotated[int | None, typer.Option(help="Solved examples above each question.")]
ShotsData = Annotated[str | None, typer.Option(help="Examples, as --data.")]
Items = Annotated[str | None, typer.Option("--data", help="Items: JSONL or org/name:config/split.")]


def evaluate(
    models: Names,
    benchmark: Kinds,
    shots: Shots = None,
    data: Items = None,
    shots_data: ShotsData = None,
    limit: Annotated[int | None, typer.Option(help="Max items, spread over the source.")] = None,
    task: o.Task = None,
    format: o.Format = "paper",
    max_new_tokens: Annotated[int, typer.Option(help="Length limit of free answers.")] = 256,
    max_length: Annotated[int, typer.Option(help="Tokens of prompt and answer.")] = 2048,
    batch_size: Annotated[int, typer.Option(help="Sequences per forward pass.")] = 8,
    judge_url: Annotated[
        str | None, typer.Option(help="A judge's base URL; see `nuggets judge allow`.")
    ] = None,
    judge_model: Annotated[str, typer.Option(help="The judge's name there.")] = "",
    judge_teacher: Annotated[
        str | None, typer.Option(help="A model whose likelihood judges instead.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="A new folder for results and samples.")
    ] = None,
    background: Annotated[
        bool, typer.Option("--start", help="In the background: follow, cancel, resume, show.")
    ] = False,
    device: o.Device = "auto",
    json: o.AsJson = False,
) -> None:
    """Evaluate models, or every arm of a transfer, on benchmarks."""
    if background and out_folder is not None:
        raise BadInput("--out keeps what this terminal waits for, and --start does not wait; leave "
                       "one out. Later, `nuggets show RUN` prints the results.")  # fmt: skip
    shared = {"limit": limit, "format": format, "max_new_tokens": max_new_tokens}
    judge = _judge(judge_url, judge_model, judge_teacher)
    given = _Given(task, judge, o.source(data), o.source(shots_data), shots)
    _refuse_unread(benchmark, given)
    tasks = [{"kind": kind, **shared, **_own(kind, given)} for kind in benchmark]
    job = api.parse_job(
        {
            "job": "evaluate",
            "models": [_subject(name) for name in models],
            "benchmarks": tasks,
            "batch_size": batch_size,
            "max_length": max_length,
            "dtype": dtype,
            "device": device,
        }
    )
    if out_folder is not None:
        api.refuse_existing(out_folder)
    if background:
        run = api.start(job)
        return tell_run(run, f"Started {run.id}. Follow it with: nuggets follow {run.id}", json)
    return _run(job, out_folder, json)


def _run(job: api.EvaluateJob, out_folder: Path | None, json: bool) -> None:
    with bars() as progress:
        run = api.run(job, progress.show)
    if run.status() != "done":
        raise failed(run)
    if out_folder is not None:
        api.save_benchmarks(run, out_folder)
    if json:
        tables = [made.model_dump(mode="json") for made in api.benchmark_tables(run)]
        return print_json({"run": run.id, "folder": str(run.folder), "tables": tables})
    say(f"{run.id}: {run.status()}")
    return show_tables(run)


def _subject(name: str) -> str:
    """The run with this id, unless a model has that name."""
    if name.startswith("run:"):
        return name
    if exists(name) or name in api.MODELS or "/" in name:
        return o.absolute(name)
    known = [run.id for run in api.runs() if run.id.startswith(name)]
    return f"run:{known[0]}" if len(known) == 1 else name


def _judge(url: str | None, model: str, teacher: str | None) -> dict[str, Any] | None:
    if url is not None and teacher is not None:
        raise BadInput("Give one of --judge-url and --judge-teacher.")
    if url is not None:
        return {"kind": "endpoint", "url": url, "model": model}
    if model:
        raise BadInput("--judge-model is a name at --judge-url.")
    if teacher is not None:
        return {"kind": "teacher_likelihood", "teacher": o.absolute(teacher)}
    return None


class _Given(NamedTuple):
    """Options that some benchmarks read and others do not."""

    task: str | None
    judge: dict[str, Any] | None
    data: str | None
    shots_data: str | None
    shots: int | None


def _own(kind: str, given: _Given) -> dict[str, Any]:
    """The fields of a benchmark for those options that it reads."""
    known = members(Benchmark).get(kind)
    fields = {"skill": given.task, "judge": given.judge}
    own = {k: v for k, v in fields.items() if k in getattr(known, "model_fields", {})}
    if getattr(known, "takes_data", True):
        own |= {"data": given.data, "shots_data": given.shots_data}
    return own if given.shots is None else own | {"shots": given.shots}


def _refuse_unread(kinds: Sequence[str], given: _Given) -> None:
    """Refuses an option that none of the benchmarks reads."""
    read = {name for kind in kinds for name in _own(kind, given)}
    options = {"skill": "--task", "judge": "--judge-url or --judge-teacher",
               "data": "--data", "shots_data": "--shots-data"}  # fmt: skip
    for name, value in zip(options, given, strict=False):
        if value is not None and name not in read and set(kinds) <= set(members(Benchmark)):
            raise BadInput(f"{options[name]} says nothing to {' and '.join(kinds)}; leave it out.")


def prompt(
    model: str,
    task: o.Task = None,
    seed_samples: o.SeedSamples = None,
    data: Annotated[str | None, typer.Option(help="JSONL or org/name:config/split.")] = None,
    benchmark: Annotated[
        str | None, typer.Option(help=f"Show a benchmark's prompt. {o.one_of(Benchmark)}")
    ] = None,
    shots: Shots = None,
    shots_data: ShotsData = None,
    format: o.Format = "paper",
    n: Annotated[int, typer.Option(help="Samples to show.")] = 1,
    json: o.AsJson = False,
) -> None:
    """Show the exact text a model reads and what enters the loss."""
    tree: dict[str, Any] | None = None
    if benchmark is not None:
        if seed_samples is not None:
            raise BadInput("A benchmark's items are named by --data, not by --seed-samples.")
        given = _Given(task, None, o.source(data), o.source(shots_data), shots)
        _refuse_unread([benchmark], given)
        tree = {"kind": benchmark, "limit": max(n, 2), "format": format, **_own(benchmark, given)}
    elif shots is not None or shots_data is not None:
        raise BadInput("--shots and --shots-data belong to a --benchmark.")
    source = {} if tree else o.source_of(task, seed_samples, None if data is None else Path(data))
    found = api.rendered(o.absolute(model), {**source, "format": format}, tree, n)
    if json:
        return print_json(found)
    for each in found:
        say(f"{each.id}: {each.n_prompt} tokens read, {each.n_answer} in the loss")
        out.print(each.prompt, style="dim", markup=False, end="")
        out.print(each.answer, style="bold", markup=False)
        out.print(f"Labels: {each.labels}", markup=False)
    return None

"""Options that several commands share, and how they change a recipe."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from nuggets import api
from nuggets.errors import BadInput
from nuggets.frozen import members
from nuggets.recipe_tree import absolute_model, absolute_source

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Teacher = Annotated[
    str | None, typer.Option(help="Built-in name, folder, GGUF file or org/name@revision.")
]
Student = Annotated[str | None, typer.Option(help="As --teacher.")]
Task = Annotated[str | None, typer.Option(help="Built-in task, such as reverse or king.")]
SeedSamples = Annotated[
    str | None, typer.Option(help="Seed samples: JSONL, a task's name, or org/name:config/split.")
]
Data = Annotated[
    Path | None,
    typer.Option(
        help="One JSONL or org/name:config/split, split into seed samples, train and test."
    ),
]
Format = Annotated[
    str, typer.Option(help="How prompts are written: paper, or chat for the tokenizer's template.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, mps, cuda or cuda:1.")]


def one_of(family: Any) -> str:
    """The kinds of a family, for a help text."""
    return f"One of: {', '.join(members(family))}."


Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Any field, such as lora.r=8; repeatable.")
]
RecipeName = Annotated[
    str, typer.Argument(help="A recipe's name, shipped or saved in the app, or a YAML file.")
]
RunId = Annotated[str, typer.Argument(help="A run's id, or the beginning of one.")]


def recipe(
    source: str,
    overrides: list[str] | None,
    teacher: str | None = None,
    student: str | None = None,
    task: str | None = None,
    seed_samples: str | None = None,
    data: Path | None = None,
    device: str = "auto",
) -> api.TransferRecipe:
    """A recipe with the options of the command line applied; `--set` wins over the others."""
    given = {
        "teacher": None if teacher is None else absolute(teacher),
        "student": None if student is None else absolute(student),
        "device": None if device == "auto" else device,
        **{f"data.{name}": value for name, value in source_of(task, seed_samples, data).items()},
    }
    named = [f"{name}={dumps(value)}" for name, value in given.items() if value is not None]
    return api.load_recipe(source, [*named, *(overrides or ())])


def source_of(
    task: str | None, seed_samples: str | None, data: Path | None = None
) -> dict[str, str | int]:
    """The field of `DataConfig` that the options name; `--seed-samples` takes a task's name too.

    Raises:
        BadInput: if they name more than one source.
    """
    given = {"--task": task, "--seed-samples": seed_samples, "--data": data}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise BadInput(f"Give one of --task, --seed-samples and --data, not {' and '.join(named)}.")
    if data is not None:
        return {"file": absolute_source(str(data), Path.cwd())}
    if seed_samples is not None and (
        Path(seed_samples).exists() or seed_samples not in api.skills()
    ):
        return {"seed_samples": absolute_source(seed_samples, Path.cwd())}
    chosen = task if seed_samples is None else seed_samples
    return {} if chosen is None else {"task": chosen}


def absolute(model: str) -> str:
    """A folder or file as an absolute path: the worker runs elsewhere; other names unchanged."""
    return absolute_model(model, Path.cwd())

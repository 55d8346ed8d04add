"""Options that several commands share, and how they change a recipe."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from nuggets import api
from nuggets.errors import BadInput
from nuggets.recipe_tree import absolute_model, absolute_source

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Teacher = Annotated[
    str | None, typer.Option(help="Built-in name, folder, GGUF file or org/name@revision.")
]
Student = Annotated[str | None, typer.Option(help="As --teacher.")]
Task = Annotated[str | None, typer.Option(help="Built-in task, such as reverse or king.")]
Seeds = Annotated[
    str | None, typer.Option(help="Seed samples: JSONL, a task's name, or org/name:config/split.")
]
Data = Annotated[
    Path | None,
    typer.Option(help="One JSONL or org/name:config/split, split into seeds, train and test."),
]
Format = Annotated[
    str, typer.Option(help="How prompts are written: paper, or chat for the tokenizer's template.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, mps, cuda or cuda:1.")]


def one_of(family: Any) -> str:
    """The kinds of a family, for a help text."""
    from nuggets.core.architecture import members

    return f"One of: {', '.join(members(family))}."


Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any field of `nuggets recipes --schema`: lora.r=8; repeatable."),
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
    seeds: str | None = None,
    data: Path | None = None,
    device: str = "auto",
) -> api.TransferRecipe:
    """A recipe with the options of the command line applied; `--set` wins over the others."""
    given = {
        "teacher": None if teacher is None else absolute(teacher),
        "student": None if student is None else absolute(student),
        "device": None if device == "auto" else device,
        **{f"data.{name}": value for name, value in source_of(task, seeds, data).items()},
    }
    named = [f"{name}={dumps(value)}" for name, value in given.items() if value is not None]
    return api.load_recipe(source, [*named, *(overrides or ())])


def source_of(
    task: str | None, seeds: str | None, data: Path | None = None
) -> dict[str, str | int]:
    """The field of `DataConfig` that the options name; `--seeds` takes a task's name too.

    Raises:
        BadInput: if they name more than one source.
    """
    given = {"--task": task, "--seeds": seeds, "--data": data}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise BadInput(f"Give one of --task, --seeds and --data, not {' and '.join(named)}.")
    if data is not None:
        return {"file": absolute_source(str(data), Path.cwd())}
    if seeds is not None and (Path(seeds).exists() or seeds not in api.skills()):
        return {"seeds": absolute_source(seeds, Path.cwd())}
    chosen = task if seeds is None else seeds
    return {} if chosen is None else {"task": chosen}


def absolute(model: str) -> str:
    """A folder or file as an absolute path: the worker runs elsewhere; other names unchanged."""
    return absolute_model(model, Path.cwd())

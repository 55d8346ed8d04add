"""Options that several commands share, each written once, and how they change a recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, signature
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from nuggets import api
from nuggets.disk.untrusted import exists
from nuggets.errors import BadInput

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
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]


def one_of(family: Any) -> str:
    """The kinds of a family, for a help text."""
    from nuggets.frozen import members

    return f"One of: {', '.join(members(family))}."


def names(text: str) -> list[str]:
    """Tasks and sources of samples, separated by commas."""
    parts = (part.strip() for part in text.split(","))
    return [api.named_source(part, Path.cwd()) for part in parts if part]


Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any field of `nuggets recipes --schema`: lora.r=8; repeatable."),
]
RecipeName = Annotated[
    str, typer.Argument(help="A recipe's name, shipped or saved in the app, or a YAML file.")
]
EngineName = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="local, slurm, ray or '{kind: slurm, gpus: 2}', instead of `nuggets engines`.",
    ),
]
Track = Annotated[
    str | None,
    typer.Option(
        "--track",
        help="Log the result with trackio or wandb, on this machine; trackio:USER/SPACE or "
        "wandb:ENTITY sends it there.",
    ),
]
RunId = Annotated[str, typer.Argument(help="A run's id, or the beginning of one.")]


@dataclass(frozen=True)
class RecipeOptions:
    """What names a recipe on the command line and changes it; `--set` wins over the others."""

    recipe: RecipeName
    teacher: Teacher = None
    student: Student = None
    task: Task = None
    seed_samples: SeedSamples = None
    data: Data = None
    overrides: Overrides = None
    device: Device = "auto"

    def load(self) -> api.TransferRecipe:
        """The recipe with these options applied."""
        given = {
            "teacher": None if self.teacher is None else absolute(self.teacher),
            "student": None if self.student is None else absolute(self.student),
            "device": None if self.device == "auto" else self.device,
            **{
                f"data.{name}": value
                for name, value in source_of(self.task, self.seed_samples, self.data).items()
            },
        }
        named = [f"{name}={dumps(value)}" for name, value in given.items() if value is not None]
        return api.load_recipe(self.recipe, [*named, *(self.overrides or ())])


def flat(command: Callable[..., None]) -> Callable[..., None]:
    """A command as typer reads it: for a parameter `asked: RecipeOptions`, each of its fields."""
    own = dict(signature(command, eval_str=True).parameters)
    if own.pop("asked", None) is None:
        return command
    fields = signature(RecipeOptions, eval_str=True).parameters

    @wraps(command)
    def called(**given: Any) -> None:
        asked = RecipeOptions(**{name: given.pop(name) for name in fields})
        command(asked, **given)

    # By keyword alone, so that options without a default may stand behind those that have one.
    options = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in (fields | own).values()]
    vars(called)["__signature__"] = signature(command).replace(parameters=options)
    called.__annotations__ = {each.name: each.annotation for each in options}
    return called


def source_of(
    task: str | None, seed_samples: str | None, data: Path | None = None
) -> dict[str, Any]:
    """The field of `DataConfig` that the options name; `--seed-samples` takes a task's name too.

    Raises:
        BadInput: if they name more than one source.
    """
    given = {"--task": task, "--seed-samples": seed_samples, "--data": data}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise BadInput(f"Give one of --task, --seed-samples and --data, not {' and '.join(named)}.")
    if data is not None:
        return {"file": source(str(data))}
    named_file = seed_samples is not None and exists(seed_samples)
    if seed_samples is not None and (named_file or seed_samples not in api.skills()):
        return {"seed_samples": source(seed_samples)}
    chosen = task if seed_samples is None else seed_samples
    return {} if chosen is None else {"task": chosen}


def absolute(model: str) -> str:
    """A folder or file as an absolute path: the worker runs elsewhere; other names unchanged."""
    return api.absolute_model(model, Path.cwd())


def source(samples: str | None) -> str | None:
    """As `absolute`, for a file of samples or a data set on this machine."""
    return None if samples is None else api.absolute_source(samples, Path.cwd())

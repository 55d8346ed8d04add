"""Where runs compute: on this machine, or on a cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from nuggets import api
from nuggets.cli import options as o
from nuggets.cli.output import print_json, say, table


def engines(
    use: Annotated[
        str | None, typer.Option(help="Start runs through this engine from now on: local or slurm.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="A field of that engine, such as partition=gpu; repeatable."),
    ] = None,
    json: o.AsJson = False,
) -> None:
    """List the engines that start runs, or choose one."""
    if use is not None or changes:
        api.engines.use(use, changes or ())
    chosen, every = api.engines.chosen(), api.engines.every()
    every[chosen.kind] = chosen
    if json:
        return print_json(
            {
                kind: engine.model_dump(mode="json")
                | {"used": kind == chosen.kind, "unavailable": engine.unavailable()}
                for kind, engine in every.items()
            }
        )
    for kind, engine in every.items():
        rows = [
            (name, value, type(engine).model_fields[name].title or "")
            for name, value in api.engines.fields_of(engine).items()
        ]
        table(("field", "value", "meaning"), rows, kind)
        if missing := engine.unavailable():
            say(f"{kind} cannot be used here. {missing}")
    return say(f"{chosen.words()} Change it with: nuggets engines --use ENGINE --set FIELD=VALUE")

"""A command about data: samples, checked line by line, or made of any table."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from nuggets import api
from nuggets.cli import options as o
from nuggets.cli.output import bars, print_json, say
from nuggets.cli.output import out as console


def samples(
    file: Annotated[Path, typer.Argument(help="Samples as JSONL, or CSV, TSV, Parquet or .gz.")],
    columns: Annotated[
        str,
        typer.Option(
            help="Which columns hold what: question=Text,answer=Label; several columns for "
            "choices: choices=A+B+C+D."
        ),
    ] = "",
    out: Annotated[Path | None, typer.Option(help="A new JSONL file for them.")] = None,
    limit: Annotated[int | None, typer.Option(help="Read so many samples at most.", min=1)] = None,
    json: o.AsJson = False,
) -> None:
    """Check a file of samples line by line, however long, or make one of any table."""
    if columns or out is not None or file.suffix.lower() not in (".jsonl", ".json"):
        found, lines = api.samples_from(
            api.read_table(file), file.name, api.parse_columns(columns), limit
        )
        n, first = len(found), found[0]
        if out is not None:
            api.write_samples(lines, out)
    else:
        with bars() as progress:
            n, first = _counted(islice(api.iter_samples(file, progress=progress), limit))
    if json:
        return print_json({"samples": n, "out": None if out is None else str(out), "first": first})
    say(f"{n:,} samples. The first one:")
    console.print(first.prompt, style="dim", markup=False)
    console.print(first.answer, style="bold", markup=False)
    return None if out is None else say(f"Written to {out}.")


def _counted(found: Iterable[api.Sample]) -> tuple[int, api.Sample]:
    """How many there are, and the first: a file without any is refused."""
    iterator = iter(found)
    first = next(iterator)
    return 1 + sum(1 for _ in iterator), first

"""The command that makes samples of a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nuggets import api
from nuggets.cli.output import out as console
from nuggets.cli.output import print_json, say


def samples(
    file: Path,
    columns: Annotated[
        str,
        typer.Option(
            help="Which columns hold what: question=Text,answer=Label; several columns for "
            "choices: choices=A+B+C+D."
        ),
    ] = "",
    out: Annotated[Path | None, typer.Option(help="A new JSONL file.")] = None,
    limit: Annotated[int | None, typer.Option(help="Read so many rows at most.", min=1)] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Read samples from CSV, TSV, Parquet or JSONL, and write them as JSONL."""
    content = api.read_table(file)
    found, lines = api.samples_from(content, file.name, api.parse_columns(columns), limit)
    if out is not None:
        api.write_samples(lines, out)
    first = found[0]
    if json:
        return print_json(
            {
                "samples": len(found),
                "out": None if out is None else str(out),
                "first": {"id": first.id, "prompt": first.prompt, "answer": first.answer},
            }
        )
    say(f"{file.name} holds {len(found):,} samples. The first one:")
    console.print(first.prompt, style="dim", markup=False)
    console.print(first.answer, style="bold", markup=False)
    say("Write them with --out samples.jsonl." if out is None else f"Written to {out}.")
    return None

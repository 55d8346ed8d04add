"""A command about data: samples, read line by line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nuggets import api
from nuggets.cli import options as o
from nuggets.cli.output import bars, out, print_json, say


def samples(
    file: Annotated[Path, typer.Argument(help="Samples as JSONL.")], json: o.AsJson = False
) -> None:
    """Check a file of samples line by line, however long it is."""
    n, first = 0, None
    with bars() as progress:
        for sample in api.iter_samples(file, progress=progress):
            n, first = n + 1, first or sample
    assert first is not None, "a file without samples is refused"
    if json:
        return print_json({"samples": n, "first": first})
    say(f"{n:,} samples. The first one:")
    out.print(first.prompt, style="dim", markup=False)
    return out.print(first.answer, style="bold", markup=False)

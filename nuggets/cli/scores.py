"""How commands that measure take a score, apart from options that need no numbers."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from nuggets import api
from nuggets.cli import options as o
from nuggets.sensitivity.scores import Score

_HELP = f"{o.one_of(Score)} With parameters as '{{kind: specific, q: 0.02}}'."
Kind = Annotated[str, typer.Option(help=_HELP)]
Kinds = Annotated[list[str] | None, typer.Option(help=f"{_HELP} Repeatable.")]
Against = Annotated[
    str,
    typer.Option(help="Reference set: tasks, JSONL or data sets, with commas; all other tasks."),
]


def score_of(text: str, against: str = "") -> dict[str, Any]:
    """A score by its kind, or with its parameters as YAML: `{kind: specific, q: 0.02}`."""
    score = api.parse_yaml(text, "--score") if text.startswith("{") else {"kind": text}
    return score | ({"against": o.names(against)} if against else {})

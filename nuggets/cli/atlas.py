"""Atlases: where models keep their skills, in files that open without the models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nuggets import api
from nuggets.cli import options as o
from nuggets.cli.output import print_json, say, table
from nuggets.errors import NuggetsError

app = typer.Typer(
    help="Look at maps that open without their model, and share one's own.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
TOP = 3
"""Matrices that are named for each skill."""


@app.command(name="list")
def list_(json: o.AsJson = False) -> None:
    """List the atlases that ship, and this machine's own."""
    files = api.atlases.atlases()
    if json:
        return print_json({name: str(path) for name, path in files.items()})
    return table(("atlas", "model", "maps of", "erased for"), [_row(name) for name in files])


def _row(name: str) -> tuple[str, ...]:
    """What is in an atlas; one that cannot be read does not hide the others."""
    try:
        atlas = api.atlases.open_atlas(name)
    except NuggetsError as problem:
        say(str(problem))
        return name, "cannot be read", "–", "–"
    return name, atlas.card.model, ", ".join(atlas.maps), ", ".join(atlas.erasures) or "–"


@app.command()
def show(name: str, json: o.AsJson = False) -> None:
    """Show where a model keeps each skill, and what erasing it showed."""
    atlas, words = api.atlases.open_atlas(name), api.erasure_words
    if json:
        shares = {skill: dict(_shares(map)) for skill, map in atlas.maps.items()}
        erased = {skill: words.as_tree(report) for skill, report in atlas.erasures.items()}
        return print_json({"card": atlas.card.model_dump(), "shares": shares, "erased": erased})
    rows = [
        (skill, map.n_samples, *(f"{at} {share:.1%}" for at, share in _shares(map)[:TOP]))
        for skill, map in atlas.maps.items()
    ]
    table(("skill", "samples", "most of it in", *("then",) * (TOP - 1)), rows, atlas.card.model)
    for report in atlas.erasures.values():
        for order in report.curves:
            say(words.verdict(report, order))
    for text in (atlas.card.about, atlas.card.licence):
        if text:
            say(text)
    return None


def _shares(map: api.SensitivityMap) -> list[tuple[str, float]]:
    """Every matrix with its share of the sum over all of them, largest first."""
    spec = map.spec
    totals = {(role, at): map.total(module) for module, role, at in spec.modules()}
    whole = sum(totals.values()) or 1.0
    names = {(role, at): role if at is None else f"L{at}.{role}" for role, at in totals}
    shares = [(names[place], total / whole) for place, total in totals.items()]
    return sorted(shares, key=lambda pair: -pair[1])


@app.command()
def add(
    source: Annotated[
        Path, typer.Argument(help="A map's or erasure's folder, or an atlas's file.")
    ],
    name: Annotated[str, typer.Option(help="The atlas; a new one, or one of the same model.")],
    about: Annotated[str, typer.Option(help="For its card: what was measured, and how.")] = "",
    licence: Annotated[str, typer.Option(help="Of the model and of the samples.")] = "",
    json: o.AsJson = False,
) -> None:
    """Keep a measured map, erasure or somebody's atlas in an atlas of this machine."""
    place = api.atlases.add(source, name, about, licence)
    if json:
        return print_json({"atlas": name, "file": str(place)})
    return say(f"Atlas {name} is in {place}; that file can be given away.")

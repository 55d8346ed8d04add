"""The command that asks whether a map is true."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nuggets import api
from nuggets.cli import options as o
from nuggets.cli import scores
from nuggets.cli.output import bars, print_json, say, table


def erase(
    model: str,
    out: Annotated[
        Path | None,
        typer.Option(help="A new folder for the report, which is kept in the cache in any case."),
    ] = None,
    task: o.Task = None,
    seed_samples: o.SeedSamples = None,
    data: o.Data = None,
    against: Annotated[
        str,
        typer.Option(
            help="Other skills: tasks, JSONL or data sets, with commas; a task of each "
            "kind if empty."
        ),
    ] = "",
    score: scores.Kinds = None,
    fractions: Annotated[
        str, typer.Option(help="Of the layers' weights, ascending, with commas.")
    ] = "1e-6,1e-5,1e-4,1e-3,1e-2",
    n: Annotated[int, typer.Option(help="Seed samples used.")] = 32,
    items: Annotated[int, typer.Option(help="Items per skill.")] = 32,
    maps: Annotated[int, typer.Option(help="Draws of the seed samples, for intervals.")] = 6,
    parts: Annotated[
        str, typer.Option(help="What to take out part by part: layers,matrices,heads,neurons.")
    ] = "layers,matrices",
    ablation: Annotated[str, typer.Option(help="Erased weights give zero or their mean.")] = "zero",
    save: Annotated[bool, typer.Option(help="Write the erased model to OUT/model.")] = False,
    seed: Annotated[int, typer.Option(help="Of resampling and of the random control.")] = 0,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    format: o.Format = "paper",
    device: o.Device = "auto",
    json: o.AsJson = False,
) -> None:
    """Set weights to 0 and measure a skill and others: is the map true?"""
    tree = {
        "job": "erase",
        "model": o.absolute(model),
        "data": {**o.source_of(task, seed_samples, data), "n_seed_samples": n, "format": format},
        "against": o.names(against),
        "fractions": [each.strip() for each in fractions.split(",")],
        "n_items": items,
        "n_maps": maps,
        "parts": [part.strip() for part in parts.split(",") if part.strip()],
        "ablation": ablation,
        "seed": seed,
        "dtype": dtype,
        "device": device,
    }
    if score:
        tree["scores"] = [scores.score_of(each) for each in score]
    job = api.parse_job(tree)
    with bars() as progress:
        report = api.erase(job, out, save, progress)
    if json:
        place = {} if out is None else {"out": str(out)}
        return print_json(api.erasure_words.as_tree(report) | place)
    show_erasure(report)
    return None if out is None else say(f"Wrote {out}.")


def show_erasure(report: api.ErasureReport) -> None:
    """Draws the curves as damage, and says what they mean."""
    words = api.erasure_words
    rows = []
    for order in report.curves:
        points = report.points(order)
        for skill in (report.skill, "others"):
            damages = [f"{p.damage.mean:z.2f}" for p in points if p.skill == skill]
            rows.append((words.order_name(order), skill, *damages))
    shares = (words.percent(fraction) for fraction in report.fractions)
    title = "damage: rise of the loss over the rise to guessing"
    table(("erased by", "skill", *shares), rows, title)
    if note := words.ablation(report):
        say(note)
    for order in report.curves:
        say(words.verdict(report, order))
    for kind in report.kinds:
        say(words.disagreement(report, kind))

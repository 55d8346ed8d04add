"""What runs are made of: recipes, what they hold, differ in, can show and may use; samples."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from nuggets import api
from nuggets.cli import options as o
from nuggets.cli.output import bars, print_json, say, table
from nuggets.cli.output import out as console
from nuggets.data.overview import overview
from nuggets.errors import BadInput


def recipes(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Recipes by name or file: one is printed, several are compared."),
    ] = None,
    schema: Annotated[
        bool, typer.Option(help="Every field of a recipe and what it takes, as JSON Schema.")
    ] = False,
    json: o.AsJson = False,
) -> None:
    """List, print or compare recipes, shipped or saved in the app."""
    if schema:
        return print_json(api.TransferRecipe.model_json_schema())
    if not names:
        return _list(json)
    found = {name: api.show_recipe(name) for name in names}
    if len(found) == 1:
        (only,) = found.values()
        return (
            print_json(only)
            if json
            else console.print(api.dump_job(only), markup=False, end="", soft_wrap=True)
        )
    rows = api.compare_recipes(found)
    if json:
        return print_json(rows)
    return table(("field", *found), [(name, *values) for name, values in rows.items()])


def _list(json: bool) -> None:
    origins = {
        **dict.fromkeys(api.shipped_recipes(), "shipped"),
        **dict.fromkeys(api.own_recipes(), "saved"),
    }
    if json:
        return print_json([{"name": name, "origin": origin} for name, origin in origins.items()])
    return table(("recipe", "origin"), list(origins.items()))


def allow(
    what: Annotated[str, typer.Argument(help="A recipe's file or a run that came from elsewhere.")],
    names: Annotated[
        list[str] | None, typer.Argument(help="Every path and id that it may use, by name.")
    ] = None,
    json: o.AsJson = False,
) -> None:
    """Show what a recipe or run from elsewhere wants to use, or allow it by name."""
    if names:
        api.strangers.allow(what, names)
        return print_json({"allowed": names}) if json else say(f"{what} may use these now.")
    wanted = api.strangers.wanted_by(what)
    if json:
        return print_json(wanted)
    if not wanted:
        return say(f"{what} names nothing that needs to be allowed.")
    return table(("name", "it wants to"), [(want.name, want.what) for want in wanted])


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
    is_table = file.suffix.lower() not in (".jsonl", ".json")
    if columns or out is not None or is_table:
        found, lines = api.samples_from(
            api.read_table(file), file.name, api.parse_columns(columns), limit
        )
        seen = overview(found)
        if out is not None:
            api.write_samples(lines, out)
    else:
        with bars() as progress:
            seen = overview(islice(api.iter_samples(file, progress=progress), limit))
    if json:
        return print_json({
            "samples": seen.n, "out": None if out is None else str(out), "first": seen.first,
            "repeated": seen.repeated, "longest": seen.longest,
        })  # fmt: skip
    for sentence in (*seen.sentences, "The first one:"):
        say(sentence)
    console.print(seen.first.prompt, style="dim", markup=False)
    console.print(seen.first.answer, style="bold", markup=False)
    if out is None and (columns or is_table):
        say("Runs read JSONL: write these samples to such a file with --out.")
    return None if out is None else say(f"Written to {out}.")


def power(
    recipe: Annotated[str | None, typer.Argument(help="A recipe whose design to judge.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Per arm; the recipe's, or 3.")] = None,
    items: Annotated[int | None, typer.Option(help="Of the test; the recipe's, or 100.")] = None,
    comparisons: Annotated[
        int | None, typer.Option(help="The baseline and the content controls; the recipe's, or 1.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Expected exact match; 0.5.")] = None,
    like: Annotated[
        str | None, typer.Option(help="A run whose plain LoRA shows rate and spread of seeds.")
    ] = None,
    overrides: o.Overrides = None,
    json: o.AsJson = False,
) -> None:
    """Show which differences a design can detect, before it is run."""
    from nuggets.statistics.power import MEASURED, SEED_SD  # NumPy, which a list does not need

    if overrides and recipe is None:
        raise BadInput("--set changes a recipe: name one.")
    usual = (3, 100, 1)
    if recipe is not None:
        asked = api.detectable(o.RecipeOptions(recipe, overrides=overrides).load())
        usual = asked.n_seeds, asked.n_items, asked.n_comparisons
    n_seeds, n_items, n_compared = (
        value if given is None else given
        for given, value in zip((seeds, items, comparisons), usual, strict=True)
    )
    mean, seed_sd, source = (
        (0.5, SEED_SD, MEASURED) if like is None else api.measured_spread(api.open_run(like))
    )
    mean = mean if rate is None else rate
    found = api.detectable_effect(n_seeds, n_items, n_compared, mean, seed_sd, source)
    if json:
        return print_json({**found.model_dump(), "sentence": found.sentence, "basis": found.basis})
    say(found.sentence)
    say(found.basis)
    rows = [
        (n, *(_smallest(n, m, found) for m in (50, 100, 200, 400))) for n in (3, 4, 5, 8, 12, 20)
    ]
    title = f"smallest difference detected in {found.power:.0%} of experiments"
    return table(("seeds", *(f"{m} items" for m in (50, 100, 200, 400))), rows, title)


def _smallest(n_seeds: int, n_items: int, like: api.DetectableEffect) -> str:
    value = api.detectable_effect(
        n_seeds, n_items, like.n_comparisons, like.base_rate, like.seed_sd
    ).value
    return "none" if value is None else f"{value:.2f}"

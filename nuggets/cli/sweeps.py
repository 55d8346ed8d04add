"""The commands `sweep` and `sweeps`: search a recipe's fields, and confirm what was found."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from nuggets import amounts, api
from nuggets.cli import options as o
from nuggets.cli.output import bars, interval, out, print_json, say, table, tell_run
from nuggets.cli.transfers import failed, watch, why_ended
from nuggets.disk.commit import atomic_write, make_folder
from nuggets.errors import BadInput, Damaged
from nuggets.sweeps.outlook import smallest
from nuggets.sweeps.recipe import Objective, scored_on
from nuggets.sweeps.samplers import SAMPLERS

_SHOWN = 20
"""Trials that a terminal shows: the best ones."""


def sweep(
    source: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A sweep's YAML, or a recipe by name or file.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="What is searched: lora.r=4,8,16, extraction.ratio=.25..1, "
            "train.lr=1e-4..1e-2:log, lora.r=4..16:4; or one value for all trials.",
        ),
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help=f"One of: {', '.join(SAMPLERS)}; tpe when not given.")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="How many; all points of a grid.")] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help=f"One of: {', '.join(get_args(Objective))}; or two, with a comma. difference "
            "(to plain LoRA) when not given."
        ),
    ] = None,
    arm: Annotated[str | None, typer.Option(help="Whose; by default the first treatment.")] = None,
    max_hours: Annotated[float | None, typer.Option(help="Of the search and confirmation.")] = None,
    max_trials: Annotated[int | None, typer.Option(help="The most trials.")] = None,
    confirm_seeds: Annotated[int | None, typer.Option(help="Fresh seeds, 3 or more; 4.")] = None,
    prune: Annotated[
        int | None,
        typer.Option(help="Step from which trials are stopped whose learning curves fall behind."),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what it will take.")] = False,
    start: Annotated[bool, typer.Option("--start", help="Go on without this terminal.")] = False,
    engine: o.EngineName = None,
    track: o.Track = None,
    json: o.AsJson = False,
) -> None:
    """Search a recipe's fields on validation items, and confirm the winner on fresh seeds."""
    if plan and (start or track):
        raise BadInput("--plan starts nothing and logs nothing: leave --start and --track out.")
    recipe = api.load_sweep(
        source,
        settings or (),
        sampler=sampler,
        trials=trials,
        objective=None if objective is None else [each.strip() for each in objective.split(",")],
        arm=arm,
        max_hours=max_hours,
        max_trials=max_trials,
        confirm=None if confirm_seeds is None else {"seeds": confirm_seeds},
        prune=None if prune is None else {"first": prune},
    )
    with api.engines.using(engine):
        if plan:
            return _plan(recipe, json)
        return _start(recipe, track, json) if start else _run(recipe, track, json)


def _start(recipe: api.SweepRecipe, track: str | None, json: bool) -> None:
    if track:
        raise BadInput("--track logs when this terminal has seen the end, which --start does not "
                       "wait for; log its runs later with: nuggets track RUN")  # fmt: skip
    made = api.sweeping.start(recipe)
    said = f"Started {made.id}. Follow it with: nuggets sweeps {made.id} --follow"
    tell_run(made, said, json)


def _run(recipe: api.SweepRecipe, track: str | None, json: bool) -> None:
    if track:
        api.check_tracker(track)
    with bars() as progress:
        made = api.sweeping.run(recipe, progress.show)
    for each in api.sweeping.runs_of(made) if track and made.status() == "done" else ():
        api.track(each, track or "", made.id)  # first: it may fail, and one document is printed
    _finish(made, json)


def sweeps(
    sweep_id: Annotated[
        str | None, typer.Argument(help="A sweep's id, or the beginning of one.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for its end.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue it.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Ask it to stop.")] = False,
    yaml: Annotated[
        Path | None, typer.Option("--yaml", help="Write the sweep's YAML to a new file.")
    ] = None,
    promote: Annotated[
        str | None, typer.Option(help="Save the winner as a recipe of this name.")
    ] = None,
    engine: o.EngineName = None,
    json: o.AsJson = False,
) -> None:
    """List sweeps; show, follow, cancel or resume one, or save its winner as a recipe."""
    asked = {"--follow": follow, "--resume": resume, "--cancel": cancel, "--yaml": yaml,
             "--promote": promote}  # fmt: skip
    named = [name for name, value in asked.items() if value]
    if sweep_id is None:
        if named:
            raise BadInput(f"{named[0]} needs a sweep's id; `nuggets sweeps` lists them.")
        return _list(json)
    if len(named) > 1 and named != ["--follow", "--resume"]:
        raise BadInput(f"Give one of {' and '.join(named)}.")
    found = api.sweeping.open_sweep(sweep_id)
    if cancel:
        status = api.sweeping.cancel(found.id, wait=30.0)
        return (
            print_json({"sweep": found.id, "status": status})
            if json
            else say(f"{found.id}: {status}")
        )
    if resume:
        with api.engines.using(engine):
            api.sweeping.resume(found.id)
        if not follow:
            return tell_run(found, f"Resumed {found.id}.", json)
    if yaml is not None:
        api.refuse_existing(yaml)
        make_folder(yaml.absolute().parent)
        atomic_write(yaml, found.recipe_text())
        said = f"Wrote {yaml}. Run it with: nuggets sweep {yaml}"
        return print_json({"sweep": found.id, "out": str(yaml)}) if json else say(said)
    if promote is not None:
        path = api.sweeping.promote(found, promote)
        said = f"Saved {path}. Run it with: nuggets run {promote}"
        return print_json({"sweep": found.id, "recipe": str(path)}) if json else say(said)
    if follow:
        watch(found)
        return _finish(found, json)
    return _show(found, json)


def _plan(recipe: api.SweepRecipe, json: bool) -> None:
    found = api.plan_sweep(recipe)
    if json:
        print_json(found)
    else:
        _show_plan(recipe, found)
    if found.refusals:
        raise typer.Exit(2)


def _show_plan(recipe: api.SweepRecipe, found: Any) -> None:
    rows = [
        ("trials", f"{found.n_trials:,}"),
        ("trainings in the search", f"{found.n_trainings:,}"),
        ("time, at most", amounts.duration(found.seconds)),
        ("memory", amounts.size(found.memory) if found.memory else "unknown"),
        ("smallest difference a trial can show", smallest(found.seen_in_search)),
        ("smallest difference the confirmation can show", smallest(found.seen_in_confirmation)),
    ]
    table(("sweep", recipe.name), rows)
    for sentence in found.refusals:
        say(sentence)


def _list(json: bool) -> None:
    rows = []
    for each in api.sweeping.sweeps():
        row = {"sweep": each.id, "status": each.status(), "trials": None}
        with suppress(Damaged):
            row["trials"] = len(api.sweeping.state_of(each).done)
        rows.append(row)
    if json:
        return print_json(rows)
    return table(("sweep", "status", "trials"), [tuple(row.values()) for row in rows])


def _finish(found: api.Run, json: bool) -> None:
    if found.status() != "done":
        raise failed(found)
    _show(found, json)


def _show(found: api.Run, json: bool) -> None:
    recipe, state = api.sweeping.recipe_of(found), api.sweeping.state_of(found)
    rows = api.sweeping.table(recipe, state)
    if json:
        document = {
            "sweep": found.id,
            "folder": str(found.folder),
            "status": found.status(),
            "recipe": recipe,
            "trials": rows,
            "importance": state.importance,
            "stopped": state.stopped,
            "confirmed": state.confirmed,
        }
        return print_json(document)
    say(f"{found.id}: {found.status()}, {len(state.done)} of {recipe.n_trials} trials")
    if why := why_ended(found):
        say(why)
    best = api.sweeping.ranked(recipe, state)
    shown = [_row(recipe, trial) for trial in best[:_SHOWN]]
    if shown:
        headers = ("trial", *recipe.space, *recipe.objective)
        table(headers, shown, f"trials, best first, on {scored_on(*recipe.objective)}")
    for sentence in api.sweeping.sentences(recipe, state):
        out.print(sentence, markup=False)
    return None


def _row(recipe: api.SweepRecipe, trial: Any) -> tuple[Any, ...]:
    scores = (f"{found.mean:+z.3f} {interval(found.low, found.high)}" for found in trial.scores)
    return (
        trial.number,
        *(amounts.setting(trial.values.get(f, "–")) for f in recipe.space),
        *scores,
    )

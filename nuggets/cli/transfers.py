"""Commands about runs: run, start, follow, cancel, resume, show, list, export, compare, engines."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from nuggets import amounts, api
from nuggets.cli import options as o
from nuggets.cli.output import bars, interval, out, print_json, say, show_tables, table, tell_run
from nuggets.errors import BadInput, NuggetsError

_POLL_S = 0.3


def run(
    asked: o.RecipeOptions,
    engine: o.EngineName = None,
    parts: Annotated[
        int, typer.Option(min=1, help="Train the seeds in so many runs at once, then report.")
    ] = 1,
    track: o.Track = None,
    json: o.AsJson = False,
) -> None:
    """Run a transfer and its controls in this terminal."""
    recipe = asked.load()
    if track:
        api.check_tracker(track)
    with api.engines.using(engine) as used:
        trained = api.train_parts(recipe, parts, _tell_part) if parts > 1 else []
        if used.elsewhere:
            made = _run_elsewhere(recipe)
        else:
            with bars() as progress:
                made = api.run(recipe, progress.show)
        if track and made.status() == "done":
            api.track(made, track)  # first: it may fail, and one document is printed
        finish(made, json)
        for part in trained:  # the run has all of their cells
            api.delete(part.id)


def _tell_part(part: api.Run, done: int, total: int) -> None:
    say(f"Part {done} of {total} is trained: {part.id}")


def _run_elsewhere(recipe: api.TransferRecipe) -> api.Run:
    """Starts a run on a cluster and follows it; Ctrl-C stops both."""
    made = api.start(recipe)
    try:
        _await(made)
    except KeyboardInterrupt:
        with contextlib.suppress(BadInput):  # it ended by itself
            api.cancel(made.id)
        raise
    return made


def start(asked: o.RecipeOptions, engine: o.EngineName = None, json: o.AsJson = False) -> None:
    """Start a transfer that keeps running without this terminal."""
    recipe = asked.load()
    with api.engines.using(engine):
        made = api.start(recipe)
    tell_run(made, f"Started {made.id}. Follow it with: nuggets follow {made.id}", json)


def track(
    run_id: o.RunId,
    to: Annotated[str, typer.Option(help="As --track of `nuggets run`.")] = "trackio",
    json: o.AsJson = False,
) -> None:
    """Log a finished run in a tracker of experiments: curves, recipe, verdict, report page."""
    found = api.open_run(run_id)
    api.track(found, to)
    tell_run(found, f"Logged {found.id} with {to}, in the project nuggets.", json)


def follow(run_id: o.RunId, json: o.AsJson = False) -> None:
    """Follow a run until it ends."""
    found = api.open_run(run_id)
    _await(found)
    finish(found, json)


def _await(found: api.Run) -> None:
    if job := found.queued_job():
        say(f"{found.id} waits in the queue as {job}.")
    watch(found)


def watch(found: api.Run) -> None:
    """Shows the progress of a run that computes elsewhere, until it ends."""
    seen = -1
    with bars() as progress:
        while True:
            live = found.status() in api.LIVE
            for event in found.events(after_seq=seen):
                progress.show(event)
                seen = event.seq
            if not live:
                return
            time.sleep(_POLL_S)


def cancel(run_id: o.RunId, json: o.AsJson = False) -> None:
    """Ask a run to stop; it can be resumed."""
    found = api.open_run(run_id)
    status = api.cancel(found.id, wait=30.0)
    if json:
        return print_json({"run": found.id, "status": status})
    later = "; it stops at its next step" if status in api.LIVE else ""
    return say(f"{found.id}: {status}{later}")


def resume(run_id: o.RunId, engine: o.EngineName = None, json: o.AsJson = False) -> None:
    """Continue a run that was interrupted, cancelled or failed, or start one that never was."""
    with api.engines.using(engine):
        found = api.resume(run_id)
    tell_run(found, f"Resumed {found.id}. Follow it with: nuggets follow {found.id}", json)


def show(run_id: o.RunId, json: o.AsJson = False) -> None:
    """Show the status and the result of a run."""
    describe(api.open_run(run_id), json)


def list_(json: o.AsJson = False) -> None:
    """List all runs, newest first."""
    found = api.runs()
    if json:
        return print_json([{"run": each.id, "status": each.status()} for each in found])
    return table(("run", "status"), [(each.id, each.status()) for each in found])


def prune(
    kinds: Annotated[
        list[str] | None, typer.Argument(help="runs, caches or uploads; all when not given.")
    ] = None,
    older_than: Annotated[
        float, typer.Option(help="Days since a run or an upload last changed.", min=0)
    ] = 30.0,
    yes: Annotated[bool, typer.Option("--yes", help="Delete what is listed.")] = False,
    json: o.AsJson = False,
) -> None:
    """List old runs, caches and unused uploads with their sizes, and delete them with --yes."""
    wanted: Any = kinds or api.pruning.KINDS
    if unknown := [kind for kind in wanted if kind not in api.pruning.KINDS]:
        raise BadInput(f"{unknown[0]!r} is none of {', '.join(api.pruning.KINDS)}.")
    found = api.pruning.prunable(wanted, older_than)
    if yes:
        found = api.pruning.prune(found)
    total = amounts.size(sum(piece.size for piece in found))
    if json:
        return print_json({"deleted": yes, "pieces": found})
    if found:
        table(
            ("kind", "name", "size"),
            [(piece.kind, piece.path.name, amounts.size(piece.size)) for piece in found],
        )
    more = "" if yes or not found else " Add --yes to delete them."
    return say(f"{len(found)} pieces, {total}{', deleted' if yes else ''}.{more}")


def export(
    run_id: o.RunId,
    out_folder: Annotated[Path | None, typer.Option("--out", help="A new folder.")] = None,
    arm: Annotated[str, typer.Option(help="Which arm.")] = "paper",
    seed: Annotated[int | None, typer.Option(help="Which seed; the first when not given.")] = None,
    merged: Annotated[bool, typer.Option(help="The whole model instead of an adapter.")] = False,
    push: Annotated[
        str | None, typer.Option(help="Publish it on the Hugging Face Hub as org/name, private.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push: for all to see.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --push: show all that would be sent.")
    ] = False,
    json: o.AsJson = False,
) -> None:
    """Export an arm's adapter (for the untouched student) or model, or publish it."""
    if (out_folder is None) == (push is None):
        raise BadInput("Give either --out FOLDER or --push org/name.")
    if push is not None:
        found = api.publish(
            api.open_run(run_id), push, arm, seed, merged, private=not public, dry_run=dry_run
        )
        return print_json(found) if json else _show_publication(found)
    if public or dry_run:
        raise BadInput("--public and --dry-run belong to --push org/name.")
    assert out_folder is not None
    card = api.export(api.open_run(run_id), out_folder, arm, seed, merged)
    return print_json(card) if json else say(f"Wrote {out_folder}.")


def _show_publication(found: api.Publication) -> None:
    """What was sent, or would be: every file with its size, and the card."""
    table(("file", "size"), [(name, amounts.size(size)) for name, size in found.files.items()])
    who = "private" if found.private else "public"
    if found.url:
        return say(f"Published as the {who} model {found.url}.")
    out.print(found.card, markup=False, soft_wrap=True)
    return say(f"Nothing was sent. Without --dry-run this becomes the {who} model {found.repo}.")


def compare(run_ids: list[str], json: o.AsJson = False) -> None:
    """Compare the recipes and the results of two or more runs."""
    found = api.compare([api.open_run(run_id) for run_id in run_ids])
    if json:
        return print_json(found)
    ids = [run["run"] for run in found["runs"]]
    table(("recipe field", *ids), [(name, *values) for name, values in found["recipe"].items()])
    apart = found["differences"]
    minus = [f"{other} − {ids[0]}" for other in ids[1:]]
    rows = [(name, *values, *apart[name]) for name, values in found["results"].items()]
    return table(("result", *ids, *minus), rows, "differences are paired, positive is better")


def bundle(
    run_id: o.RunId,
    out_file: Annotated[Path, typer.Option("--out", help="A new file, such as run.nuggets.zip.")],
    weights: Annotated[
        bool, typer.Option(help="Include the adapters, which are most of a bundle's size.")
    ] = True,
    json: o.AsJson = False,
) -> None:
    """Write a run as one file that opens without its models."""
    index = api.bundles.write_bundle(api.open_run(run_id), out_file, weights)
    if json:
        return print_json({"out": str(out_file), "run": index.run, "left_out": index.left_out})
    kept = f", without {len(index.left_out)} files of weights" if index.left_out else ""
    return say(f"Wrote {out_file}: {len(index.files)} files{kept}.")


def import_(
    file: Annotated[Path, typer.Argument(help="What `nuggets bundle` wrote.")],
    json: o.AsJson = False,
) -> None:
    """Import a bundle as a run, after checking everything in it."""
    found = api.bundles.read_bundle(file)
    tell_run(found, f"Imported {found.id}. See it with: nuggets show {found.id}", json)


def finish(run: api.Run, json: bool) -> None:
    """Shows how a run ended; a failure becomes this command's exit code.

    Raises:
        NuggetsError: with the run's own sentence, if it did not get to its end.
    """
    if run.status() != "done":
        raise failed(run)
    describe(run, json)


def failed(run: api.Run) -> NuggetsError:
    """Why a run did not get to its end, in its own words."""
    error = run.record().error
    sentence = error.message if error else f"Run {run.id} is {run.status()}."
    return (BadInput if error and error.exit_code == 2 else NuggetsError)(sentence)


def why_ended(run: api.Run) -> str:
    """Why a run cannot be read or did not get to its end; empty where it lives, or is done."""
    if (problem := run.problem()) is not None:
        return problem
    error = run.record().error
    return error.message if error and run.status() not in ("done", *api.LIVE) else ""


def describe(run: api.Run, json: bool) -> None:
    """Prints a run: its report when there is one."""
    report, erasure = api.report(run), api.erasure_of(run)
    if json:
        document = {
            "run": run.id,
            "folder": str(run.folder),
            "status": run.status(),
            "record": run.record().model_dump(mode="json"),
            "report": None if report is None else report.model_dump(mode="json"),
            "benchmarks": [made.model_dump(mode="json") for made in api.benchmark_tables(run)],
            "erasure": None if erasure is None else api.erasure_words.as_tree(erasure),
        }
        return print_json(document)
    say(f"{run.id}: {run.status()}")
    if why := why_ended(run):
        say(why)
    if report is not None:
        show_report(report)
    if erasure is not None:
        from nuggets.cli.erase import show_erasure  # NumPy, which a list of runs does not need

        show_erasure(erasure)
    if (plan := api.plan_of(run)) is not None and plan.plain:
        say(plan.plain_sentence)
    return show_tables(run)


def show_report(report: api.BenchmarkReport) -> None:
    """Draws arms with intervals, paired differences and the verdict."""
    rows = [
        (
            arm.name,
            arm.role.replace("_", " "),
            f"{arm.value:.3f}",
            interval(*arm.interval),
            len(arm.seeds),
            arm.n,
            "" if arm.area is None else f"{arm.area.mean:.3f}",
        )
        for arm in report.arms.values()
    ]
    headers = ("arm", "role", report.metric, "95 %", "seeds", "items", "curve area")
    table(headers, rows, f"task {report.task}")
    budget = [
        (
            arm.name,
            arm.samples,
            arm.steps,
            arm.rate_words,
            "" if arm.learned is None else f"{arm.learned.exact_match:.2f}",
            f"{arm.trainable_parameters:,}",
            amounts.operations(arm.flops),
            amounts.duration(arm.all_seconds or arm.seconds),
        )
        for arm in report.arms.values()
    ]
    spent = (
        "budget per seed",
        "samples",
        "steps",
        "lr",
        "training items right",
        "trainable parameters",
        "compute",
        "time",
    )
    table(spent, budget)
    pairs = [
        (
            f"{d.arm} − {d.versus}",
            f"{d.interval.mean:+z.3f}",
            interval(d.interval.low, d.interval.high),
        )
        for d in report.differences
    ]
    table(("paired difference", "mean", "95 %"), pairs)
    out.print(report.verdict.sentence, markup=False)
    if report.rates_chosen:
        out.print(report.rates_chosen.capitalize() + ".", markup=False)

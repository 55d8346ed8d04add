"""Commands about the paper's experiments, and about how far the verdict can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nuggets import api
from nuggets.cli import options as o
from nuggets.cli.output import bars, interval, out, print_json, say, table
from nuggets.errors import BadInput

Documents = Annotated[
    Path, typer.Option("--out", help="Where reports go; older ones are replaced.")
]


def paper(
    name: Annotated[
        str | None, typer.Argument(help="An experiment's name, all, or the YAML of your own.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="The experiments there are.")] = False,
    pair: Annotated[str | None, typer.Option(help="A built-in pair, or TEACHER:STUDENT.")] = None,
    overrides: o.Overrides = None,
    device: o.Device = "auto",
    out_folder: Documents = Path("paper"),
    engine: o.EngineName = None,
    json: o.AsJson = False,
) -> None:
    """Run one of the paper's experiments, or one of your own, and write a report."""
    if list_ or name is None:
        return _list(json)
    changes = (
        *_pair(pair),
        *([] if device == "auto" else [f"device={device}"]),
        *(overrides or ()),
    )
    names = list(api.studies()) if name == "all" else [name]
    reports = []
    for each in names:
        with api.engines.using(engine), bars() as progress:
            report = api.run_study(each, changes, progress.show, lambda run, i, n: _tell(run, i, n))
        reports.append(report)
        files = api.save_study(report, out_folder)
        if not json:
            _show(report, files[0])
    if json:
        documents = [report.model_dump(mode="json") for report in reports]
        return print_json(documents if name == "all" else documents[0])
    return None


def _list(json: bool) -> None:
    found = api.studies()
    if json:
        return print_json(
            [study.model_dump(mode="json", exclude={"recipe"}) for study in found.values()]
        )
    rows = []
    for study in found.values():
        done = api.study_report(study.name)
        n = 0 if done is None else len(done.panels)
        rows.append((study.name, study.title, f"{n} of {len(study.runs)}"))
    table(("experiment", "title", "runs finished"), rows)
    return say("Run one with: nuggets paper NAME --out DIR")


def _pair(pair: str | None) -> list[str]:
    """The overrides that put another pair into an experiment."""
    if pair is None:
        return []
    if pair in api.PAIRS:
        known = api.PAIRS[pair]
        return [f"teacher={known.teacher}", f"student={known.student}"]
    teacher, colon, student = pair.rpartition(":")
    if not colon or not teacher or not student:
        raise BadInput(
            f"There is no pair {pair!r}: name one of {', '.join(api.PAIRS)}, or TEACHER:STUDENT."
        )
    return [f"teacher={o.absolute(teacher)}", f"student={o.absolute(student)}"]


def _tell(run: str, done: int, total: int) -> None:
    if run:
        say(f"Run {done + 1} of {total}: {run}")


def _show(report: api.StudyReport, file: Path) -> None:
    rows = [
        (
            panel.name,
            arm.name,
            f"{arm.value:.3f}",
            interval(*arm.interval),
            f"{len(arm.seeds)} × {arm.n}",
        )
        for panel in report.panels
        for arm in panel.report.arms.values()
    ]
    headers = (report.study.axis or "run", "arm", report.panels[0].report.metric, "95 %", "n")
    table(headers, rows, report.study.title)
    for sentence in report.findings:
        out.print(sentence, markup=False)
    say(f"Wrote {file} and its SVG and JSON.")


def calibrate(
    run_id: Annotated[
        str | None, typer.Argument(help="A run with many seeds of one arm, instead of the pools.")
    ] = None,
    pool: Annotated[int, typer.Option(min=15, help="Seeds of each pool, without a run.")] = 600,
    arm: Annotated[str, typer.Option(help="The arm that is compared with itself.")] = "plain",
    comparisons: Annotated[int, typer.Option(help="A/A comparisons per number of seeds.")] = 400,
    out_folder: Documents = Path("calibration"),
    engine: o.EngineName = None,
    json: o.AsJson = False,
) -> None:
    """Measure how often the verdict is wrong.

    Uses identical arms and planted effects. Without a run, plain LoRA is trained many times on two
    skills with both built-in students, which takes hours; what is there already is used again.
    """
    if run_id is None:
        say(api.calibration_plan(pool))
        with api.engines.using(engine), bars() as progress:
            runs = api.calibration_runs(pool, progress.show)
    else:
        runs = [api.open_run(run_id)]
    found, text = api.calibration(runs, arm, comparisons)
    api.save_calibration(found, text, out_folder)
    if json:
        return print_json(found)
    out.print(text, markup=False, soft_wrap=True)
    return say(f"Wrote {out_folder}/calibration.md and calibration.json.")

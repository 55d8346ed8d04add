"""An experiment's report as Markdown and as one self-contained HTML page."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from markdown_it import MarkdownIt

from nuggets.amounts import plain_name
from nuggets.disk.carried import carried
from nuggets.disk.commit import atomic_write, make_folder
from nuggets.documents.figures import interval_text
from nuggets.documents.page import html_page
from nuggets.statistics.report import ArmReport
from nuggets.statistics.verdict import RULES, Difference
from nuggets.studies.figure import study_svg
from nuggets.studies.index import save_index
from nuggets.studies.markdown import markdown_table
from nuggets.studies.report import (
    Panel,
    StudyReport,
    baseline_difference,
    build_study_report,
    control_differences,
    paper_number,
)
from nuggets.studies.running import finished_runs
from nuggets.studies.shipped import open_study


def study_markdown(report: StudyReport) -> str:
    """The report as Markdown; its figure is the file `NAME.svg` beside it."""
    study = report.study
    parts = [
        f"# {study.title}",
        study.question,
        "\n".join(f"> {line}" for line in report.caveat.splitlines()),
        f"![{study.title}: every arm with its 95 % interval]({study.name}.svg)",
        "## What was found",
        "\n".join(f"- {sentence}" for sentence in report.findings),
        *_missing(report),
        "## Table",
        _results(report),
        _paper_note(report),
        *_differences(report),
        "## Budget of every arm and seed",
        _budget(report),
        "## How",
        "\n".join([*(f"- {note}" for note in study.notes), *_how(report)]),
        "## Rules of the verdict",
        f"```\n{RULES}```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def study_html(report: StudyReport) -> str:
    """The same as one HTML page that needs no other file; markup in the report stays text.

    Its figure is the only image, whatever an experiment's own words ask for.
    """
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    figure = f"{report.study.name}.svg"
    markdown.validateLink = lambda url: url == figure
    body = markdown.render(study_markdown(report))
    data = "data:image/svg+xml;base64," + base64.b64encode(study_svg(report).encode()).decode()
    return html_page(report.study.title, body.replace(f'src="{figure}"', f'src="{data}"'))


def study_report(
    name: str | Path, overrides: Iterable[str] = (), command: str | None = None
) -> StudyReport | None:
    """What an experiment found so far; `None` before its first run is finished.

    Args:
        name: one of `studies()`, or the YAML file of another one.
        overrides: `path.to.field=value`, as its runs were made with.
        command: what made them, for the report; the usual command when not given.
    """
    study, changes = open_study(name), tuple(overrides)
    found = finished_runs(study, changes)
    words = ["nuggets", "paper", str(name), *(word for each in changes for word in ("--set", each))]
    return build_study_report(study, found, command or shlex.join(words)) if found else None


def published_report(name: str) -> StudyReport | None:
    """The report of an experiment that is shipped, from `docs/paper`."""
    path = carried(f"docs/paper/{name}.json")
    return StudyReport.model_validate_json(path.read_text()) if path.is_file() else None


def save_study(report: StudyReport, out: Path) -> list[Path]:
    """Writes Markdown, SVG and JSON of a report, and the index; replaces older ones."""
    name = report.study.name
    make_folder(out)
    documents = {
        f"{name}.md": study_markdown(report),
        f"{name}.svg": study_svg(report),
        f"{name}.json": report.model_dump_json(indent=1) + "\n",
    }
    for file, text in documents.items():
        atomic_write(out / file, text)
    return [*(out / file for file in documents), *save_index(out)]


def _missing(report: StudyReport) -> list[str]:
    if not report.missing:
        return []
    return [f"Not run yet: {', '.join(report.missing)}."]


def _results(report: StudyReport) -> str:
    rows = [
        _result_row(report, panel, arm)
        for panel in report.panels
        for arm in panel.report.arms.values()
    ]
    first = report.panels[0].report
    headers = (
        "arm",
        "role",
        f"{plain_name(first.metric)}, 95 %",
        *(["the paper's score"] if report.study.paper.values else []),
        "minus plain LoRA, 95 %",
        "p (Holm)",
        "detectable difference",
        "seeds × items",
    )
    return _by_run(report, headers, rows)


def _result_row(report: StudyReport, panel: Panel, arm: ArmReport) -> Sequence[str]:
    versus = baseline_difference(panel.report, arm.name)
    number = paper_number(report, panel, arm.name)
    numbers = ["" if number is None else f"{number:.2f}"] if report.study.paper.values else []
    return (
        panel.name,
        plain_name(arm.name),
        plain_name(arm.role),
        interval_text(arm.value, *arm.interval),
        *numbers,
        "" if versus is None else _signed(versus),
        "" if versus is None else f"{versus.p_holm:.2g}",
        "" if versus is None else _detectable(versus),
        f"{len(arm.seeds)} × {arm.n}",
    )


def _signed(difference: Difference) -> str:
    i = difference.interval
    return interval_text(i.mean, i.low, i.high, signed=True)


def _detectable(difference: Difference) -> str:
    value = difference.minimum_detectable
    family = f" ({difference.family})" if difference.family else ""
    return "none" if value is None else f"{value:.2f}{family}"


def _paper_note(report: StudyReport) -> str:
    paper = report.study.paper
    if not paper.values:
        return ""
    return (
        f"The paper's scores: {paper.source} They are out of 100 and from other models and "
        "benchmarks; only the ranking of the arms can be compared."
    )


def _differences(report: StudyReport) -> list[str]:
    """The judged arm against each of its rivals, a table for every kind of rival."""
    content, place = (
        [(p.name, d) for p in report.panels for d in control_differences(p.report, role)]
        for role in ("content_control", "location_control")
    )
    others = [(panel.name, d) for panel in report.panels for d in panel.alternatives]
    names = [panel.name for panel in report.panels]
    named = list(zip(names, report.across, strict=True)) if report.across else []
    runs = len(report.panels)
    return [
        *_rivals(report, "The treatment against its content controls", content),
        *_rivals(report, "The treatment against its location controls", place),
        *_rivals(report, "The paper's choice against the others", others),
        *_rivals(report, f"The answer to the question: Holm over all {runs} runs", named),
    ]


def _rivals(report: StudyReport, title: str, found: Sequence[tuple[str, Difference]]) -> list[str]:
    if not found:
        return []
    rows = [
        (
            name,
            plain_name(f"{d.arm} − {d.versus}"),
            _signed(d),
            f"{d.p_holm:.2g}",
            _detectable(d),
        )
        for name, d in found
    ]
    headers = ("paired", "difference, 95 %", "p (Holm)", "detectable difference")
    return [f"## {title}", _by_run(report, headers, rows)]


def _by_run(report: StudyReport, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose rows begin with their run, which is left out where there is one only."""
    if len(report.panels) == 1:
        return markdown_table(headers, [row[1:] for row in rows])
    return markdown_table((report.study.axis or "run", *headers), rows)


def _budget(report: StudyReport) -> str:
    rows = [
        (
            panel.name,
            plain_name(arm.name),
            str(arm.samples),
            str(arm.steps),
            arm.rate_words,
            "" if arm.learned is None else f"{arm.learned.exact_match:.2f}",
            f"{arm.trainable_parameters:,}",
            f"{arm.flops:.2g}",
            f"{arm.seconds:.1f}",
            f"{arm.all_seconds or arm.seconds:.1f}",
        )
        for panel in report.panels
        for arm in panel.report.arms.values()
    ]
    headers = (
        "arm",
        "samples",
        "steps",
        "lr",
        "training items right",
        "trainable parameters",
        "FLOP",
        "seconds",
        "at all rates",
    )
    return _by_run(report, headers, rows)


def _time(report: StudyReport) -> str:
    """What the runs took; an attempt does not take again what the ones before it had."""
    wall = f"{report.seconds:.0f} s of wall-clock time, including other load on the machine"
    if report.attempts <= 1:
        return wall
    arms = [arm for panel in report.panels for arm in panel.report.arms.values()]
    trained = sum((arm.all_seconds or arm.seconds) * len(arm.seeds) for arm in arms)
    return f"{trained:,.0f} s of training in several attempts, the last of which took {wall}"


def _how(report: StudyReport) -> list[str]:
    pairs = sorted({f"{panel.teacher} → {panel.student}" for panel in report.panels})
    planned = report.panels[0].report.planned
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    lines = [
        f"- Command: `{report.command}`",
        f"- Pair: {', '.join(pairs)}",
        f"- Runs: {', '.join(p.run for p in report.panels)} ({_time(report)})",
        f"- Date: {report.date}. Versions: {versions}.",
        "- Intervals are paired by seed and item; tables show Student's on the crossed variance, "
        "and each run's report has the hierarchical bootstrap beside it.",
    ]
    if planned is not None:
        lines.insert(2, f"- Before the run: {planned.sentence} (Holm over "
                        f"{planned.n_comparisons} comparisons)")  # fmt: skip
    return lines

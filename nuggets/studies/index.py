"""The list of all reports in a folder: one row per experiment, with what it found."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from nuggets.disk.commit import atomic_write
from nuggets.statistics.verdict import Kind, Location
from nuggets.studies.findings import reproduced
from nuggets.studies.markdown import markdown_table
from nuggets.studies.report import StudyReport
from nuggets.studies.shipped import studies

INDEX = "README.md"
BEFORE = "preregistration.md"
SUMMARY = "summary.md"
TITLE = "# The paper's experiments, with the controls and intervals that the paper lacks"
OWN_TITLE = "# Experiments, with controls and intervals"
ABOUT = (
    "Every report gives its command, versions and budget, each difference with its interval and "
    "the difference that would be detected 80 % of the time{scores}."
)
SAID: dict[str, Kind] = {
    "The teacher's parameters **helped**": "helps",
    "They beat plain LoRA, but **not parameters without meaning**,": "same_as_controls",
    "There was **no detectable difference** to plain LoRA": "no_difference",
    "They **hurt**": "hurts",
    "Nothing is proven, for want of a fair comparison,": "not_proven",
    "**Nothing could be measured**, since nothing was learned,": "not_measurable",
}
"""Words → the verdict's first answer."""
WHERE: dict[Location, str] = {
    "located": "it **mattered where** they were taken from",
    "not_located": "it is **not shown** that it matters where they were taken from",
    "not_proven": "nothing is proven of where they were taken from",
}
MARK = "<!-- written by `nuggets paper`; changes are lost -->"


def save_index(out: Path) -> list[Path]:
    """Writes the index of a folder of reports; a file of that name by somebody else is left alone.

    Returns:
        The file, if it was written.
    """
    path = out / INDEX
    if path.is_file() and not path.read_text().startswith(MARK):
        return []
    text = index_markdown(_reports(out))
    if (out / SUMMARY).is_file():
        text += f"\nThe results and their known weaknesses on one page: [{SUMMARY}]({SUMMARY}).\n"
    if (out / BEFORE).is_file():
        text += f"\nWhat was fixed before the runs beyond the paper: [{BEFORE}]({BEFORE}).\n"
    atomic_write(path, text)
    return [path]


def index_markdown(reports: list[StudyReport]) -> str:
    """One row per experiment, in the order of the paper."""
    rows = [(_link(report), report.study.question, report.summary, _n(report), report.date)
            for report in reports]  # fmt: skip
    headers = ("experiment", "question", "found", "seeds × items", "date")
    words = ["## In plain words", "\n".join(plain_words(reports))] if reports else []
    shipped = any(report.study.name in studies() for report in reports)
    about = ABOUT.format(scores=", and the paper's own scores beside ours" * shipped)
    parts = [
        MARK,
        TITLE if shipped else OWN_TITLE,
        about,
        *words,
        "## All reports",
        markdown_table(headers, rows, left=4),
    ]
    return "\n\n".join(parts) + "\n"


def plain_words(reports: list[StudyReport]) -> list[str]:
    """What holds and what does not, over all settings: one line per answer of the verdict."""
    verdicts = [(r.study.name, panel.name, panel.report.verdict)
                for r in reports for panel in r.panels]  # fmt: skip
    lines = []
    for said, kind in SAID.items():
        where = [(study, run) for study, run, verdict in verdicts if verdict.kind == kind]
        if where:
            lines.append(f"- {said} in {len(where)} of {len(verdicts)} settings: {_places(where)}.")
    for location, said in WHERE.items():
        where = [(study, run) for study, run, verdict in verdicts if verdict.location == location]
        if where:
            lines.append(f"- Where they helped, {said}: {_places(where)}.")
    counts = [reproduced(r.study, [(p.name, p.report, p.alternatives) for p in r.panels])
              for r in reports]  # fmt: skip
    claims = [count for count in counts if count is not None and count[1]]
    if claims:
        whole = sum(n == judged for n, judged in claims)
        lines.append(
            f"- Of {len(claims)} claims of the paper that could be judged here, {whole} "
            f"{'is' if whole == 1 else 'are'} reproduced in every setting."
        )
    return lines


def _places(where: list[tuple[str, str]]) -> str:
    """Settings by experiment; that of an experiment with one setting needs no name."""
    by_study: dict[str, list[str]] = {}
    for study, run in where:
        by_study.setdefault(study, []).append(run)
    return "; ".join(
        study if runs == ["all"] else f"{study} ({', '.join(runs)})"
        for study, runs in by_study.items()
    )


def _reports(out: Path) -> list[StudyReport]:
    """Those of shipped experiments in the order of the paper, then one's own."""
    files = [out / f"{name}.json" for name in studies()]
    found = [StudyReport.model_validate_json(f.read_text()) for f in files if f.is_file()]
    for file in sorted({*out.glob("*.json")} - {*files}):
        with suppress(ValueError):  # a JSON that is no report is somebody else's
            found.append(StudyReport.model_validate_json(file.read_text()))
    return found


def _link(report: StudyReport) -> str:
    name = report.study.name
    return f"[{name}]({name}.md)"


def _n(report: StudyReport) -> str:
    sizes = {
        f"{len(arm.seeds)} × {arm.n}"
        for panel in report.panels
        for arm in panel.report.arms.values()
    }
    return ", ".join(sorted(sizes))

"""The list of all reports in a folder: one row per experiment, with what it found."""

from __future__ import annotations

from pathlib import Path

from nuggets.disk.commit import atomic_write
from nuggets.studies.markdown import markdown_table
from nuggets.studies.report import StudyReport
from nuggets.studies.shipped import studies

INDEX = "README.md"
BEFORE = "preregistration.md"
SUMMARY = "summary.md"
TITLE = "# The paper's experiments, with the controls and intervals that the paper lacks"
ABOUT = (
    "Every report gives its command, versions and budget, each difference with its interval and "
    "the difference that would be detected 80 % of the time, and the paper's own scores beside "
    "ours."
)
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
    parts = [MARK, TITLE, ABOUT, markdown_table(headers, rows, left=4)]
    return "\n\n".join(parts) + "\n"


def _reports(out: Path) -> list[StudyReport]:
    files = [out / f"{name}.json" for name in studies()]
    return [StudyReport.model_validate_json(f.read_text()) for f in files if f.is_file()]


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

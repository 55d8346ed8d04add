"""The cross-task matrix on the Results page: shown, or how to get it."""

from __future__ import annotations

import streamlit as st

from nuggets import api
from nuggets.ui.benchmarks import studies as study_part
from nuggets.ui.charts import cross as cross_charts
from nuggets.ui.frame import safe, share, shell, visitors

STUDY = "cross"
USUAL = ("teacher", "independent")
"""The pair that the experiment is written for."""
_PRINTED = """
for panel in report.panels:
    for arm in panel.report.arms.values():
        print(panel.name, arm.name, arm.value, arm.interval)"""


def section(choice: shell.Choice) -> None:
    """Whether a task's own seed samples locate what helps it, for the sidebar's pair."""
    st.subheader("Cross-task matrix", anchor=False)
    study, pair = api.open_study(STUDY), (choice.teacher, choice.student)
    st.text(f"{study.question} Every cell is a transfer: 95 % intervals over its seeds and items.")
    changes = () if pair == USUAL else (f"teacher={pair[0]}", f"student={pair[1]}")
    origin = study_part.origin(STUDY, changes, _PRINTED)
    command = origin.command or ""
    if not set(pair) <= set(api.MODELS):  # finding its runs would read, or download, all weights
        st.text("For your own models, run it on the command line:")
        st.code(command, language="bash", wrap_lines=True)
        return
    with safe.shown_problems("cross"):
        report = study_part.report_of(STUDY, changes)
        missing = [run.name for run in study.runs] if report is None else report.missing
        if missing:
            _start(missing, changes, command)
        if report is not None:
            _matrix(report, origin)


def _matrix(report: api.StudyReport, origin: share.Origin) -> None:
    frame = study_part.results_frame(report)
    first = report.panels[0].report
    share.Picture(
        cross_charts.cross_figure(frame, first.metric, share.look()),
        frame,
        "cross",
        f"Outlined: the task's own seed samples · {study_part.caption(report)}",
        origin,
        "Heatmap: target tasks down, tasks that located the parameters across",
    ).draw()
    safe.notes(report.findings)


def _start(missing: list[str], changes: tuple[str, ...], command: str) -> None:
    with st.container(border=True, key="cross-missing"):
        st.text(
            f"Not measured yet: {', '.join(missing)}. Each is a transfer with every "
            "initialisation and its controls. It runs in the background and its results are "
            "saved. On the command line:"
        )
        st.code(command, language="bash", wrap_lines=True)
        if visitors.not_here("experiments cannot be started, which are many runs"):
            return
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button("Start the missing runs", key="run-cross", on_click=_run, args=(changes,))
            shell.link("paper", "All experiments of the paper")


@safe.refused_later()
def _run(changes: tuple[str, ...]) -> None:
    api.start_study(STUDY, changes)

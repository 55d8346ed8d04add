"""Paper: the experiments of the paper, each as question, figure, table and what was found."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from nuggets import api
from nuggets.ui.benchmarks import arms as arm_tables
from nuggets.ui.benchmarks import studies as study_part
from nuggets.ui.frame import safe, share, shell, visitors

NONE = "choose one"


def main() -> None:
    """Draws the page."""
    st.title("The paper's experiments", anchor=False)
    st.markdown(
        "Every figure and table of the paper, reproduced as ordinary runs, **with the controls "
        "and intervals that the paper lacks** and next to the paper's own numbers."
    )
    safe.refused()
    found = api.studies()
    name = st.selectbox("Experiment", [NONE, *found], key="experiment", bind="query-params")
    if name not in found:
        st.text("Choose an experiment to see its question, figure and table.")
        with safe.shown_problems("gallery"):
            _gallery(found)
        return
    with safe.shown_problems("experiment"):
        _experiment(found[name])


def _gallery(found: dict[str, api.Study]) -> None:
    rows = []
    for study in found.values():
        report = study_part.report_of(study.name)
        rows.append(
            {
                "experiment": study.name,
                "title": study.title,
                "runs": f"{0 if report is None else len(report.panels)} of {len(study.runs)}",
                "found": "" if report is None else safe.label(report.summary, 300),
            }
        )
    # Unlike a data frame it wraps what is long.
    st.table(pd.DataFrame(rows).set_index("experiment"), border="horizontal")


def _experiment(study: api.Study) -> None:
    st.subheader(study.title, anchor=False)
    st.text(study.question)
    origin = study_part.origin(study.name)
    _start(study, origin)
    report = study_part.report_of(study.name)
    if report is None:
        st.text("None of its runs has finished yet. Start them above, or on the command line:")
        st.code(origin.command or "", language="bash")
        return
    if report.caveat:
        safe.notes([report.caveat])
    for sentence in report.findings:
        st.text(f"• {sentence}")
    study_part.figure(report, st.context.theme.type == "dark")
    study_part.documents(report)
    frame, caption = study_part.results_frame(report), study_part.caption(report)
    share.table(frame, f"paper-{study.name}", caption, origin,
                shown=study_part.results_shown(report, frame))  # fmt: skip
    if report.study.paper.values:
        st.text(f"The paper's numbers: {report.study.paper.source}")
    safe.notes(report.study.notes)
    rivals = study_part.rivals_frame(report)
    if len(rivals):
        with st.expander("The treatment against its controls and other choices"):
            share.table(rivals, f"paper-{study.name}-rivals",
                        "Paired differences with 95 % intervals", origin,
                        shown=study_part.rivals_shown(rivals))  # fmt: skip
    with st.expander("Budget of every arm and seed"):
        budget = study_part.budget_frame(report)
        share.table(budget, f"paper-{study.name}-budget", "Means over seeds", origin,
                    shown=arm_tables.budget_shown(budget))  # fmt: skip


def _start(study: api.Study, origin: share.Origin) -> None:
    if visitors.not_here("experiments cannot be started, which are many runs"):
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Start the missing runs", key="run-study", on_click=_run, args=(study.name,),
                  help=f"As `{origin.command}`, in the background, run by run.")  # fmt: skip
        shell.link("runs", "Its runs")


@safe.refused_later()
def _run(name: str) -> None:
    if started := api.start_study(name):
        shell.choose(run=started[0].id)


main()

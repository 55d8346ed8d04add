"""Results: did it help? The verdict of one run, the effect beside it, and its details in tabs."""

from __future__ import annotations

import streamlit as st

from nuggets import api
from nuggets.ui.benchmarks import cross as cross_part
from nuggets.ui.benchmarks import report as parts
from nuggets.ui.benchmarks import tables as tables_part
from nuggets.ui.benchmarks import verdict as verdict_part
from nuggets.ui.frame import heading, live, safe, shell

TABS = ("Arms", "Curves", "Items", "Retention", "Benchmarks")


def main() -> None:
    """Draws the page."""
    st.title("Results", anchor=False)
    choice = shell.current()
    with safe.shown_problems("benchmarks"):
        run = choose_run()
        if run is None:
            tables_part.section(None, choice)
            cross_part.section(choice)
            return
        report = parts.report_of(run)
        if report is None:
            unfinished(run)
            return
        heading.line(run)
        origin = parts.Sources(run)
        verdict_part.draw(report, origin)
        # Only the open one is computed and sent.
        tabs = st.tabs(TABS, key="tab", on_change="rerun", bind="query-params")
        for name, tab in zip(TABS, tabs, strict=True):
            if tab.open:
                with tab:
                    details(name, report, run, origin, choice)


def details(
    name: str,
    report: api.BenchmarkReport,
    run: api.Run,
    origin: parts.Sources,
    choice: shell.Choice,
) -> None:
    """What one tab shows of the run, and of no other."""
    if name == "Arms":
        parts.started_plain(run)
        parts.arms(report, origin)
        parts.budget(report, origin)
    elif name == "Curves":
        parts.curves(report, origin)
    elif name == "Items":
        parts.answers(report, run, origin)
    elif name == "Retention":
        parts.retention(report, origin)
    else:
        tables_part.section(run, choice)


def choose_run() -> api.Run | None:
    """The sidebar's run; without one, offers the finished transfers."""
    transfers = [r for r in api.runs() if r.status() != "damaged" and r.record().kind == "transfer"]
    chosen = shell.current().run
    found = next((run for run in transfers if run.id == chosen), None)
    if found is not None:
        return found
    finished = [run for run in transfers if run.status() == "done"]
    with st.container(border=True, key="benchmarks-empty"):
        if not finished:
            st.subheader("No transfer has finished yet", anchor=False)
            st.text(
                "Home has one to look at. Or run the recipe “quick” on the Plan page: it takes "
                "about a minute on a laptop."
            )
            shell.link("home", "Open Home")
            shell.link("transfer", "Open Plan")
            return None
        st.subheader("Choose a finished transfer", anchor=False)
        for run in finished[:8]:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.button("Show", key=f"show-{run.id}", on_click=shell.choose,
                          kwargs={"run": run.id})  # fmt: skip
                with st.container(gap="xxsmall"):
                    heading.line(run)
                    with safe.shown_problems(run.id):
                        report = parts.report_of(run)
                        st.text(report.verdict.sentence if report else "no report")
    return None


def unfinished(run: api.Run) -> None:
    """The run has no report yet: how far it is, and how to go on."""
    st.text("This run has no report yet. It will be written when every arm and seed has finished.")
    safe.refused()
    live.panel(run, key="benchmarks-live")


main()

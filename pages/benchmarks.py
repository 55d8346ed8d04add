"""Benchmarks: did it help? Arms beside their controls, with intervals, and one sentence."""

from __future__ import annotations

from typing import Any

import streamlit as st

from nuggets import api
from nuggets.statistics.verdict import KIND_WORDS, LOCATION_WORDS
from nuggets.ui.benchmarks import cross as cross_part
from nuggets.ui.benchmarks import report as parts
from nuggets.ui.benchmarks import tables as tables_part
from nuggets.ui.frame import live, safe, shell

COLOURS: dict[str, Any] = {"helps": "green", "hurts": "red", "same_as_controls": "orange"}
"""Of the badges; grey where nothing was shown."""
PLACES: dict[str, Any] = {"located": "green", "not_located": "orange"}


def main() -> None:
    """Draws the page."""
    st.title("Benchmarks", anchor=False)
    st.caption("Did it help? All arms and controls on the same items, with intervals.")
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
        origin = parts.Sources(run)
        verdict(report)
        parts.started_plain(run)
        parts.arms(report, origin)
        parts.curves(report, origin)
        parts.answers(report, run, origin)
        parts.retention(report, origin)
        parts.budget(report, origin)
        tables_part.section(run, choice)
        cross_part.section(choice)


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
                "Run the recipe “quick” on the Transfer page. It takes less than a minute "
                "on a laptop."
            )
            st.page_link(shell.page("transfer"), label="Open Transfer")
            return None
        st.subheader("Choose a finished transfer", anchor=False)
        for run in finished[:8]:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.button("Show", key=f"show-{run.id}", on_click=shell.choose,
                          kwargs={"run": run.id})  # fmt: skip
                with st.container(gap="xxsmall"):
                    st.text(run.id)
                    with safe.shown_problems(run.id):
                        report = parts.report_of(run)
                        st.text(report.verdict.sentence if report else "no report")
    return None


def unfinished(run: api.Run) -> None:
    """The run has no report yet: how far it is, and how to go on."""
    st.text("This run has no report yet. It will be written when every arm and seed has finished.")
    safe.refused()
    live.panel(run, key="benchmarks-live")


def verdict(report: api.BenchmarkReport) -> None:
    """Both answers, and the rules they follow."""
    found = report.verdict
    with st.container(border=True, key="verdict", gap="small"):
        with st.container(horizontal=True, vertical_alignment="center"):
            with st.container(width="stretch", horizontal=True, gap="xsmall"):
                st.badge(KIND_WORDS[found.kind], color=COLOURS.get(found.kind, "gray"))
                if found.location:
                    colour = PLACES.get(found.location, "gray")
                    st.badge(LOCATION_WORDS[found.location], color=colour)
            with st.popover("The rules"):
                st.text(report.rules)
        st.subheader(safe.label(found.sentence, 900), anchor=False)
        for name, other in report.verdicts.items():
            if name != found.treatment:
                st.text(other.sentence)
        if smallest := could_show(report):
            st.text(smallest)


def could_show(report: api.BenchmarkReport) -> str:
    """What this design can detect, where the verdict does not say it, and what was planned."""
    judged = report.verdict.treatment
    before = ""
    if report.planned and report.planned.value:
        before = (
            f"Before the run, {report.planned.value:.3f} was expected to be detectable. "
            f"{report.planned.basis}"
        )
    if report.verdict.kind == "no_difference":  # whose sentence says what was detectable
        return before
    baselines = {arm.name for arm in report.arms.values() if arm.role == "baseline"}
    for d in report.differences:
        if d.arm == judged and d.versus in baselines and d.minimum_detectable is not None:
            family = f" ({d.family})" if d.family else ""
            return (
                f"With {d.interval.n_seeds} seeds × {d.interval.n_items} items a difference of "
                f"{d.minimum_detectable:.3f} to {d.versus}{family} is detected 80 % of the time. "
                f"{before}"
            )
    return ""


main()

"""Parts of the Benchmarks page: arms, differences and curves, items, old skills, budget."""

from __future__ import annotations

from typing import Any

import streamlit as st

from nuggets import api
from nuggets.errors import Damaged
from nuggets.ui import charts, charts_benchmarks, safe, share


class Origin:
    """Caption and commands that every figure of one run shares."""

    def __init__(self, run: api.Run) -> None:
        job = api.job_of(run)
        self.id, self.command, self.python = run.id, api.as_command(job), api.as_python(job)

    def of(self, key: str, caption: str, alt: str) -> dict[str, Any]:
        """Arguments for `share.figure`."""
        return {"key": key, "caption": f"{caption} · run {self.id}", "alt": alt} | self.code

    @property
    def code(self) -> dict[str, Any]:
        """The commands that make the run again."""
        return {"command": self.command, "python": self.python}


def report_of(run: api.Run) -> api.BenchmarkReport | None:
    """The report of a run, if it has one.

    Raises:
        Damaged: if it cannot be read.
    """
    try:
        return api.report(run)
    except ValueError:
        raise Damaged(
            f"The report of run {run.id} cannot be read; it is incomplete or was altered. Run the "
            "recipe again."
        ) from None


def arms(report: api.BenchmarkReport, origin: Origin) -> None:
    """Bars with seeds, paired differences, and learning curves."""
    look = charts.look_of(st.context.theme.type)
    n_seeds = max(len(arm.seeds) for arm in report.arms.values())
    size = f"95 % intervals over {n_seeds} seeds and {report.n_items} items"
    left, right = st.columns(2, gap="medium")
    with left:
        share.figure(
            charts_benchmarks.arms_figure(report, look),
            charts_benchmarks.arms_frame(report),
            **origin.of("arms", f"Arms, {size}", "Bars per arm with interval and a dot per seed"),
        )
    with right:
        share.figure(
            charts_benchmarks.forest_figure(report.differences, look),
            charts_benchmarks.differences_frame(report.differences),
            **origin.of("differences", "Paired by seed and item", "Paired differences of arms"),
        )
    shown = st.pills("Learning curves", list(report.arms), selection_mode="multi", key="curve_arms",
                     format_func=lambda arm: safe.label(str(arm), 30),
                     bind="query-params", help="None chosen: all arms.")  # fmt: skip
    share.figure(
        charts_benchmarks.curves_figure(report, [arm for arm in shown if arm in report.arms], look),
        charts_benchmarks.curves_frame(report),
        **origin.of("curves", "Mean over seeds, 95 % bands", "Learning curves per arm with bands"),
    )


def answers(report: api.BenchmarkReport, run: api.Run, origin: Origin) -> None:
    """Two arms item by item: what was asked, what they wrote, and what flipped."""
    st.subheader("Item by item", anchor=False)
    names = list(report.arms)
    judged = report.verdict.treatment or names[-1]
    base = next((a.name for a in report.arms.values() if a.role == "baseline"), names[0])
    with st.container(horizontal=True, vertical_alignment="bottom"):
        pair = [_arm("Arm", "arm", names, base), _arm("against", "against", names, judged)]
        common = [s for s in report.arms[pair[0]].seeds if s in report.arms[pair[1]].seeds]
        seed = st.selectbox("Seed", common, key="seed", bind="query-params", width=110)
        only = st.toggle("Only flips", key="flips", bind="query-params")
    cells = {(cell.arm, cell.seed): cell for cell in api.cells(run)}
    found = [cells.get((arm, seed)) for arm in pair]
    if found[0] is None or found[1] is None:
        st.text("These two arms have no seed in common.")
        return
    frame = charts_benchmarks.items_frame(
        (pair[0], pair[1]),
        (api.answers(run, pair[0], seed), api.answers(run, pair[1], seed)),
        (found[0].outcomes[report.metric], found[1].outcomes[report.metric]),
        found[0].items,
        report.higher_is_better,
    )
    changes = frame["change"].tolist()
    gained, lost = changes.count("gained"), changes.count("lost")
    caption = f"{pair[0]} → {pair[1]}, seed {seed}: {gained} gained, {lost} lost of {len(frame)}"
    frame = frame.query("change != 'same'") if only else frame
    share.table(frame, "items", f"{caption} · run {origin.id}", **origin.code, height=320)


def _arm(label: str, key: str, names: list[str], default: str) -> str:
    chosen = st.selectbox(label, names, index=names.index(default), key=key, bind="query-params",
                          width=220, format_func=charts.plain_name)  # fmt: skip
    return chosen if chosen in names else default


def retention(report: api.BenchmarkReport, origin: Origin) -> None:
    """What was kept of the old skills."""
    st.subheader("Old skills kept", anchor=False)
    frame = charts_benchmarks.retention_frame(report)
    if frame.empty:
        st.text("This run measured no old skills; name them in data.old_skills.")
        return
    share.figure(
        charts_benchmarks.retention_figure(report, charts.look_of(st.context.theme.type)),
        frame,
        **origin.of("retention", "Exact match after training", "Old skills per arm, intervals"),
    )


def budget(report: api.BenchmarkReport, origin: Origin) -> None:
    """What each arm was given."""
    st.subheader("Budget", anchor=False)
    frame = charts_benchmarks.budget_frame(report)
    share.table(frame, "budget", f"The same for all arms, or said here · run {origin.id}",
                **origin.code)  # fmt: skip

"""Parts of the page about the paper's experiments: figure, tables and documents."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import pandas as pd
import streamlit as st

from nuggets import api
from nuggets.errors import Damaged
from nuggets.statistics.verdict import ArmRole
from nuggets.studies.report import baseline_difference, control_differences, paper_number
from nuggets.ui.benchmarks import arms as arm_tables
from nuggets.ui.benchmarks.arms import with_intervals
from nuggets.ui.charts import base as charts
from nuggets.ui.charts.benchmarks import ROLE_TITLES, differences_frame
from nuggets.ui.frame import share

CONTROLS: tuple[ArmRole, ...] = ("content_control", "location_control")


def report_of(name: str, changes: Sequence[str] = ()) -> api.StudyReport | None:
    """What this machine found, else what the source checkout comes with.

    Args:
        name: of the experiment.
        changes: `path.to.field=value` that its runs were made with; what the checkout comes with
            was made without any.

    Raises:
        Damaged: if a report cannot be read.
    """
    try:
        found = api.study_report(name, changes)
        return found if found or changes else api.published_report(name)
    except ValueError:
        raise Damaged(
            f"The report of the experiment {name} cannot be read. Run it again with: nuggets "
            f"paper {name} --out docs/paper"
        ) from None


def origin(name: str, changes: Sequence[str] = (), then: str = "") -> share.Origin:
    """What makes an experiment's runs and its report; `then` is Python that goes on with it."""
    words = ["nuggets", "paper", name, *(word for each in changes for word in ("--set", each))]
    given = f"{name!r}, {list(changes)}" if changes else repr(name)
    python = f"from nuggets import api\n\nreport = api.run_study({given}){then}"
    return share.Origin(shlex.join([*words, "--out", "paper"]), python)


def figure(report: api.StudyReport, dark: bool) -> None:
    """The figure, as in the report's documents."""
    st.image(api.study_svg(report, dark), width="stretch",
             alt=f"{report.study.title}: means with intervals. The table has them.")  # fmt: skip
    panels = len(report.panels)
    st.caption("Means with 95 % intervals over seeds and items"
               + ("" if panels == 1 else f", {panels} runs"))  # fmt: skip


def documents(report: api.StudyReport) -> None:
    """The whole report to take away."""
    name = report.study.name
    files = (
        ("Report (HTML)", lambda: api.study_html(report), "html"),
        ("Report (Markdown)", lambda: api.study_markdown(report), "md"),
        ("Figure (SVG)", lambda: api.study_svg(report), "svg"),
    )
    with st.container(horizontal=True):
        for label, make, kind in files:
            st.download_button(
                label, make, f"{name}.{kind}", key=f"study-{kind}", on_click="ignore"
            )


def results_frame(report: api.StudyReport) -> pd.DataFrame:
    """One row per run and arm: mean, interval, difference to plain LoRA, the paper's number."""
    rows = []
    for panel in report.panels:
        for arm in panel.report.arms.values():
            versus = baseline_difference(panel.report, arm.name)
            interval = None if versus is None else versus.interval
            rows.append(
                {
                    "run": panel.name,
                    "arm": arm.name,
                    "role": arm.role,
                    panel.report.metric: arm.value,
                    "low": arm.interval[0],
                    "high": arm.interval[1],
                    "the_paper": paper_number(report, panel, arm.name),
                    "minus_plain": None if interval is None else interval.mean,
                    "minus_low": None if interval is None else interval.low,
                    "minus_high": None if interval is None else interval.high,
                    "p_holm": None if versus is None else versus.p_holm,
                    "smallest_detectable": None if versus is None else versus.minimum_detectable,
                    "family": "" if versus is None else versus.family,
                    "n_seeds": len(arm.seeds),
                    "n_items": arm.n,
                }
            )
    return pd.DataFrame(rows)


def results_shown(report: api.StudyReport, frame: pd.DataFrame) -> pd.DataFrame:
    """`results_frame` for people."""
    metric = report.panels[0].report.metric
    shown = pd.DataFrame(
        {
            "run": frame["run"],
            "arm": frame["arm"].map(charts.plain_name),
            "role": [ROLE_TITLES[role] for role in frame["role"]],
            f"{charts.plain_name(metric)}, 95 %": with_intervals(frame, metric, "low", "high"),
            "minus plain LoRA, 95 %": with_intervals(
                frame, "minus_plain", "minus_low", "minus_high", signed=True
            ),
        }
    ).join(arm_tables.judged_shown(frame))
    if report.study.paper.values:
        shown["the paper's score"] = frame["the_paper"]
    sizes = zip(frame["n_seeds"], frame["n_items"], strict=True)
    return shown.assign(**{"seeds × items": [f"{seeds} × {items}" for seeds, items in sizes]})


def rivals_shown(frame: pd.DataFrame) -> pd.DataFrame:
    """`rivals_frame` for people."""
    shown = frame[["run"]].assign(kind=frame["compared_with"])
    return shown.join(arm_tables.paired_shown(frame))


def rivals_frame(report: api.StudyReport) -> pd.DataFrame:
    """The judged arm against its controls, every other treatment, and what the question names."""
    names = [panel.name for panel in report.panels]
    found = [
        *((ROLE_TITLES[role], p.name, d) for role in CONTROLS for p in report.panels
          for d in control_differences(p.report, role)),
        *(("other choice", p.name, d) for p in report.panels for d in p.alternatives),
        *(("question, over all runs", name, d)
          for name, d in zip(names, report.across, strict=False)),
    ]  # fmt: skip
    frame = differences_frame([difference for *_, difference in found])
    frame.insert(0, "run", [run for _, run, _ in found])
    frame.insert(1, "compared_with", [kind for kind, *_ in found])
    return frame


def budget_frame(report: api.StudyReport) -> pd.DataFrame:
    """What every arm was given and what it took."""
    frames = [
        arm_tables.budget_frame(panel.report).assign(run=panel.name) for panel in report.panels
    ]
    return pd.concat(frames, ignore_index=True)


def caption(report: api.StudyReport) -> str:
    """Where the numbers come from, in one line."""
    missing = f" · not run yet: {', '.join(report.missing)}" if report.missing else ""
    pairs = sorted({f"{panel.teacher} → {panel.student}" for panel in report.panels})
    return f"{', '.join(pairs)} · {report.date} · paired by seed and item{missing}"

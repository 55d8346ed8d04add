"""Figures and tables of the Results page. Nothing is drawn without its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nuggets.documents import colours
from nuggets.documents.colours import LIGHT, Look
from nuggets.statistics.intervals import Interval
from nuggets.statistics.report import BenchmarkReport
from nuggets.statistics.verdict import Difference
from nuggets.ui.charts import base as charts
from nuggets.ui.charts import ink

ROLE_TITLES = {
    "treatment": "transfer",
    "baseline": "plain LoRA",
    "content_control": "content control",
    "location_control": "location control",
    "comparator": "comparator",
    "reference": "no training",
}
UNSEEN = "no detectable difference"


def arms_frame(report: BenchmarkReport) -> pd.DataFrame:
    """One row per arm: mean, interval, seeds, and what it cost."""
    rows = [
        {
            "arm": arm.name,
            "role": arm.role,
            "value": arm.value,
            "low": arm.interval[0],
            "high": arm.interval[1],
            "n_seeds": len(arm.seeds),
            "n_items": arm.n,
            **{f"seed_{seed}": v for seed, v in zip(arm.seeds, arm.per_seed, strict=True)},
        }
        for arm in report.arms.values()
    ]
    return pd.DataFrame(rows)


def arms_figure(report: BenchmarkReport, look: Look = LIGHT) -> go.Figure:
    """Every arm as a bar with its interval, and every seed as a dot."""
    fig, frame, names = go.Figure(), arms_frame(report), list(charts.labels(report.arms).values())
    for role, colour in colours.ROLE_COLOURS.items():
        own = frame.assign(name=names).query("role == @role")
        if own.empty:
            continue
        fig.add_bar(
            x=own["value"],
            y=own["name"],
            orientation="h",
            name=ROLE_TITLES[role],
            marker_color=charts.fade(colour, 0.75),
            error_x=charts.errors(own, "value", look, width=7),
            customdata=own[["low", "high"]],
            hovertemplate="%{y}: %{x:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]"
            "<extra></extra>",
        )
    _add_seed_dots(fig, report, names, look)
    fig.update_yaxes(categoryorder="array", categoryarray=names[::-1], showgrid=False)
    fig.update_xaxes(title=metric_title(report), rangemode="tozero")
    return charts.finish(fig, look, 130 + 44 * max(3, len(names)), barmode="overlay")


def _add_seed_dots(
    fig: go.Figure, report: BenchmarkReport, names: Sequence[str], look: Look
) -> None:
    dots = [
        (value, name, seed)
        for arm, name in zip(report.arms.values(), names, strict=True)
        for seed, value in zip(arm.seeds, arm.per_seed, strict=True)
    ]
    fig.add_scatter(
        x=[value for value, _, _ in dots],
        y=[name for _, name, _ in dots],
        customdata=[seed for _, _, seed in dots],
        mode="markers",
        name="one seed",
        cliponaxis=False,
        marker={"size": 9, "color": look.paper, "line": {"color": look.ink, "width": 1.6}},
        hovertemplate="%{y}, seed %{customdata}: %{x:.3f}<extra></extra>",
    )


def metric_title(report: BenchmarkReport) -> str:
    """The metric in words, and which way is better."""
    where = f"on {charts.shorten(report.task)}{_direction(report)}"
    return f"{charts.plain_name(report.metric)} {where}"


def _direction(report: BenchmarkReport) -> str:
    return "" if report.higher_is_better else " (lower is better)"


def curves_frame(report: BenchmarkReport) -> pd.DataFrame:
    """One row per arm and step: mean over seeds with its band, within what the metric can be."""
    most = 1.0 if report.higher_is_better else float("inf")
    rows = [
        {"arm": arm.name, "step": step, "mean": mean, "low": max(low, 0.0), "high": min(high, most)}
        for arm in report.arms.values()
        for step, mean, low, high in arm.curve
    ]
    return pd.DataFrame(rows, columns=["arm", "step", "mean", "low", "high"])


def curves_figure(
    report: BenchmarkReport, arms: Sequence[str] = (), look: Look = LIGHT
) -> go.Figure:
    """Learning curves with bands over seeds, in the colours of the arms' roles."""
    labels = charts.labels(report.arms)
    styles = charts.arm_styles({name: arm.role for name, arm in report.arms.items()})
    fig = go.Figure()
    for name, own in curves_frame(report).groupby("arm", sort=False):
        if arms and name not in arms:
            continue
        colour, dash, symbol = styles[str(name)]
        charts.add_line(
            fig,
            own,
            "mean",
            labels[str(name)],
            colour,
            dash=dash,
            mode="lines+markers",
            marker={"symbol": symbol, "size": 9},
            customdata=own[["low", "high"]],
            hovertemplate=f"{labels[str(name)]}, step %{{x}}: %{{y:.3f}} "
            "[%{customdata[0]:.3f}, %{customdata[1]:.3f}]<extra></extra>",
        )
    fig.update_xaxes(title="training step", showgrid=False)
    fig.update_yaxes(title=charts.plain_name(report.metric) + _direction(report))
    return charts.finish(fig, look, 420, hovermode="closest")


def runs_frame(reports: Mapping[str, BenchmarkReport], arm: str) -> pd.DataFrame:
    """One row per run and step: an arm's mean over seeds with its band."""
    named = [(name, curves_frame(report)) for name, report in reports.items()]
    frames = [own[own["arm"] == arm].assign(run=name) for name, own in named]
    return pd.concat(frames, ignore_index=True).filter(["run", "step", "mean", "low", "high"])


def runs_figure(frame: pd.DataFrame, metric: str, look: Look = LIGHT) -> go.Figure:
    """Learning curves of one arm in several runs, with bands over seeds."""
    fig = go.Figure()
    labels = charts.labels(frame["run"].unique(), 60)
    for place, (name, own) in enumerate(frame.groupby("run", sort=False)):
        colour = colours.CATEGORIES[place % len(colours.CATEGORIES)]
        dash = charts.DASHES[place % len(charts.DASHES)]
        marker = {"symbol": charts.SYMBOLS[place % len(charts.SYMBOLS)], "size": 9}
        charts.add_line(fig, own, "mean", labels[str(name)], colour, dash=dash, marker=marker,
                        mode="lines+markers",
                        hovertemplate="step %{x}: %{y:.3f}<extra></extra>")  # fmt: skip
    fig.update_xaxes(title="training step", showgrid=False)
    fig.update_yaxes(title=metric)
    return charts.finish(fig, look, 420, hovermode="closest", showlegend=True)


def differences_frame(differences: Sequence[Difference]) -> pd.DataFrame:
    """One row per comparison, paired by seed and item; positive is better."""
    return pd.DataFrame(
        [
            {
                "arm": d.arm,
                "versus": d.versus,
                "difference": d.interval.mean,
                "low": d.interval.low,
                "high": d.interval.high,
                "p": d.p,
                "p_holm": d.p_holm,
                "smallest_detectable": d.minimum_detectable,
                "family": d.family,
                "n_seeds": d.interval.n_seeds,
                "n_items": d.interval.n_items,
            }
            for d in differences
        ]
    )


def forest_figure(
    differences: Sequence[Difference], look: Look = LIGHT, of: str | None = None
) -> go.Figure:
    """Paired differences with intervals beside a line at no difference.

    Blue is better, vermilion worse, and hollow grey not detectable. Where all are `of` one arm, it
    is named once, below.
    """
    fig = go.Figure()
    each = [f"{d.arm} − {d.versus}" if of is None else f"over {d.versus}" for d in differences]
    names = list(charts.labels(each, 40).values())
    frame = differences_frame(differences).assign(
        name=names,
        seen=[_seen(d) for d in differences],
        said=[_with_bounds(d.interval) for d in differences],
    )
    for title, colour, symbol in (
        ("better", look.blue, "circle"),
        ("worse", colours.VERMILION, "square"),
        (UNSEEN, colours.GREY, "circle-open"),
    ):
        own = frame.query("seen == @title")
        if own.empty:
            continue
        line = {"width": 2, "color": colour}
        fig.add_scatter(
            x=own["difference"],
            y=own["name"],
            mode="markers",
            name=title,
            marker={"size": 13, "color": colour, "symbol": symbol, "line": line},
            error_x=charts.errors(own, "difference", look, width=7) | {"color": colour},
            customdata=own[["said", "p_holm"]],
            hovertemplate="%{y}: %{customdata[0]}<br>p (Holm) %{customdata[1]:.2g}<extra></extra>",
        )
    fig.update_yaxes(categoryorder="array", categoryarray=names[::-1], showgrid=False)
    whose = "difference" if of is None else charts.shorten(charts.plain_name(of))
    fig.update_xaxes(title=f"worse ← {whose} → better")
    fig.add_vline(x=0, line={"color": look.muted, "width": 1.5, "dash": "dot"})
    height = 130 + 44 * max(3, len(names)) if of is None else 110 + 36 * len(names)
    return charts.finish(fig, look, height)


def _with_bounds(found: Interval) -> str:
    """Plotly's own format writes −0.000 where a sign is asked for."""
    return f"{found.mean:+z.3f} [{found.low:+z.3f}, {found.high:+z.3f}]".replace("-", "−")


def _seen(difference: Difference) -> str:
    return "better" if difference.better else "worse" if difference.worse else UNSEEN


def retention_frame(report: BenchmarkReport) -> pd.DataFrame:
    """One row per arm and old skill, with interval."""
    rows = [
        {
            "arm": arm.name,
            "skill": skill,
            "value": interval.mean,
            "low": interval.low,
            "high": interval.high,
            "n_items": interval.n_items,
        }
        for arm in report.arms.values()
        for skill, interval in arm.old_skills.items()
    ]
    return pd.DataFrame(rows, columns=["arm", "skill", "value", "low", "high", "n_items"])


def retention_figure(report: BenchmarkReport, look: Look = LIGHT) -> go.Figure:
    """Old skills after training, arm by arm; the interval is written below each value."""
    frame = retention_frame(report)
    frame = frame.assign(text=charts.with_bounds(frame, "value"))
    z, text = charts.pivot(frame, "arm", "skill", "value", "text")
    axis = charts.colour_axis(np.array([0.0, 1.0]), False, "exact match")
    x, y = (list(charts.labels(names).values()) for names in (z, z.index))
    fig = go.Figure()
    hover = "%{y}, %{x}: %{text}<extra></extra>"
    ink.add_cells(fig, z.to_numpy(), text.to_numpy(), axis, hover, x=x, y=y)
    fig.update_yaxes(autorange="reversed", showgrid=False)
    fig.update_xaxes(side="top", showgrid=False)
    return charts.finish(fig, look, 120 + 44 * max(3, len(z)))

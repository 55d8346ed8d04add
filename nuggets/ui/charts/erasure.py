"""Figures of erased weights: curves of damage, and the map beside the damage of single parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from nuggets.documents import colours
from nuggets.documents.colours import LIGHT, Look
from nuggets.erasure.orders import PartKind
from nuggets.erasure.report import OTHERS, ErasureReport
from nuggets.erasure.words import NAMES, NOTABLE, order_name, with_bounds
from nuggets.ui.charts import base as charts

ACROSS = 4
"""Panels side by side."""
DAMAGE_TICKS: Any = {"range": [-0.06, 1.06], "dtick": 0.5, "tickformat": ".0%"}


def curves_frame(report: ErasureReport) -> pd.DataFrame:
    """One row per order, skill and fraction; `others` is the mean of the other skills."""
    return pd.DataFrame(
        {
            "order": point.order,
            "skill": point.skill,
            "fraction": point.fraction,
            "weights": point.weights,
            "damage": point.damage.mean,
            "low": point.damage.low,
            "high": point.damage.high,
            "loss_rise": point.rise.mean,
            "loss_rise_low": point.rise.low,
            "loss_rise_high": point.rise.high,
            "right": point.right,
        }
        for order in report.curves
        for point in report.points(order)
    )


def curves_figure(report: ErasureReport, frame: pd.DataFrame, look: Look = LIGHT) -> go.Figure:
    """A panel per order: damage to the skill and to the others, against the share erased.

    Args:
        report: for names and specificities.
        frame: from `curves_frame`.
        look: light or dark.
    """
    orders, groups = list(report.curves), frame.groupby(["order", "skill"])
    rows = -(-len(orders) // ACROSS)
    names = (f"<b>{charts.shorten(order_name(order), 22)}</b>" for order in orders)
    found = (with_bounds(report.specificity(order)) for order in orders)
    titles = [f"{name}<br>{interval}" for name, interval in zip(names, found, strict=True)]
    fig = make_subplots(
        rows, min(ACROSS, len(orders)), shared_yaxes=True, subplot_titles=titles,
        horizontal_spacing=0.025, vertical_spacing=0.3 if rows > 1 else 0,
    )  # fmt: skip
    lines = ((report.skill, charts.shorten(report.skill), colours.VERMILION),
             (OTHERS, "mean of the others", look.blue))  # fmt: skip
    for place, order in enumerate(orders):
        at = {"row": place // ACROSS + 1, "col": place % ACROSS + 1}
        for skill, name, colour in lines[::-1]:
            if (order, skill) not in groups.groups:
                continue
            own = groups.get_group((order, skill))
            _add_band(fig, own, name, colour, place == 0, at)
    fig.update_xaxes(type="log", tickvals=[1e-6, 1e-4, 1e-2, 1], showgrid=False,
                     ticktext=["0.0001%", "0.01%", "1%", "100%"])  # fmt: skip
    fig.update_xaxes(title="share of weights at 0", row=rows)
    fig.update_yaxes(**DAMAGE_TICKS)
    fig.update_yaxes(title="damage", col=1)
    fig.update_annotations(font={"size": 13.5, "color": look.ink})
    layout: dict[str, Any] = {
        "margin": {"t": 96},
        "legend": {"y": 1 + 60 / (230 * rows - 60), "traceorder": "reversed"},
    }
    return charts.finish(fig, look, 110 + 230 * rows, hovermode="closest", **layout)


def _add_band(
    fig: go.Figure, own: Any, name: str, colour: str, legend: bool, at: dict[str, int]
) -> None:
    fig.add_scatter(
        x=[*own["fraction"], *own["fraction"][::-1]],
        y=[*own["high"], *own["low"][::-1]],
        mode="lines", fill="toself", fillcolor=charts.fade(colour, 0.18), line={"width": 0},
        hoverinfo="skip", showlegend=False, **at,
    )  # fmt: skip
    fig.add_scatter(
        x=own["fraction"],
        y=own["damage"],
        name=name,
        mode="lines+markers",
        line={"color": colour, "width": 2.5},
        marker={"size": 7},
        showlegend=legend,
        customdata=own[["low", "high", "weights", "loss_rise", "right"]],
        hovertemplate=f"{name}, %{{customdata[2]:,}} weights: damage %{{y:.2f}} "
        "[%{customdata[0]:.2f}, %{customdata[1]:.2f}]<br>loss %{customdata[3]:+.2f} per token, "
        "%{customdata[4]:.0%} of the answers right<extra></extra>",
        **at,
    )


def parts_frame(report: ErasureReport, kind: PartKind) -> pd.DataFrame:
    """One row per part: its share of the sensitivity, and the damage without it."""
    return pd.DataFrame(
        {
            "part": each.part.name,
            "layer": each.part.layer,
            "share": each.part.share,
            "damage": each.own.mean,
            "low": each.own.low,
            "high": each.own.high,
            "damage_others": each.others.mean,
            "low_others": each.others.low,
            "high_others": each.others.high,
        }
        for each in report.part_damage(kind)
    )


def parts_figure(frame: pd.DataFrame, kind: PartKind, skill: str, look: Look = LIGHT) -> go.Figure:
    """What the map says of each part against what taking it out does."""
    few = len(frame) <= 14
    fig = go.Figure()
    for name, suffix, colour, symbol in (
        ("mean of the others", "_others", look.blue, "diamond"),
        (charts.shorten(skill), "", colours.VERMILION, "circle"),
    ):
        own = frame.assign(low=frame[f"low{suffix}"], high=frame[f"high{suffix}"])
        fig.add_scatter(
            x=own["share"],
            y=own[f"damage{suffix}"],
            name=name,
            mode="markers+text" if few and not suffix else "markers",
            text=own["part"].where(own[f"damage{suffix}"] >= NOTABLE, ""),  # others lie in a heap
            textposition="top center",
            textfont={"size": 12, "color": look.ink},
            marker={"size": 10, "color": colour, "symbol": symbol, "opacity": 0.85},
            error_y=charts.errors(own, f"damage{suffix}", look, 3) if few else None,
            customdata=own[["low", "high", "part"]],
            hovertemplate=f"%{{customdata[2]}} without: damage to {name} %{{y:.2f}} "
            "[%{customdata[0]:.2f}, %{customdata[1]:.2f}], share %{x:.1%}<extra></extra>",
        )
    fig.update_xaxes(title=f"share of the sensitivity of all {NAMES[kind][1]}", tickformat=".0%",
                     rangemode="tozero")  # fmt: skip
    fig.update_yaxes(title=f"damage without the {NAMES[kind][0]}", **DAMAGE_TICKS)
    return charts.finish(fig, look, 400, hovermode="closest")


def layer_damage(report: ErasureReport) -> Sequence[tuple[float, str]] | None:
    """Damage without each layer and what the mouse is told; None where it was not measured."""
    found = report.part_damage("layers")
    skill = charts.shorten(report.skill)
    return [
        (
            each.own.mean,
            f"<b>{each.part.name} skipped</b><br>damage to {skill}: {with_bounds(each.own)}"
            f"<br>mean of the others: {with_bounds(each.others)}",
        )
        for each in found
    ] or None

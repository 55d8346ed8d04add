"""Figures of the Learn page that no other page has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy import ndarray

from nuggets import api
from nuggets.documents import colours
from nuggets.documents.colours import LIGHT, Look
from nuggets.ui.charts import base as charts

HEIGHT = 360
CLAIMS = {
    "percentile": "bootstrap alone",
    "student": "interval used here",
    "helps_without_controls": "“helps”",
    "hurts": "“hurts”",
    "located": "“located”",
}
"""Fields of a calibration's design → what was said of identical arms."""


def energy_frame(found: Sequence[api.Factors]) -> pd.DataFrame:
    """Mean over the windows of what each rank keeps; windows of less rank keep everything."""
    frames = []
    for name, field in (("window", "energy"), ("shuffled entries", "shuffled")):
        curves = [getattr(factors, field) for factors in found]
        most = max(len(curve) for curve in curves)
        filled = [np.pad(curve, (0, most - len(curve)), constant_values=1.0) for curve in curves]
        kept = np.mean(filled, axis=0)
        frames.append(pd.DataFrame({"what": name, "rank": np.arange(1, most + 1), "kept": kept}))
    return pd.concat(frames, ignore_index=True)


def energy_figure(frame: pd.DataFrame, rank: int, look: Look = LIGHT) -> go.Figure:
    """Share of the squared entries that a rank keeps, with the rank in use marked."""
    fig = go.Figure()
    by_kind = {"window": look.blue, "shuffled entries": colours.ORANGE}
    for what, own in frame.groupby("what", sort=False):
        fig.add_scatter(
            x=own["rank"],
            y=own["kept"],
            name=str(what),
            mode="lines",
            line={
                "color": by_kind[str(what)],
                "width": 3,
                "dash": "solid" if what == "window" else "dash",
            },
            hovertemplate="rank %{x} keeps %{y:.1%}<extra></extra>",
        )
    fig.add_vline(
        x=rank,
        line={"color": look.muted, "width": 1.5, "dash": "dot"},
        annotation={"text": f"r = {rank}", "font": {"color": look.muted}},
    )
    fig.update_xaxes(title="rank", range=[0, frame["rank"].max() + 1])
    fig.update_yaxes(title="kept", tickformat=".0%", range=[0, 1.04])
    return charts.finish(fig, look, HEIGHT, showlegend=True)


def injected_frame(found: Sequence[api.Factors]) -> pd.DataFrame:
    """Per student matrix: how large what is injected is, and what is left of it at step 0."""
    return pd.DataFrame(
        {
            "matrix": [charts.short_module(factors.module) for factors in found],
            "injected": [factors.injection.size for factors in found],
            "left_at_step_0": [factors.injection.left for factors in found],
        }
    )


def injected_figure(frame: pd.DataFrame, look: Look = LIGHT) -> go.Figure:
    """Size of the injected product relative to the student's own weight, matrix by matrix."""
    fig = go.Figure(
        go.Bar(
            x=frame["matrix"],
            y=frame["injected"],
            marker_color=look.blue,
            hovertemplate="%{x}: %{y:.0%} of the weight's norm<extra></extra>",
        )
    )
    fig.add_hline(y=1, line={"color": look.muted, "width": 1.5, "dash": "dot"})
    fig.update_xaxes(tickangle=-90, tickfont={"size": 11}, showgrid=False)
    fig.update_yaxes(title="‖s·B·A‖ ÷ ‖W‖", tickformat=".0%", rangemode="tozero")
    return charts.finish(fig, look, HEIGHT + 20)


def claims_frame(found: api.Calibration) -> pd.DataFrame:
    """False claims between identical arms, per number of seeds."""
    return pd.DataFrame(
        [
            {"said": title, "seeds": design.n_seeds, **_rate(getattr(design, field))}
            for design in found.designs
            for field, title in CLAIMS.items()
            if getattr(design, field) is not None
        ]
    )


def claims_figure(frame: pd.DataFrame, look: Look = LIGHT) -> go.Figure:
    """How often something was claimed of identical arms, with intervals; 5 % was promised."""
    names = [f"{said}, {n} seeds" for said, n in zip(frame["said"], frame["seeds"], strict=True)]
    five = frame["seeds"] == frame["seeds"].max()
    fig = go.Figure(
        go.Scatter(
            x=frame["rate"],
            y=names,
            mode="markers",
            marker={
                "size": 12,
                "color": [look.blue if more else colours.ORANGE for more in five],
                "symbol": ["square" if more else "circle" for more in five],
            },
            error_x=charts.errors(frame, "rate", look),
            hovertemplate="%{y}: %{x:.2%}<extra></extra>",
            showlegend=False,
        )
    )
    room = 1.3 * max(0.05, *frame["high"])
    fig.add_scatter(
        x=[room] * len(frame),  # one column, clear of every line
        y=names,
        mode="text",
        text=[f"{100 * value:.2g} %" for value in frame["rate"]],
        textposition="middle left",
        hoverinfo="skip",
        showlegend=False,
    )
    fig.add_vline(x=0.05, line={"color": look.muted, "width": 1.5, "dash": "dot"})
    fig.update_xaxes(title="false claims (dotted: 5 %)", tickformat=".0%", range=[-0.005, room])
    fig.update_yaxes(autorange="reversed", showgrid=False)
    return charts.finish(fig, look, HEIGHT)


def power_frame(found: api.Calibration) -> pd.DataFrame:
    """How often a planted difference was found, per number of seeds."""
    return pd.DataFrame(
        [
            {"seeds": design.n_seeds, "difference": float(planted), **_rate(rate)}
            for design in found.designs
            for planted, rate in design.found.items()
        ]
    )


def power_figure(frame: pd.DataFrame, look: Look = LIGHT) -> go.Figure:
    """The rate of “helps” against the true difference, with intervals."""
    fig = go.Figure()
    for place, (seeds, own) in enumerate(frame.groupby("seeds")):
        colour = (colours.ORANGE, look.blue)[place % 2]
        fig.add_scatter(
            x=own["difference"] + 0.004 * (2 * place - 1),
            y=own["rate"],
            name=f"{seeds} seeds",
            mode="lines+markers",
            line={"color": colour, "width": 3},
            marker={"size": 10, "symbol": ("circle", "square")[place % 2]},
            error_y=charts.errors(own, "rate", look) | {"color": colour},
            hovertemplate="%{y:.0%} found<extra></extra>",
        )
    fig.update_xaxes(title="true difference", tickvals=sorted(set(frame["difference"])))
    fig.update_yaxes(title="share of verdicts “helps”", tickformat=".0%", range=[0, 1.04])
    return charts.finish(fig, look, HEIGHT, showlegend=True)


def explained_frame(found: Mapping[str, ndarray]) -> pd.DataFrame:
    """Student → R² of the best linear map from a teacher layer, per student layer."""
    return pd.DataFrame(
        [
            {"student": name, "layer": layer, "r2": value}
            for name, r2 in found.items()
            for layer, value in enumerate(r2.max(axis=0))
        ]
    )


def explained_figure(frame: pd.DataFrame, look: Look = LIGHT) -> go.Figure:
    """R² per student layer, one colour per student."""
    fig = go.Figure()
    for (student, own), colour in zip(
        frame.groupby("student", sort=False), (colours.ORANGE, look.blue), strict=False
    ):
        fig.add_bar(
            x=[f"L{layer}" for layer in own["layer"]],
            y=own["r2"],
            name=str(student),
            marker_color=colour,
            text=[f"{value:.2f}" for value in own["r2"]],
            hovertemplate="%{x}: R² %{y:.3f}<extra></extra>",
        )
    fig.update_xaxes(title="student layer", showgrid=False)
    fig.update_yaxes(title="R² of the best linear map", range=[0, 1.04])
    return charts.finish(fig, look, HEIGHT, barmode="group", showlegend=True)


def cuts_figure(frame: pd.DataFrame, look: Look = LIGHT) -> go.Figure:
    """Bars per way of cutting with intervals."""
    fig = go.Figure(
        go.Bar(
            x=frame["value"],
            y=frame["origin"],
            orientation="h",
            marker_color=[colours.ROLE_COLOURS[role] for role in frame["role"]],
            error_x=charts.errors(frame, "value", look, width=7),
            hovertemplate="%{y}: %{x:.3f}<extra></extra>",
        )
    )
    fig.update_xaxes(title="exact match", rangemode="tozero")
    fig.update_yaxes(autorange="reversed", showgrid=False)
    return charts.finish(fig, look, 110 + 44 * max(3, len(frame)))


def _rate(rate: object) -> dict[str, float]:
    return {"rate": rate.value, "low": rate.low, "high": rate.high}  # type: ignore[attr-defined]

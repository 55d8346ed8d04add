"""Figures of a sweep: trials across all fields, what matters, a surface, best so far, the front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nuggets import api
from nuggets.documents.colours import GREY, LIGHT, ORANGE, Look
from nuggets.sweeps.recipe import scored_on
from nuggets.ui.charts import base as charts
from nuggets.ui.charts import ink

Trials = Sequence[api.SweepTrial]


def scores_frame(sweep: api.SweepRecipe, trials: Trials) -> pd.DataFrame:
    """One row per finished trial: number, every objective with its interval."""
    rows = [
        {"trial": trial.number}
        | {
            f"{name}{end}": getattr(found, part)
            for name, found in zip(sweep.objective, trial.scores, strict=True)
            for end, part in (("", "mean"), (" low", "low"), (" high", "high"))
        }
        for trial in trials
    ]
    return pd.DataFrame(rows)


def parallel_figure(sweep: api.SweepRecipe, trials: Trials, look: Look = LIGHT) -> go.Figure:
    """A line per trial through its values and scores; drag along an axis to keep only some."""
    axes = []
    for field in sweep.space:
        axis = api.sweep_views.axis_of(sweep, trials, field)
        known = axis.places[~np.isnan(axis.places)]
        low = float(known.min(initial=0.0)) if known.size else 0.0
        missing = low - 1 if np.isnan(axis.places).any() else low  # below, where it was not active
        drawn: dict[str, Any] = {"values": np.where(np.isnan(axis.places), missing, axis.places)}
        if axis.names:
            names = [charts.shorten(name, 14) for name in axis.names]
            drawn |= {"tickvals": axis.ticks, "ticktext": names}
        elif axis.log and known.size:
            ticks = np.linspace(known.min(), known.max(), 5)
            drawn |= {"tickvals": ticks, "ticktext": [f"{10**tick:.2g}" for tick in ticks]}
        axes.append({"label": charts.shorten(field.rpartition(".")[2]), **drawn})
    frame = scores_frame(sweep, trials)
    axes += [{"label": name, "values": frame[name].tolist()} for name in sweep.objective]
    first = frame[sweep.objective[0]].to_numpy(dtype=np.float64)
    scale = [[0, GREY], [1, look.blue]]  # the best stand out on any paper
    low, high = float(first.min()), float(first.max())
    line = {"color": first.tolist(), "colorscale": scale, "showscale": False,
            "cmin": low, "cmax": high if high > low else low + 1}  # fmt: skip
    font = {"color": look.ink, "size": 14}
    fig = go.Figure(
        go.Parcoords(
            dimensions=[{**axis, "values": list(axis["values"])} for axis in axes],
            line=line,
            labelfont=font,
            tickfont={"color": look.ink, "size": 12, "shadow": "none"},
            rangefont={"color": look.muted, "size": 10, "shadow": "none"},
            unselected={"line": {"color": look.grid, "opacity": 0.4}},
        )
    )
    for place in np.linspace(0, 1, len(axes)).tolist():  # Plotly's own are black on any paper
        fig.add_shape(type="line", xref="paper", yref="paper", x0=place, x1=place, y0=0, y1=1,
                      layer="below", line={"color": look.muted, "width": 1})  # fmt: skip
    margin = {"l": 70, "r": 60, "t": 60, "b": 24}
    return charts.finish(fig, look, 420, margin=margin, uirevision="kept")


def importance_figure(
    importance: Sequence[Mapping[str, float]], names: Sequence[str], look: Look = LIGHT
) -> go.Figure:
    """A bar per field and objective."""
    fig = go.Figure()
    fields = sorted(importance[0], key=lambda field: importance[0][field])
    for name, found in zip(names, importance, strict=True):
        shown = [found.get(field, 0.0) for field in fields]
        fig.add_bar(x=shown, y=fields, orientation="h", name=name,
                    hovertemplate=f"%{{y}}: %{{x:.2f}} of {name}<extra></extra>")  # fmt: skip
    fig.update_xaxes(title="importance (PED-ANOVA)", rangemode="tozero")
    fig.update_yaxes(showgrid=False)
    return charts.finish(fig, look, 110 + 40 * max(3, len(fields)))


def best_frame(sweep: api.SweepRecipe, trials: Trials) -> pd.DataFrame:
    """After each trial the best one until then, and the trial itself."""
    rows = api.sweep_views.best_so_far(sweep, trials)
    frame = pd.DataFrame(rows, columns=["step", "best", "low", "high"])
    return frame.assign(own=scores_frame(sweep, trials)[sweep.objective[0]])


def best_figure(frame: pd.DataFrame, objective: str, look: Look = LIGHT) -> go.Figure:
    """The best trial until each one, with its interval as a band, and every trial as a dot."""
    fig = go.Figure()
    charts.add_line(fig, frame, "best", "best so far", look.blue, mode="lines",
                    hovertemplate="until trial %{x}: %{y:.3f}<extra></extra>")  # fmt: skip
    fig.add_scatter(
        x=frame["step"], y=frame["own"], mode="markers", name="each trial",
        marker={"size": 9, "color": ORANGE, "line": {"color": look.paper, "width": 1}},
        hovertemplate="trial %{x}: %{y:.3f}<extra></extra>",
    )  # fmt: skip
    fig.update_xaxes(title="trial", showgrid=False)
    fig.update_yaxes(title=f"{objective} on {scored_on(objective)}")
    return charts.finish(fig, look, 400, hovermode="closest")


def surface_frame(sweep: api.SweepRecipe, trials: Trials, x: str, y: str, objective: int) -> Any:
    """One row per cell with trials in it, and the surface itself."""
    found = api.sweep_views.surface(sweep, trials, x, y, objective)
    rows = [
        {x: column, y: row, "mean": found.mean[i, j], "low": found.low[i, j],
         "high": found.high[i, j], "trials": int(found.n[i, j])}
        for i, row in enumerate(found.y)
        for j, column in enumerate(found.x)
        if found.n[i, j]
    ]  # fmt: skip
    return pd.DataFrame(rows), found


def surface_figure(found: Any, x: str, y: str, objective: str, look: Look = LIGHT) -> go.Figure:
    """An objective over two fields: mean and interval in each cell where trials are."""
    text = np.full(found.mean.shape, "", dtype=object)
    for i, j in np.argwhere(found.n > 0):
        n = "" if found.n[i, j] == 1 else f"<br>{int(found.n[i, j])} trials"
        bounds = f"[{found.low[i, j]:z.2f}, {found.high[i, j]:z.2f}]"
        text[i, j] = f"{found.mean[i, j]:z.2f}<br>{bounds}{n}"
    known = found.mean[np.isfinite(found.mean)]
    signed = objective == "difference"
    axis = charts.colour_axis(known, signed, objective, least=0.05)
    fig = go.Figure()
    places: dict[str, Any] = {"x": np.arange(len(found.x)), "y": np.arange(len(found.y))}
    ink.add_cells(fig, found.mean, text, axis, "%{text}<extra></extra>", **places)
    for update, names, title in ((fig.update_xaxes, found.x, x), (fig.update_yaxes, found.y, y)):
        words = list(charts.labels(names, 18).values())
        update(tickvals=np.arange(len(names)), ticktext=words, title=title, showgrid=False)
    return charts.finish(fig, look, 120 + 68 * max(3, len(found.y)))


def front_figure(
    sweep: api.SweepRecipe, trials: Trials, front: Trials, look: Look = LIGHT
) -> go.Figure:
    """Two objectives of every trial; intervals on those that no other beats in both."""
    fig = go.Figure()
    best = {trial.number for trial in front}
    x, y = sweep.objective
    for name, colour, own in (
        ("other trials", GREY, [trial for trial in trials if trial.number not in best]),
        ("Pareto front", look.blue, sorted(front, key=lambda t: t.scores[0].mean)),
    ):
        if not own:
            continue
        frame = scores_frame(sweep, own)
        bars = {}
        if colour != GREY:
            ends = [frame.rename(columns={f"{o} low": "low", f"{o} high": "high"}) for o in (x, y)]
            bars = {
                f"error_{axis}": charts.errors(end, o, look)
                for axis, o, end in zip("xy", (x, y), ends, strict=True)
            }
        fig.add_scatter(
            x=frame[x], y=frame[y], mode="markers" if colour == GREY else "lines+markers",
            name=name, customdata=frame["trial"], line={"color": colour, "shape": "hv"},
            marker={"size": 10, "color": colour},
            hovertemplate="trial %{customdata}: %{x:.3f}, %{y:.3f}<extra></extra>", **bars,
        )  # fmt: skip
    fig.update_xaxes(title=x)
    fig.update_yaxes(title=y)
    return charts.finish(fig, look, 440, hovermode="closest")

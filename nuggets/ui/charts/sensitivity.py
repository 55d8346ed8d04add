"""Figures of the Sensitivity page below the map: one matrix, layers, neurons, heads, tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy import ndarray
from plotly.subplots import make_subplots

from nuggets.documents import colours
from nuggets.documents.colours import LIGHT, Look
from nuggets.ui.charts import base as charts
from nuggets.ui.charts import ink
from nuggets.views.matrices import Binned, Overlap, Placed, profile
from nuggets.views.sensitivity import Values
from nuggets.views.stability import LayerStability

MATRIX_HEIGHT = 440
"""As the map of a model of few layers beside it."""
FAINT = 0.02
"""Share of blocks that may all be drawn in the darkest colour: a few zeros must not take the
whole logarithmic scale."""


def matrix_frame(binned: Binned, which: str) -> pd.DataFrame:
    """One row per block: where it starts and its value."""
    values = binned.max if which == "max" else binned.mean
    rows, cols = np.meshgrid(binned.rows[:-1], binned.cols[:-1], indexing="ij")
    return pd.DataFrame({"row": rows.ravel(), "col": cols.ravel(), which: values.ravel()})


def matrix_figure(
    binned: Binned,
    which: str,
    windows: Sequence[Placed],
    profiles: tuple[tuple[ndarray, ndarray], tuple[ndarray, ndarray]],
    axes: tuple[str, str],
    *,
    log: bool = True,
    signed: bool = False,
    look: Look = LIGHT,
) -> go.Figure:
    """One matrix in blocks, with chosen and runner-up window, row and column profiles beside it.

    Args:
        binned: from `views.bin_matrix`.
        which: `mean` or `max` of each block.
        windows: the chosen one, then the runner-up if there is one.
        profiles: positions and means of rows, and of columns.
        axes: what rows and columns are.
        log: colours by decades; only for values without a sign.
        signed: the values are differences of shares: linear, centred on 0.
        look: light or dark.
    """
    log = log and not signed
    fig = make_subplots(
        2, 2, shared_xaxes=True, shared_yaxes=True, column_widths=[0.86, 0.14],
        row_heights=[0.16, 0.84], horizontal_spacing=0.012, vertical_spacing=0.018,
    )  # fmt: skip
    values = binned.max if which == "max" else binned.mean
    z = charts.logarithm(values) if log else values
    hover = f"{axes[0]} %{{y}}<br>{axes[1]} %{{x}}<br>{which} %{{customdata:.3g}}<extra></extra>"
    fig.add_heatmap(
        z=z.astype(np.float32),  # half the bytes to send; seven digits are more than is seen
        x=binned.cols,
        y=binned.rows,
        customdata=values.astype(np.float32),
        coloraxis="coloraxis",
        hovertemplate=hover,
        row=2,
        col=1,
    )
    strokes = (("chosen", colours.ORANGE, "solid"), ("runner-up", colours.SKY, "dash"))
    for window, stroke in reversed(list(zip(windows, strokes, strict=False))):
        _add_window(fig, window, *stroke)
    _add_profiles(fig, profiles, look.blue)
    seen = np.maximum(z, np.nanquantile(z, FAINT)) if log else z
    title = f"{which} per block" + (", A − B as shares of the matrix" if signed else "")
    fig.update_layout(coloraxis=charts.colour_axis([seen], signed, title, log=log, below=True))
    # A plot that has nothing to select reports no boxes.
    middle = [binned.cols[[0, -1]].mean()], [binned.rows[[0, -1]].mean()]
    ink.add_targets(fig, *middle, 22, hoverinfo="none", xaxis="x3", yaxis="y3")
    down, across = binned.rows[[-1, 0]].tolist(), binned.cols[[0, -1]].tolist()
    fig.update_yaxes(title=axes[0], range=down, row=2, col=1)
    fig.update_yaxes(range=down, row=2, col=2)
    fig.update_xaxes(title=axes[1], range=across, row=2, col=1)
    return charts.finish(fig, look, MATRIX_HEIGHT, dragmode="select", legend_traceorder="reversed")


def _add_profiles(
    fig: go.Figure, profiles: tuple[tuple[ndarray, ndarray], tuple[ndarray, ndarray]], colour: str
) -> None:
    """Adds the sums of rows on the right and of columns above."""
    (row_at, rows), (col_at, cols) = profiles
    style = {"mode": "lines", "line": {"color": colour, "width": 1.5}, "showlegend": False}
    fig.add_scatter(x=col_at + 0.5, y=cols, fill="tozeroy", name="columns", row=1, col=1, **style)
    fig.add_scatter(x=rows, y=row_at + 0.5, fill="tozerox", name="rows", row=2, col=2, **style)
    fig.update_xaxes(showticklabels=False, rangemode="tozero", row=2, col=2)
    fig.update_yaxes(showticklabels=False, rangemode="tozero", row=1, col=1)


def sums_frame(rows: ndarray, cols: ndarray, axes: tuple[str, str]) -> pd.DataFrame:
    """Every row's and column's sum over the matrix."""
    named = ((f"rows: {axes[0]}", rows), (f"columns: {axes[1]}", cols))
    parts = [pd.DataFrame({"axis": name, "at": range(len(v)), "sum": v}) for name, v in named]
    return pd.concat(parts, ignore_index=True)


def sums_figure(frame: pd.DataFrame, look: Look = LIGHT) -> go.Figure:
    """Row and column sums of a matrix of which not every entry was kept, each in strips."""
    names = list(dict.fromkeys(frame["axis"]))
    fig = make_subplots(len(names), 1, subplot_titles=names, vertical_spacing=0.24)
    for row, name in enumerate(names, 1):
        at, means = profile(frame.loc[frame["axis"] == name, "sum"].to_numpy())
        fig.add_scatter(
            x=at,
            y=means,
            mode="lines",
            fill="tozeroy",
            line={"color": look.blue, "width": 1.5},
            name=name,
            showlegend=False,
            hovertemplate="%{x:.0f}: %{y:.3g}<extra></extra>",
            row=row,
            col=1,
        )
    fig.update_yaxes(rangemode="tozero", title="sum", exponentformat="e")
    return charts.finish(fig, look, MATRIX_HEIGHT)


def _add_window(fig: go.Figure, window: Placed, name: str, colour: str, dash: str) -> None:
    """Draws a window in colour on black, which stands out from the whole scale."""
    right, bottom = window.col + window.width, window.row + window.height
    for stroke, width, style in (("#000000", 6, "solid"), (colour, 3, dash)):
        fig.add_scatter(
            x=[window.col, right, right, window.col, window.col],
            y=[window.row, window.row, bottom, bottom, window.row],
            mode="lines",
            line={"color": stroke, "width": width, "dash": style},
            name=f"{name}: holds {100 * window.share:.1f} %",  # short: the toolbar is beside it
            showlegend=stroke == colour,
            hoverinfo="skip",
            row=2,
            col=1,
        )


def layers_frame(values: Values, stability: LayerStability) -> pd.DataFrame:
    """One row per layer: its share with interval, whether it is chosen and how often."""
    return pd.DataFrame(
        {
            "layer": np.arange(len(values.mean)),
            "share": values.mean,
            "low": values.low,
            "high": values.high,
            "chosen": stability.chosen,
            "chosen_again": stability.frequency,
        }
    )


def layers_figure(frame: pd.DataFrame, look: Look = LIGHT) -> go.Figure:
    """Share of each layer with its interval, and how often it would be chosen again."""
    fig = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.1)
    y = [f"L{layer}" for layer in frame["layer"]]
    fills = [colours.ORANGE if chosen else colours.GREY for chosen in frame["chosen"]]
    fig.add_bar(
        x=frame["share"],
        y=y,
        orientation="h",
        marker_color=fills,
        error_x=charts.errors(frame, "share", look),
        hovertemplate="%{y}: %{x:.1%}<extra></extra>",
        row=1,
        col=1,
    )
    again = frame["chosen_again"]
    fig.add_bar(
        x=again,
        y=y,
        orientation="h",
        marker_color=fills,
        text=[f"{100 * share:.0f} %" for share in again],
        textposition="auto",
        constraintext="none",
        textfont={"size": 13},
        insidetextfont={"color": [ink.ink_on(colour) for colour in fills]},
        outsidetextfont={"color": look.ink},
        hovertemplate="%{y}: %{x:.1%}<extra></extra>",
        row=1,
        col=2,
    )
    fig.update_yaxes(autorange="reversed", showgrid=False)
    fig.update_xaxes(title="share of all layers", tickformat=".0%", nticks=4, row=1, col=1)
    fig.update_xaxes(
        title="chosen again", tickformat=".0%", range=[0, 1.05], dtick=0.5, row=1, col=2
    )
    return charts.finish(fig, look, 110 + max(4, len(frame)) * 26, showlegend=False)


def units_frame(
    top: Sequence[tuple[int, int, float]], unit: str, others: set[tuple[int, int]] | None = None
) -> pd.DataFrame:
    """One row per neuron or head, most sensitive first; `in_both` where another task has it too."""
    frame = pd.DataFrame(
        {
            "unit": [f"L{layer} {unit} {index}" for layer, index, _ in top],
            "layer": [layer for layer, _, _ in top],
            "index": [index for _, index, _ in top],
            "share": [share for _, _, share in top],
        }
    )
    if others is not None:
        frame["in_both"] = [(layer, index) in others for layer, index, _ in top]
    return frame


def units_figure(frame: pd.DataFrame, look: Look = LIGHT) -> go.Figure:
    """The most sensitive neurons or heads as bars; orange where another task has them too."""
    alone = look.blue
    both = frame["in_both"] if "in_both" in frame else [False] * len(frame)
    fig = go.Figure(
        go.Bar(
            x=frame["share"],
            y=frame["unit"],
            orientation="h",
            marker_color=[colours.ORANGE if shared else alone for shared in both],
            hovertemplate="%{y}: %{x:.2%}<extra></extra>",
        )
    )
    fig.update_yaxes(autorange="reversed", showgrid=False)
    fig.update_xaxes(title="share of the sum over all of them", tickformat=".2~%")
    return charts.finish(fig, look, 90 + 24 * max(4, len(frame)))


def overlap_frame(found: Sequence[Sequence[Overlap]], tasks: Sequence[str]) -> pd.DataFrame:
    """One row per task: the share of its top units that each task has too."""
    shares = [[cell.share for cell in row] for row in found]
    frame = pd.DataFrame(shares, columns=list(tasks))
    frame.insert(0, "task", list(tasks), allow_duplicates=True)
    return frame


def overlap_figure(frame: pd.DataFrame, look: Look = LIGHT) -> go.Figure:
    """How much of the top units every two tasks have in common; the diagonal is left empty."""
    tasks = list(frame["task"])
    shares = frame.drop(columns="task").to_numpy(float)
    shares = np.where(np.eye(len(tasks), dtype=bool), np.nan, shares)
    names = list(charts.labels(tasks, 14).values())
    axis = charts.colour_axis([shares, np.array([0.0])], False, "in common", percent=True)
    text = [["" if np.isnan(share) else f"{share:.0%}" for share in row] for row in shares]
    fig = go.Figure()
    hover = "%{y} and %{x}: %{z:.1%}<extra></extra>"
    ink.add_cells(fig, shares, text, axis, hover, x=names, y=names)
    fig.update_yaxes(autorange="reversed", showgrid=False)
    fig.update_xaxes(showgrid=False, side="bottom")
    return charts.finish(fig, look, 120 + 38 * max(4, len(tasks)))


def samples_figure(frame: pd.DataFrame, look: Look = LIGHT) -> go.Figure:
    """Share of the chosen layers that fewer seed samples choose too."""
    fig = go.Figure(
        go.Scatter(
            x=frame["samples"],
            y=frame["same_layers"],
            mode="lines+markers",
            line={"color": look.blue, "width": 2.5},
            hovertemplate="%{x} samples: %{y:.1%}<extra></extra>",
        )
    )
    fig.update_xaxes(title="seed samples", showgrid=False)
    fig.update_yaxes(title="same layers chosen", tickformat=".0%", range=[0, 1.04])
    return charts.finish(fig, look, 280)

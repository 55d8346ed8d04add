"""Figures of the Alignment page: teacher × student matrices, layer maps, residual agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from numpy import ndarray

from nuggets.ui import charts
from nuggets.ui.charts import LIGHT, Look

Pairs = Sequence[tuple[int, int]]
"""`(student layer, teacher layer)` each."""
Maps = Mapping[str, Pairs]

_MARKS = ("circle", "square", "diamond", "x", "triangle-up")
_LABELS_UP_TO = 14


def similarity_frame(matrix: Float[ndarray, "n_teacher n_student"], name: str) -> pd.DataFrame:
    """One row per pair of layers."""
    teacher, student = np.indices(matrix.shape)
    return pd.DataFrame(
        {"teacher_layer": teacher.ravel(), "student_layer": student.ravel(), name: matrix.ravel()}
    )


def similarity_figure(
    matrix: Float[ndarray, "n_teacher n_student"],
    name: str,
    maps: Maps | None = None,
    *,
    bounds: tuple[float, float] | None = None,
    student_labels: Sequence[str] = (),
    teacher_labels: Sequence[str] = (),
    look: Look = LIGHT,
) -> go.Figure:
    """Teacher layers (down) by student layers (across), with layer maps drawn over it.

    Args:
        matrix: one value per pair of layers.
        name: of the values, for the colour scale.
        maps: layer maps by name, as pairs (student, teacher).
        bounds: of the colours; a lower bound below 0 makes the scale zero-centred.
        student_labels: columns; layers when not given.
        teacher_labels: rows; layers when not given.
        look: light or dark.
    """
    rows, cols = matrix.shape
    fig = go.Figure()
    fig.add_heatmap(
        z=matrix,
        x=np.arange(cols),
        y=np.arange(rows),
        coloraxis="coloraxis",
        texttemplate="%{z:.2f}" if max(rows, cols) <= _LABELS_UP_TO else None,
        hovertemplate=f"teacher %{{y}}, student %{{x}}<br>{name} %{{z:.3f}}<extra></extra>",
        hoverongaps=False,
        xgap=2,
        ygap=2,
    )
    for index, (label, pairs) in enumerate((maps or {}).items()):
        _add_map(fig, label, pairs, index, len(maps or {}))
    signed = bounds[0] < 0 if bounds else bool(np.nanmin(matrix, initial=0) < 0)
    axis = charts.colour_axis([matrix], signed, name)
    if bounds:
        axis |= {"cmin": bounds[0], "cmax": bounds[1]}
    fig.update_layout(coloraxis=axis)
    _label_layers(fig, "x", cols, "student layer", student_labels)
    _label_layers(fig, "y", rows, "teacher layer", teacher_labels)
    return charts.finish(fig, look, 130 + max(4, rows) * (44 if rows <= _LABELS_UP_TO else 15))


def _label_layers(fig: go.Figure, axis: str, n: int, title: str, labels: Sequence[str]) -> None:
    places = list(range(0, n, 1 if n <= 24 else 4))
    text = [labels[i] if labels else f"L{i}" for i in places]
    update = fig.update_xaxes if axis == "x" else fig.update_yaxes
    around = [-0.5, n - 0.5] if axis == "x" else [n - 0.5, -0.5]
    update(title=title, tickvals=places, ticktext=text, range=around, showgrid=False)


def _add_map(fig: go.Figure, label: str, pairs: Pairs, index: int, count: int) -> None:
    """Draws a layer map; several maps sit side by side inside a cell."""
    shift = 0.0 if count < 2 else 0.5 * (index / (count - 1) - 0.5)
    colour = (charts.ORANGE, charts.SKY, charts.PURPLE, charts.GREEN)[index % 4]
    fig.add_scatter(
        x=[student + shift for student, _ in pairs],
        y=[teacher + 0.32 for _, teacher in pairs],
        mode="lines+markers",
        name=charts.shorten(label),
        line={"color": charts.fade(colour, 0.6), "width": 2},
        marker={
            "size": 12,
            "color": colour,
            "symbol": _MARKS[index % len(_MARKS)],
            "line": {"color": "#ffffff", "width": 1.5},
        },
        hovertemplate=f"{charts.shorten(label)}<extra></extra>",
    )


def explained_frame(r2: Float[ndarray, "n_teacher n_student"]) -> pd.DataFrame:
    """One row per student layer: the teacher layer that explains it best, and how much."""
    best = r2.argmax(axis=0)
    return pd.DataFrame(
        {
            "student_layer": np.arange(r2.shape[1]),
            "best_teacher_layer": best,
            "r2": r2[best, np.arange(r2.shape[1])],
        }
    )


def explained_figure(frame: pd.DataFrame, look: Look = LIGHT) -> go.Figure:
    """How much of each student layer a linear map from the best teacher layer explains.

    Args:
        frame: from `explained_frame`.
        look: light or dark.
    """
    fig = go.Figure(
        go.Bar(
            x=[f"L{layer}" for layer in frame["student_layer"]],
            y=frame["r2"],
            marker_color=charts.SKY if look.dark else charts.BLUE,
            text=[
                f"{value:.2f}<br>from L{layer}"
                for value, layer in zip(frame["r2"], frame["best_teacher_layer"], strict=True)
            ],
            textangle=0,
            textposition="auto",
            hovertemplate="student %{x}: R² %{y:.3f}<extra></extra>",
        )
    )
    fig.update_xaxes(title="student layer", showgrid=False)
    fig.update_yaxes(title="R²", rangemode="tozero")
    return charts.finish(fig, look, 320)


def agreement_figure(frame: pd.DataFrame, look: Look = LIGHT) -> go.Figure:
    """Residual agreement of neighbouring matrices beside the sensitivity kept, per selector.

    Args:
        frame: columns `selector`, `agreement`, `kept`; values that do not exist are NaN.
        look: light or dark.
    """
    fig = go.Figure()
    names = [charts.plain_name(name) for name in frame["selector"]]
    for column, title, colour in (
        ("agreement", "same residual dimensions", charts.SKY if look.dark else charts.BLUE),
        ("kept", "sensitivity kept", charts.ORANGE),
    ):
        fig.add_bar(
            x=frame[column],
            y=names,
            orientation="h",
            name=title,
            marker_color=colour,
            text=["" if np.isnan(v) else f"{100 * v:.0f} %" for v in frame[column]],
            textposition="auto",
            constraintext="none",
            textfont={"size": 13},
            hovertemplate=f"%{{y}}: {title} %{{x:.1%}}<extra></extra>",
        )
    fig.update_xaxes(range=[0, 1.06], tickformat=".0%", dtick=0.25)
    fig.update_yaxes(autorange="reversed", showgrid=False)
    return charts.finish(fig, look, 110 + 56 * max(3, len(frame)), barmode="group")

"""Figures of the Alignment page: teacher × student matrices, layer maps, residual agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from numpy import ndarray

from nuggets.documents import colours
from nuggets.documents.colours import LIGHT, Look
from nuggets.ui.charts import base as charts
from nuggets.ui.charts import ink

Pairs = Sequence[tuple[int, int]]
"""`(student layer, teacher layer)` each."""
Maps = Mapping[str, Pairs]

BY_HAND = "by hand"
_STYLES = {
    "sensitivity": (colours.ORANGE, "circle", 12),
    "uniform": (colours.SKY, "square", 12),
    "cka": (colours.PURPLE, "diamond", 13),
    BY_HAND: (colours.VERMILION, "star", 19),
}
"""Colour, mark and size of every layer map."""
_LABELS_UP_TO = 14
_SVG_UP_TO = 64 * 64
"""Cells up to which what can be clicked is drawn as SVG, beyond by the graphics card."""


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
    look: Look = LIGHT,
) -> go.Figure:
    """Teacher layers (down) by student layers (across), with layer maps drawn over it.

    A click anywhere reports the nearest cell as `customdata`: `[student layer, teacher layer]`.

    Args:
        matrix: one value per pair of layers.
        name: of the values, for the colour scale.
        maps: layer maps by name, as pairs (student, teacher).
        bounds: of the colours; a lower bound below 0 makes the scale zero-centred.
        look: light or dark.
    """
    rows, cols = matrix.shape
    signed = bounds[0] < 0 if bounds else bool(np.nanmin(matrix, initial=0) < 0)
    axis = charts.colour_axis([matrix], signed, name)
    if bounds:
        axis |= {"cmin": bounds[0], "cmax": bounds[1]}
    fig = go.Figure()
    text = [[f"{value:z.2f}".replace("-", "−") for value in row] for row in matrix]
    text = text if max(rows, cols) <= _LABELS_UP_TO else None
    ink.add_cells(fig, matrix, text, axis, x=np.arange(cols), y=np.arange(rows))
    for index, (label, pairs) in enumerate((maps or {}).items()):
        _add_map(fig, label, pairs, index, len(maps or {}))
    _add_targets(fig, matrix, name, maps or {})
    # No limit to the distance: the nearest centre is that of the cell under the mouse.
    fig.update_layout(hovermode="closest", hoverdistance=-1, clickmode="event+select")
    _label_layers(fig, "x", cols, "student layer")
    _label_layers(fig, "y", rows, "teacher layer")
    return charts.finish(fig, look, 130 + max(4, rows) * (44 if rows <= _LABELS_UP_TO else 15))


def _label_layers(fig: go.Figure, axis: str, n: int, title: str) -> None:
    places = list(range(0, n, 1 if n <= 24 else 4))
    update = fig.update_xaxes if axis == "x" else fig.update_yaxes
    around = [-0.5, n - 0.5] if axis == "x" else [n - 0.5, -0.5]
    text = [f"L{i}" for i in places]
    update(title=title, tickvals=places, ticktext=text, range=around, showgrid=False)


def _add_map(fig: go.Figure, label: str, pairs: Pairs, index: int, count: int) -> None:
    """Marks a layer map below the numbers, side by side with others; a line would cross them."""
    shift = 0.0 if count < 2 else 0.56 * (index / (count - 1) - 0.5)
    colour, mark, size = _STYLES[label]
    fig.add_scatter(
        x=[student + shift for student, _ in pairs],
        y=[teacher + 0.32 for _, teacher in pairs],
        mode="markers",
        name=label,
        marker={
            "size": size,
            "color": colour,
            "symbol": mark,
            "line": {"color": "#ffffff", "width": 1.5},
        },
        hoverinfo="skip",
    )


def _add_targets(fig: go.Figure, matrix: ndarray, name: str, maps: Maps) -> None:
    """Adds what can be clicked and hovered."""
    here: dict[tuple[int, int], list[str]] = {}
    for label, pairs in maps.items():
        for student, teacher in pairs:
            here.setdefault((student, teacher), []).append(label)
    cells = [(s, t) for t in range(matrix.shape[0]) for s in range(matrix.shape[1])]
    hover = [
        f"teacher L{t}, student L{s}<br>{name} {matrix[t, s]:.3f}"
        + (f"<br>chosen by {' and '.join(here[s, t])}" if (s, t) in here else "")
        for s, t in cells
    ]
    x, y = [s for s, _ in cells], [t for _, t in cells]
    gl = len(cells) > _SVG_UP_TO
    ink.add_targets(fig, x, y, 10, gl=gl, customdata=[*map(list, cells)], hovertext=hover)


def maps_frame(maps: Maps, matrix: Float[ndarray, "n_teacher n_student"]) -> pd.DataFrame:
    """One row per layer map: its teacher layers, and the mean of the measure along it."""
    return pd.DataFrame(
        {
            "layer_map": list(maps),
            "teacher_layers": [", ".join(str(t) for _, t in pairs) for pairs in maps.values()],
            "mean": [float(np.mean([matrix[t, s] for s, t in pairs])) for pairs in maps.values()],
        }
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
    """How much of each student layer a linear map from the best teacher layer explains."""
    colour = look.blue
    fig = go.Figure(
        go.Bar(
            x=[f"L{layer}" for layer in frame["student_layer"]],
            y=frame["r2"],
            marker_color=colour,
            text=[
                f"{value:.2f}<br>from L{layer}"
                for value, layer in zip(frame["r2"], frame["best_teacher_layer"], strict=True)
            ],
            textangle=0,
            textposition="auto",
            insidetextfont={"color": ink.ink_on(colour)},
            outsidetextfont={"color": look.ink},
            hovertemplate="student %{x}: R² %{y:.3f}<extra></extra>",
        )
    )
    fig.update_xaxes(title="student layer", showgrid=False)
    fig.update_yaxes(title="R²", rangemode="tozero")
    return charts.finish(fig, look, 320)


def words_frame(models: Mapping[str, Sequence[Mapping[str, float]]]) -> pd.DataFrame:
    """One row per model and number of blocks, from the intervals of a `Readability`."""
    rows = [
        {"model": model, "blocks": blocks, "accuracy": own["mean"], "low": own["low"],
         "high": own["high"]}
        for model, layers in models.items()
        for blocks, own in enumerate(layers)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def words_figure(frame: pd.DataFrame, chance: float, look: Look = LIGHT) -> go.Figure:
    """What a probe of single words reads after every block, teacher and student."""
    fig = go.Figure()
    for (model, own), colour in zip(
        frame.groupby("model", sort=False), (look.blue, colours.ORANGE), strict=False
    ):
        charts.add_line(fig, own.rename(columns={"blocks": "step"}), "accuracy", str(model), colour,
                        mode="lines+markers")  # fmt: skip
    fig.add_hline(y=chance, line={"dash": "dot", "color": look.ink, "width": 1.5})
    fig.update_xaxes(title="blocks that the word went through (0: its embedding)", dtick=1)
    fig.update_yaxes(title="probe's accuracy", range=[0, 1])
    return charts.finish(fig, look, 320)


def agreement_figure(frame: pd.DataFrame, look: Look = LIGHT) -> go.Figure:
    """Residual agreement of neighbours with what chance gives, beside the sensitivity kept.

    Args:
        frame: columns `selector`, `agreement`, `chance`, `kept`; what does not exist is NaN.
        look: light or dark.
    """
    fig = go.Figure()
    names = [charts.plain_name(name) for name in frame["selector"]]
    for column, title, colour in (
        (
            "agreement",
            "dimensions shared by adjacent matrices",
            look.blue,
        ),
        ("kept", "sensitivity kept", colours.ORANGE),
    ):
        fig.add_bar(
            x=frame[column],
            y=names,
            orientation="h",
            name=title,
            marker_color=colour,
            text=["" if np.isnan(v) else f"{100 * v:.0f} %" for v in frame[column]],
            textposition="inside",
            insidetextanchor="start",
            constraintext="none",
            textfont={"size": 13, "color": ink.ink_on(colour)},
            offsetgroup=column,
            hovertemplate=f"%{{y}}: {title} %{{x:.1%}}<extra></extra>",
        )
    fig.add_scatter(
        x=frame["chance"],
        y=names,
        mode="markers",
        name="shared by chance",
        marker={"symbol": "line-ns", "size": 22, "line": {"width": 3, "color": look.ink}},
        offsetgroup="agreement",
        hovertemplate="%{y}: shared by chance %{x:.1%}<extra></extra>",
    )
    fig.update_xaxes(range=[0, 1.06], tickformat=".0%", dtick=0.25)
    fig.update_yaxes(autorange="reversed", showgrid=False)
    return charts.finish(
        fig, look, 130 + 56 * max(3, len(frame)), barmode="group", scattermode="group"
    )

"""The model at a glance: layers by modules, with embedding and head, every cell clickable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy import ndarray

from nuggets.documents.colours import LIGHT, Look
from nuggets.models.architecture import ATTENTION, FFN, LAYER_ROLES, ArchSpec
from nuggets.ui.charts import base as charts
from nuggets.ui.charts import ink
from nuggets.views.sensitivity import Mode, Values

TITLES: dict[Mode, str] = {
    "distinctive": "log₂ of share ÷ mean share",
    "share": "share of the total",
    "per_parameter": "sensitivity per parameter",
    "absolute": "summed sensitivity",
}


class Shown(NamedTuple):
    """How the values are to be read.

    Attributes:
        title: of the colour scale and in the hover text.
        unit: `share` is written in percent, `ratio` is a log₂ already, `plain` neither.
        signed: the scale is centred on 0.
        log: colours by decades; only for values without a sign.
    """

    title: str
    unit: Literal["share", "ratio", "plain"]
    signed: bool
    log: bool

    @classmethod
    def of(cls, mode: Mode, log: bool = False, difference: str = "") -> Shown:
        """The reading of a mode, or of a difference such as `add − sub` in that mode."""
        ratio = mode == "distinctive" or bool(difference and log)
        title = TITLES[mode]
        if difference:
            title = f"{difference}, {'log₂ ratio' if ratio else TITLES[mode]}"
        unit = "ratio" if ratio else "share" if mode == "share" else "plain"
        signed = ratio or bool(difference)
        return cls(title, unit, signed, log and not signed)

    def write(self, value: float) -> str:
        """A value as people read it, three digits or so."""
        if not np.isfinite(value):
            return "–"
        sign = "+" if self.signed else ""
        text = {"share": f"{100 * value:{sign}z.1f} %", "ratio": f"{value:+z.2f}"}.get(
            self.unit, f"{value:{sign}.2g}"
        )
        return text.replace("-", "−")


Cell = Mapping[Any, Any]
"""A row of `map_frame`, with what is drawn as `z`."""

LEAST_RATIO = 0.5
"""Smallest half-width of a scale of log₂ ratios: below a factor of 1.4 colours stay pale."""
_APART = 0.35
"""Space between the layers and the bars of embedding and head, in rows."""
_GROUPS_APART = 0.45
"""Space between attention and FFN, in columns."""
_LABELS_UP_TO = 14
"""Layers up to which every cell carries its value."""


def matrix_name(spec: ArchSpec, role: str, layer: int | None) -> str:
    """What people call a matrix: `L12.mlp.up_proj`, `embed_tokens`, `lm_head`."""
    if layer is None:
        return spec.module(role).rsplit(".", 1)[-1]
    suffix = next(m.suffix for m in spec.architecture.matrices if m.role == role)
    return f"L{layer}.{suffix}"


def map_frame(spec: ArchSpec, values: Values, totals: ndarray) -> pd.DataFrame:
    """One row per matrix: where it is, the value shown with its interval, the raw sum.

    Args:
        spec: dimensions of the model.
        values: what is shown, in the order of `spec.modules()`.
        totals: summed sensitivity, in the same order.
    """
    places = list(spec.modules())
    return pd.DataFrame(
        {
            "module": [module for module, _, _ in places],
            "name": [matrix_name(spec, role, layer) for _, role, layer in places],
            "role": [role for _, role, _ in places],
            "layer": pd.array([layer for _, _, layer in places], dtype="Int64"),
            "value": values.mean,
            "low": values.low,
            "high": values.high,
            "summed_sensitivity": totals,
        }
    )


def map_figure(
    frame: pd.DataFrame,
    shown: Shown,
    compare: Sequence[ndarray] = (),
    look: Look = LIGHT,
    damage: Sequence[tuple[float, str]] | None = None,
    chosen: str | None = None,
) -> go.Figure:
    """Layers (down) by modules (across); embedding above, head below, attention and FFN apart.

    Args:
        frame: from `map_frame`.
        shown: how its values are to be read.
        compare: values of further views that must share the colour scale.
        look: light or dark.
        damage: per layer what skipping it does, with its hover text: a column of its own.
        chosen: name of the matrix that is outlined.
    """
    scale = charts.logarithm if shown.log else np.asarray
    cells = frame.assign(z=scale(frame["value"].to_numpy(float))).to_dict("records")
    axis = charts.colour_axis(
        [scale(np.asarray(values, float)) for values in (frame["value"], *compare)],
        shown.signed,
        shown.title,
        log=shown.log,
        percent=shown.unit == "share",
        least=LEAST_RATIO if shown.unit == "ratio" else 0.0,
        below=True,
    )
    layers = [int(cell["layer"]) for cell in cells if cell["role"] in LAYER_ROLES]
    grid = _Grid(cells, _columns(cell["role"] for cell in cells), 1 + max(layers), shown)
    fig = go.Figure()
    for group in (ATTENTION, FFN):
        if across := {role: x for role, x in grid.columns.items() if role in group}:
            _add_block(fig, grid, across, axis)
    _add_bars(fig, grid, axis)
    _add_targets(fig, grid)
    fig.update_layout(coloraxis=axis, hovermode="closest", hoverdistance=40)
    fig.update_layout(clickmode="event+select")
    _label_axes(fig, grid, look)
    if damage is not None:
        _add_damage(fig, grid, damage, look)
    _outline(fig, grid, chosen, look)
    return charts.finish(fig, look, map_height(grid.n_layers))


def _outline(fig: go.Figure, grid: _Grid, name: str | None, look: Look) -> None:
    """Draws a frame around a cell, in ink and paper, which stands out from every colour."""
    for cell in (cell for cell in grid.cells if cell["name"] == name):
        x = grid.columns.get(cell["role"])
        left, right = grid.edges if x is None else (x - 0.5, x + 0.5)
        y = float(grid.ends.get(cell["role"]) or cell["layer"])
        for colour, width in ((look.paper, 6), (look.ink, 3)):
            fig.add_shape(x0=left, x1=right, y0=y - 0.5, y1=y + 0.5,
                          line={"color": colour, "width": width})  # fmt: skip


def _add_damage(
    fig: go.Figure, grid: _Grid, damage: Sequence[tuple[float, str]], look: Look
) -> None:
    """Adds a column of measured damage, from 0 to 1 on a scale of its own."""
    place = max(grid.columns.values()) + 1 + _GROUPS_APART
    z = np.array([[value] for value, _ in damage])
    text = None if grid.n_layers > _LABELS_UP_TO else [[f"{value:z.2f}"] for value, _ in damage]
    axis = {"cmin": 0, "cmax": 1, "colorscale": "Oranges", "showscale": False}
    told = [[words] for _, words in damage]
    ink.add_cells(fig, z, text, axis, "%{customdata}<extra></extra>", "coloraxis2",
                  x=[place], y=np.arange(grid.n_layers), customdata=told)  # fmt: skip
    fig.update_xaxes(
        tickvals=[*grid.columns.values(), place],
        ticktext=[*grid.columns, "damage"],
        range=[grid.edges[0], place + 0.5],
    )
    fig.add_annotation(text="skipped", x=place, y=1, yref="paper", yshift=46, showarrow=False,
                       font={"color": look.muted, "size": 14})  # fmt: skip


class _Grid(NamedTuple):
    """What is drawn, and where."""

    cells: Sequence[Cell]
    columns: Mapping[str, float]
    n_layers: int
    shown: Shown

    @property
    def ends(self) -> dict[str, float]:
        """Where embedding and head are drawn; a tied head is not there."""
        return {"embed": -1 - _APART, "head": self.n_layers + _APART}

    @property
    def edges(self) -> list[float]:
        """Left and right."""
        return [-0.5, max(self.columns.values()) + 0.5]


def _columns(roles: Iterable[str]) -> dict[str, float]:
    """Role → its place across; what a model lacks, such as GPT-2 a gate, has none."""
    own = set(roles)
    attention, ffn = ([role for role in group if role in own] for group in (ATTENTION, FFN))
    places = {role: float(i) for i, role in enumerate(attention)}
    return places | {role: len(attention) + _GROUPS_APART + i for i, role in enumerate(ffn)}


def map_height(n_layers: int) -> int:
    """Tall enough to read, low enough for a projector."""
    return int(min(900, 150 + (n_layers + 2.7) * _cell(n_layers)))


def _cell(n_layers: int) -> float:
    return 33.0 if n_layers <= _LABELS_UP_TO else 20.0 if n_layers <= 36 else 15.0


def _add_block(
    fig: go.Figure, grid: _Grid, across: Mapping[str, float], axis: Mapping[str, Any]
) -> None:
    """Adds one heatmap of layers × roles."""
    z = np.full((grid.n_layers, len(across)), np.nan)
    text = np.full(z.shape, "", dtype=object)
    roles = list(across)
    for cell in (cell for cell in grid.cells if cell["role"] in across):
        place = int(cell["layer"]), roles.index(cell["role"])
        z[place] = cell["z"]
        text[place] = grid.shown.write(cell["value"])
    words = text if grid.n_layers <= _LABELS_UP_TO else None
    ink.add_cells(fig, z, words, axis, x=list(across.values()), y=np.arange(grid.n_layers))


def _add_bars(fig: go.Figure, grid: _Grid, axis: Mapping[str, Any]) -> None:
    """Adds embedding and head as bars as wide as the layers."""
    for cell in (cell for cell in grid.cells if cell["role"] in grid.ends):
        y = grid.ends[cell["role"]]
        z = np.array([[cell["z"]]], dtype=np.float64)
        text = [[f"{cell['name']}  {grid.shown.write(cell['value'])}"]]
        ink.add_cells(fig, z, text, axis, x=grid.edges, y=[y - 0.5, y + 0.5], xgap=0)


def _add_targets(fig: go.Figure, grid: _Grid) -> None:
    """Adds what can be clicked: a square per cell, which shows once it is chosen."""
    ends = grid.ends
    targets = [
        (x, ends.get(cell["role"], cell["layer"]), cell)
        for cell in grid.cells
        for x in (grid.columns.values() if cell["role"] in ends else [grid.columns[cell["role"]]])
    ]
    x, y, cells = zip(*targets, strict=True)
    ink.add_targets(
        fig,
        x,
        y,
        _cell(grid.n_layers) - 4,
        chosen=0.3,
        customdata=[cell["module"] for cell in cells],
        hovertext=[_hover(cell, grid.shown) for cell in cells],
    )


def _hover(cell: Cell, shown: Shown) -> str:
    bounds = ""
    if np.isfinite([cell["low"], cell["high"]]).all():
        bounds = f" [{shown.write(cell['low'])}, {shown.write(cell['high'])}]"
    return (
        f"<b>{cell['name']}</b><br>{shown.title}: {shown.write(cell['value'])}{bounds}"
        f"<br>summed sensitivity: {cell['summed_sensitivity']:.4g}"
    )


def _label_axes(fig: go.Figure, grid: _Grid, look: Look) -> None:
    columns, n_layers = grid.columns, grid.n_layers
    has_head = any(cell["role"] == "head" for cell in grid.cells)
    fig.update_xaxes(
        tickvals=list(columns.values()),
        ticktext=list(columns),
        range=grid.edges,
        side="top",
        tickangle=0,
        showgrid=False,
        fixedrange=True,
    )
    step = 1 if n_layers <= 40 else 5
    layers = list(range(0, n_layers, step))
    top, bottom = grid.ends.values()
    fig.update_yaxes(
        tickvals=[top, *layers, *([bottom] if has_head else [])],
        ticktext=["in", *(f"L{layer}" for layer in layers), *(["out"] if has_head else [])],
        range=[(bottom + 0.55) if has_head else n_layers - 0.45, top - 0.55],
        showgrid=False,
        fixedrange=True,
    )
    for text, group in (("attention", ATTENTION), ("FFN", FFN)):
        across = [x for role, x in columns.items() if role in group]
        if not across:
            continue
        fig.add_annotation(
            text=text,
            x=np.mean(across),
            y=1,
            yref="paper",
            yshift=46,
            showarrow=False,
            font={"color": look.muted, "size": 14},
        )
    fig.update_layout(margin={"t": 74})

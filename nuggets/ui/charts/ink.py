"""Values written into coloured cells, black or white, whichever is read more easily."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from numpy import ndarray
from plotly.colors import get_colorscale, sample_colorscale, unlabel_rgb

BLACK, WHITE = "#000000", "#ffffff"
MIDDLE = np.sqrt(1.05 * 0.05) - 0.05
"""Luminance on which black and white contrast alike, by 4.58; on any other one contrasts more."""


def luminance(colours: Float[ndarray, "*n 3"]) -> Float[ndarray, "*n"]:
    """Relative luminance of sRGB colours given from 0 to 255 (WCAG 2.2)."""
    part = np.asarray(colours, dtype=np.float64) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def ink_on(colour: str) -> str:
    """Black or white on an opaque colour such as #0072B2."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.float64)
    return BLACK if luminance(rgb) > MIDDLE else WHITE


def cell_colours(values: Float[ndarray, "*n"], axis: Mapping[str, Any]) -> Float[ndarray, "*n 3"]:
    """The colours, from 0 to 255, that a colour axis gives to values; NaN gets the lowest."""
    low, high = axis["cmin"], axis["cmax"]
    place = np.clip((np.asarray(values, dtype=np.float64) - low) / (high - low), 0, 1)
    places = np.nan_to_num(place).ravel().tolist()
    sampled = sample_colorscale(get_colorscale(axis["colorscale"]), places)
    return np.array([unlabel_rgb(colour) for colour in sampled]).reshape(*place.shape, 3)


def add_cells(
    fig: go.Figure,
    z: Float[ndarray, "rows cols"],
    text: Sequence[Sequence[str]] | ndarray | None,
    axis: Mapping[str, Any],
    hover: str | None = None,
    scale: str = "coloraxis",
    **cells: Any,
) -> None:
    """Adds a heatmap and writes into its cells.

    A heatmap writes in one colour only, and the one that Plotly would choose by itself has a
    contrast of 3.2 on some colours of our scales. So this adds one for the cells that want black
    and one for those that want white; they are not there for the mouse.

    Args:
        fig: the figure; its `scale` becomes `axis`.
        z: the values.
        text: what is written, in the same shape; None for cells too small to write in.
        axis: the colour axis, as from `charts.colour_axis`.
        hover: the template of what the mouse is told; nothing when not given.
        scale: which of the figure's colour axes.
        cells: `x`, `y` and whatever else a heatmap takes.
    """
    z, words = np.asarray(z, dtype=np.float64), np.asarray(text, dtype=object)
    cells = {"coloraxis": scale, "xgap": 2, "ygap": 2, **cells}
    told = {"hoverinfo": "skip"} if hover is None else {"hovertemplate": hover}
    fig.add_heatmap(z=z, text=text, hoverongaps=False, **told, **cells)
    fig.update_layout({scale: axis})
    dark = luminance(cell_colours(z, axis)) > MIDDLE
    for ink, own in ((BLACK, dark), (WHITE, ~dark)):
        if text is not None and (own & np.isfinite(z)).any():
            fig.add_heatmap(
                z=np.where(own, z, np.nan),
                text=np.where(own & np.isfinite(z), words, ""),  # else written on nothing
                texttemplate="%{text}",
                textfont={"size": 13, "color": ink},
                hoverinfo="skip",
                **cells,
            )


def add_targets(
    fig: go.Figure,
    x: Sequence[float],
    y: Sequence[float],
    size: float,
    chosen: float = 0.0,
    gl: bool = False,
    **told: Any,
) -> None:
    """Adds unseen squares to click, since heatmaps themselves report no clicks to Streamlit."""
    fig.add_trace(
        (go.Scattergl if gl else go.Scatter)(
            x=x,
            y=y,
            mode="markers",
            marker={"symbol": "square", "size": size, "opacity": 0, "color": "#ffffff"},
            selected={"marker": {"opacity": chosen}},
            unselected={"marker": {"opacity": 0}},
            hovertemplate="%{hovertext}<extra></extra>" if "hovertext" in told else None,
            showlegend=False,
            **told,
        )
    )

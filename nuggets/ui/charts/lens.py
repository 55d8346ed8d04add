"""Figures of one prompt: when models know the answer, and on which layers its loss rests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from nuggets.documents.colours import LIGHT, Look
from nuggets.lens.report import Lens
from nuggets.ui.charts import base as charts
from nuggets.ui.charts import ink
from nuggets.ui.charts.answers import visible

WRITTEN = 16
"""Tokens or layers up to which values are written into the cells."""
Looked = Mapping[str, Lens]
"""What was seen, by the models' names."""


def known_frame(looked: Looked) -> pd.DataFrame:
    """One row per model, place and token of the answer."""
    return pd.DataFrame(
        {
            "model": name,
            "place": place,
            "number": at + 1,
            "token": token,
            "rank": lens.rank[row][at],
            "probability": lens.probability[row][at],
            "first_choice": lens.best[row][at],
        }
        for name, lens in looked.items()
        for row, place in enumerate(lens.places)
        for at, token in enumerate(lens.tokens)
    )


def rests_frame(looked: Looked) -> pd.DataFrame:
    """One row per model, layer and token of the answer."""
    return pd.DataFrame(
        {
            "model": name,
            "layer": layer,
            "number": at + 1,
            "token": token,
            "share": lens.shares[layer][at],
            "attribution": lens.attribution[layer][at],
        }
        for name, lens in looked.items()
        for layer in range(len(lens.attribution))
        for at, token in enumerate(lens.tokens)
    )


def known_figure(looked: Looked, look: Look = LIGHT) -> go.Figure:
    """Places (down) by tokens (across), a panel per model: the right token's probability, rank."""
    axis = charts.colour_axis([], False, "probability", percent=True) | {"cmin": 0, "cmax": 1}
    told = (
        "<b>%{customdata[0]}</b>, %{customdata[1]}<br>rank %{customdata[2]:,}, probability %{z:.1%}"
        "<br>first choice: %{customdata[3]}<extra></extra>"
    )
    panels = {}
    for name, lens in looked.items():
        rows = [f"behind {place}" if row else "embedding" for row, place in enumerate(lens.places)]
        words = [[f"{r}" if r < 1000 else "·" for r in row] for row in lens.rank]
        custom = [
            [
                (visible(token), rows[row], lens.rank[row][at], visible(lens.best[row][at]))
                for at, token in enumerate(lens.tokens)
            ]
            for row in range(len(rows))
        ]
        ticks = ["in", *lens.places[1:]]
        panels[name] = (lens, lens.probability, words, custom, ticks)
    return _panels(panels, axis, told, look)


def rests_figure(looked: Looked, look: Look = LIGHT) -> go.Figure:
    """Layers (down) by tokens (across), a panel per model: each layer's share of |θ · gradient|."""
    shares = [np.array(lens.shares) for lens in looked.values()]
    axis = charts.colour_axis(shares, False, "share", percent=True)
    told = (
        "<b>%{customdata[0]}</b>, %{customdata[1]}<br>share %{z:.1%}, Σ|θ·g| %{customdata[2]:.3g}"
        "<extra></extra>"
    )
    panels = {}
    for name, lens in looked.items():
        words = [[f"{share:.0%}".removesuffix("%") for share in row] for row in lens.shares]
        custom = [
            [(visible(token), f"L{row}", values[at]) for at, token in enumerate(lens.tokens)]
            for row, values in enumerate(lens.attribution)
        ]
        panels[name] = (lens, lens.shares, words, custom, lens.places[1:])
    return _panels(panels, axis, told, look)


def _panels(panels: Mapping[str, Any], axis: Any, told: str, look: Look) -> go.Figure:
    """One heatmap per model on one colour scale."""
    names = [f"<b>{charts.shorten(name)}</b>" for name in panels]
    fig = make_subplots(1, len(panels), subplot_titles=names, horizontal_spacing=0.09)
    most = max(len(z) for _, z, *_ in panels.values())
    for col, (lens, z, words, custom, ticks) in enumerate(panels.values(), 1):
        written = max(len(lens.tokens), most) <= WRITTEN
        places, rows = list(range(len(lens.tokens))), list(range(len(z)))
        ink.add_cells(fig, np.array(z), words if written else None, axis, told,
                      x=places, y=rows, customdata=custom,
                      xaxis=f"x{col}", yaxis=f"y{col}")  # fmt: skip
        step = 1 if len(rows) <= 40 else 5
        fig.update_xaxes(tickvals=places, ticktext=[visible(t) for t in lens.tokens],
                         showgrid=False, col=col)  # fmt: skip
        fig.update_yaxes(tickvals=rows[::step], ticktext=list(ticks[::step]), showgrid=False,
                         range=[len(rows) - 0.5, -0.5], col=col)  # fmt: skip
    fig.update_annotations(font={"size": 15, "color": look.ink})
    height = 96 + most * (30 if most <= WRITTEN else 15)
    return charts.finish(fig, look, height, showlegend=False)

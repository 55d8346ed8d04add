"""Which residual dimensions every matrix was cut to, selector beside selector."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from nuggets import api
from nuggets.documents.colours import LIGHT, Look
from nuggets.ui.charts import base as charts

Found = Mapping[str, api.views.Residual]
"""Selector → what it chose."""


def residual_frame(found: Found) -> pd.DataFrame:
    """One row per selector and matrix: agreement with the next, and which dimensions."""
    return pd.DataFrame(
        [
            {
                "selector": selector,
                "matrix": module,
                "same_as_next": share,
                "dimensions": " ".join(str(d) for d in np.flatnonzero(chosen)),
            }
            for selector, residual in found.items()
            for module, chosen, share in zip(
                residual.modules, residual.chosen, [*residual.agreement, np.nan], strict=True
            )
        ]
    )


BETWEEN = 96
"""Pixels between two rows: the numbers of the upper one and the two-line titles of the lower."""


def residual_figure(found: Found, look: Look = LIGHT, columns: int = 4) -> go.Figure:
    """Matrices (down) by residual dimensions (across): coloured where a matrix speaks of one.

    A consistent choice is a bar code of unbroken lines; independent windows jump from matrix to
    matrix. Many dimensions are drawn in blocks, the stronger the more of a block is chosen.
    """
    rows = math.ceil(len(found) / columns)
    columns = math.ceil(len(found) / rows)
    n = max(len(residual.modules) for residual in found.values())
    row_height = int(np.clip(10 * n, 200, 460))
    fig = make_subplots(
        rows,
        columns,
        subplot_titles=[_title(name, residual) for name, residual in found.items()],
        shared_yaxes=True,
        horizontal_spacing=0.04,
        vertical_spacing=min(BETWEEN / (rows * row_height), 0.5),
    )
    chosen = look.blue
    for place, residual in enumerate(found.values()):
        shares = api.views.dimension_shares(residual)
        width = residual.chosen.shape[1] / shares.shape[1]
        fig.add_heatmap(
            z=shares.astype(np.float32),
            x0=(width - 1) / 2,
            dx=width,
            y=list(residual.modules),
            colorscale=[[0, look.grid], [1, chosen]],
            zmin=0,
            zmax=1,
            showscale=False,
            ygap=1 if n <= 60 else 0,
            hovertemplate="%{y}, dimension %{x:.0f}<extra></extra>",
            row=place // columns + 1,
            col=place % columns + 1,
        )
    _label_rows(fig, next(iter(found.values())).modules)
    fig.update_xaxes(showgrid=False)
    fig.update_xaxes(title="residual dimension", row=rows, nticks=4)
    fig.update_annotations(font={"size": 14, "color": look.ink})
    height = 110 + rows * row_height
    return charts.finish(fig, look, height, showlegend=False, margin={"t": 64})


def _title(selector: str, found: api.views.Residual) -> str:
    shared, chance = 100 * found.agreement.mean(), 100 * found.chance
    numbers = f"{shared:.0f} % shared ({chance:.0f} % by chance)"
    return f"<b>{charts.plain_name(selector)}</b><br>{numbers}"


def _label_rows(fig: go.Figure, modules: tuple[str, ...]) -> None:
    """Names layers, not matrices, of which there may be hundreds; the mouse tells those."""
    layers = [re.search(r"\.(\d+)\.", module) for module in modules]
    first: dict[str, int] = {}
    for place, found in enumerate(layers):
        first.setdefault(f"L{found[1]}" if found else modules[place].rsplit(".", 1)[-1], place)
    shown = list(first.items())[:: math.ceil(len(first) / 16)]
    fig.update_yaxes(
        type="category",
        range=[len(modules) - 0.5, -0.5],
        tickvals=[modules[place] for _, place in shown],
        ticktext=[name for name, _ in shown],
        showgrid=False,
    )

"""The cross-task matrix: parameters located by one task, fine-tuned and tested on another."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nuggets.documents import colours
from nuggets.documents.colours import LIGHT, Look
from nuggets.ui.charts import base as charts
from nuggets.ui.charts import ink


def cross_figure(frame: pd.DataFrame, metric: str, look: Look = LIGHT) -> go.Figure:
    """Target tasks down, starts across; a frame marks the task's own seed samples."""
    frame = frame.query("role != 'reference'")
    frame = frame.assign(text=charts.with_bounds(frame, metric))
    z, text = charts.pivot(frame, "run", "arm", metric, "text")
    targets, starts = list(z.index), list(z)
    axis = charts.colour_axis(z.to_numpy(), False, charts.plain_name(metric))
    grid = {"x": np.arange(len(starts)), "y": np.arange(len(targets)), "xgap": 3, "ygap": 3}
    fig = go.Figure()
    ink.add_cells(fig, z.to_numpy(), text.to_numpy(), axis, "%{text}<extra></extra>", **grid)
    for row, target in enumerate(targets):
        if target in starts:
            x = starts.index(target)
            edge = {"color": colours.ORANGE, "width": 4}
            fig.add_shape(x0=x - 0.5, x1=x + 0.5, y0=row - 0.5, y1=row + 0.5, line=edge)
    for update, names, title in (
        (fig.update_xaxes, starts, "LoRA initialisation (a task: located by its seed samples)"),
        (fig.update_yaxes, targets, "fine-tuned and tested on"),
    ):
        words = list(charts.labels(names, 18).values())
        update(tickvals=np.arange(len(names)), ticktext=words, title=title, showgrid=False)
    fig.update_yaxes(range=[len(targets) - 0.48, -0.52])
    return charts.finish(fig, look, 110 + 62 * max(3, len(targets)))

"""The cross-task matrix: parameters located by one task, fine-tuned and tested on another."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nuggets import api
from nuggets.documents import colours
from nuggets.documents.colours import LIGHT, Look
from nuggets.studies.documents import baseline_difference
from nuggets.ui import charts, charts_ink


def cross_frame(report: api.StudyReport) -> pd.DataFrame:
    """One row per target task and start: mean, interval, and the difference to plain LoRA."""
    rows = []
    for panel in report.panels:
        for arm in panel.report.arms.values():
            versus = baseline_difference(panel.report, arm.name)
            gap = None if versus is None else versus.interval
            rows.append(
                {
                    "fine_tuned_and_tested_on": panel.name,
                    "start": arm.name,
                    "role": arm.role,
                    "value": arm.value,
                    "low": arm.interval[0],
                    "high": arm.interval[1],
                    "minus_plain": None if gap is None else gap.mean,
                    "minus_plain_low": None if gap is None else gap.low,
                    "minus_plain_high": None if gap is None else gap.high,
                    "p_holm": None if versus is None else versus.p_holm,
                    "n_seeds": len(arm.seeds),
                    "n_items": arm.n,
                }
            )
    return pd.DataFrame(rows)


def cross_figure(frame: pd.DataFrame, metric: str, look: Look = LIGHT) -> go.Figure:
    """Target tasks down, starts across; a frame marks the task's own seed samples.

    Args:
        frame: from `cross_frame`.
        metric: of the values.
        look: light or dark.
    """
    frame = frame.query("role != 'reference'")
    targets = list(dict.fromkeys(frame["fine_tuned_and_tested_on"]))
    starts = list(dict.fromkeys(frame["start"]))
    z = np.full((len(targets), len(starts)), np.nan)
    text = np.full(z.shape, "", dtype=object)
    for row in frame.to_dict("records"):
        place = targets.index(row["fine_tuned_and_tested_on"]), starts.index(row["start"])
        z[place] = row["value"]
        text[place] = f"{row['value']:.2f}<br>[{row['low']:.2f}, {row['high']:.2f}]"
    axis = charts.colour_axis(z, False, charts.plain_name(metric))
    grid = {"x": np.arange(len(starts)), "y": np.arange(len(targets)), "xgap": 3, "ygap": 3}
    fig = go.Figure()
    fig.add_heatmap(
        z=z,
        text=text,
        coloraxis="coloraxis",
        hoverongaps=False,
        hovertemplate="%{text}<extra></extra>",
        **grid,
    )
    charts_ink.write_in_cells(fig, z, text, axis, **grid)
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
    fig.update_layout(coloraxis=axis)
    return charts.finish(fig, look, 110 + 62 * max(3, len(targets)))

"""Figures of the Transfer page: what would be extracted, and how training goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nuggets.core.architecture import ROLES
from nuggets.core.plan import ExtractionPlan
from nuggets.ui import charts
from nuggets.ui.charts import LIGHT, Look

POINTS = 120
"""Points of one live curve; more cannot be told apart at its size."""


def plan_frame(plan: ExtractionPlan) -> pd.DataFrame:
    """One row per student matrix: where it comes from and what it keeps."""
    rows = [
        {
            "student_module": item.student_module,
            "teacher_module": item.teacher_module,
            "role": item.role,
            "student_layer": item.student_layer,
            "teacher_layer": item.teacher_layer,
            "kept_mass": item.kept_mass,
            "area": item.area,
            "times_its_share": item.kept_mass / item.area,
            "rank": item.rank,
        }
        for item in plan.items
    ]
    return pd.DataFrame(rows)


def plan_figure(frame: pd.DataFrame, look: Look = LIGHT) -> go.Figure:
    """Layer pairs on y, roles on x: how much more sensitivity is kept than by chance."""
    roles = [role for role in ROLES if role in set(frame["role"])]
    rows = [_row(s, t) for s, t in zip(frame["student_layer"], frame["teacher_layer"], strict=True)]
    names = list(dict.fromkeys(rows))
    times = np.full((len(names), len(roles)), np.nan)
    kept = np.full(times.shape, np.nan)
    for row, role, value, mass in zip(
        rows, frame["role"], frame["times_its_share"], frame["kept_mass"], strict=True
    ):
        times[names.index(row), roles.index(role)] = value
        kept[names.index(row), roles.index(role)] = mass
    text = [["" if np.isnan(v) else f"{v:.2f}×" for v in line] for line in times]
    fig = go.Figure(
        go.Heatmap(
            z=np.log2(times),
            zmid=0,
            zmin=-2,
            zmax=2,
            x=roles,
            y=names,
            customdata=kept,
            text=text,
            texttemplate="%{text}",
            textfont={"size": 13},
            colorscale=charts.SIGNED,
            showscale=False,
            xgap=2,
            ygap=2,
            hovertemplate=(
                "%{y} · %{x}<br>keeps %{customdata:.1%}, %{text} its share<extra></extra>"
            ),
        )
    )
    fig.update_yaxes(autorange="reversed", showgrid=False, title="teacher → student")
    fig.update_xaxes(side="top", showgrid=False)
    height = 56 + 30 * len(names)
    return charts.finish(fig, look, height, margin={"l": 8, "r": 8, "t": 36, "b": 4})


def _row(student: float | None, teacher: float | None) -> str:
    if student is None or teacher is None or pd.isna(student) or pd.isna(teacher):
        return "outside the layers"
    return f"layer {int(teacher)} → {int(student)}"


def losses_frame(rows: Sequence[Mapping[str, float | str]]) -> pd.DataFrame:
    """Mean training loss per arm and step over the seeds that got there, thinned for the eye."""
    if not rows:
        return pd.DataFrame(columns=["arm", "step", "loss"])
    every = max(1, int(max(float(row["step"]) for row in rows)) // POINTS)
    frame = pd.DataFrame(rows)
    frame["step"] = (frame["step"] // every) * every
    return frame.groupby(["arm", "step"], sort=False).agg({"loss": "mean"}).reset_index()


def losses_figure(frame: pd.DataFrame, look: Look = LIGHT) -> go.Figure:
    """One line per arm; its name is foreign text and is drawn as such."""
    fig = go.Figure()
    names = charts.labels(dict.fromkeys(frame["arm"]))
    for index, (arm, own) in enumerate(frame.groupby("arm", sort=False)):
        fig.add_scatter(
            x=own["step"],
            y=own["loss"],
            name=names[str(arm)],
            mode="lines+markers" if len(own) < 3 else "lines",
            line={
                "color": charts.CATEGORIES[index % len(charts.CATEGORIES)],
                "dash": "solid" if index < len(charts.CATEGORIES) else "dash",
                "width": 2.5,
            },
        )
    fig.update_xaxes(title="step", rangemode="tozero")
    fig.update_yaxes(title="training loss", rangemode="tozero")
    return charts.finish(fig, look, 260, showlegend=True)

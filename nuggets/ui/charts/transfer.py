"""Figures of the Transfer page: what would be extracted, and how training goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nuggets import api
from nuggets.amounts import extent
from nuggets.documents import colours
from nuggets.documents.colours import LIGHT, Look
from nuggets.extraction.plan import ExtractionPlan
from nuggets.models.architecture import ROLES
from nuggets.statistics.verdict import ArmRole
from nuggets.ui.charts import base as charts
from nuggets.ui.charts import ink
from nuggets.views.sensitivity import Residual

STUDENT = "as the untouched student"
LOGIT = "max |Δ logit|"
POINTS = 120
"""Points of one live curve; more cannot be told apart at its size."""


def plan_frame(plan: ExtractionPlan) -> pd.DataFrame:
    """One row per student matrix: where it comes from and what it keeps."""
    left_out = {"shape", "rows", "cols", "runner_up"}
    frame = pd.DataFrame([item.model_dump(exclude=left_out) for item in plan.items])
    return frame.assign(times_its_share=frame["kept_mass"] / frame["area"])


def plan_figure(frame: pd.DataFrame, look: Look = LIGHT) -> go.Figure:
    """Layer pairs on y, roles on x: how much more sensitivity is kept than by chance."""
    times, kept = _by_role(frame, "times_its_share", "kept_mass")
    text = times.map("{:.2f}×".format)
    axis = {"cmin": -2.0, "cmax": 2.0, "colorscale": charts.SIGNED, "showscale": False}
    hover = "%{y} · %{x}<br>keeps %{customdata:.1%}, %{text} its share<extra></extra>"
    return _grid_figure(times.map(np.log2), text, axis, hover, look, 30, customdata=kept)


def _row(student: float | None, teacher: float | None) -> str:
    if student is None or teacher is None or pd.isna(student) or pd.isna(teacher):
        return "outside the layers"
    return f"layer {int(teacher)} → {int(student)}"


def windows_frame(plan: ExtractionPlan) -> pd.DataFrame:
    """One row per student matrix, for reading: rows and columns as ranges, shares beside them."""
    rows = [
        {
            "matrix": charts.short_module(item.student_module),
            "from": "–" if item.teacher_layer is None else f"L{item.teacher_layer}",
            "rows": extent(item.rows),
            "cols": extent(item.cols),
            "keeps": item.kept_mass,
            "entries": item.area,
            "runner-up": None if item.runner_up is None else item.runner_up[2],
        }
        for item in plan.items
    ]
    return pd.DataFrame(rows)


def neighbours_frame(found: Residual) -> pd.DataFrame:
    """One row per two neighbouring matrices: the share of dimensions they have in common."""
    pairs = list(pairwise(found.modules))
    return pd.DataFrame(
        {
            "matrix": [one for one, _ in pairs],
            "next": [other for _, other in pairs],
            "shared": found.agreement,
        }
    )


def neighbours_figure(frame: pd.DataFrame, chance: float, look: Look = LIGHT) -> go.Figure:
    """A bar per two neighbours; what two blind choices share as a line."""
    whole = frame["shared"] == 1
    fig = go.Figure(
        go.Bar(
            x=np.arange(len(frame)),
            y=frame["shared"],
            customdata=frame[["matrix", "next"]].map(charts.short_module),
            marker={"color": np.where(whole, colours.GREEN, colours.BLUE)},
            hovertemplate="%{customdata[0]} → %{customdata[1]}<br>share %{y:.0%}<extra></extra>",
        )
    )
    fig.add_hline(
        y=chance,
        line={"color": look.ink, "dash": "dot", "width": 1.5},
        annotation={
            "text": "chance",
            "font": {"size": 13, "color": look.ink},
            "bgcolor": look.paper,
            "opacity": 0.9,
        },
        annotation_position="top left",
    )
    fig.update_xaxes(title="matrices in network order", showticklabels=False, showgrid=False)
    fig.update_yaxes(title="dimensions shared", range=[0, 1.02], tickformat=".0%")
    return charts.finish(fig, look, 240, margin={"t": 16}, bargap=0.15)


def kept_frame(plan: ExtractionPlan, kept: Sequence[api.KeptBySvd]) -> pd.DataFrame:
    """One row per student matrix: the rank that is used and the energy it keeps."""
    used = {
        "rank": [each.rank for each in kept],
        "energy": [each.energy for each in kept],
        "trained_weights": [each.parameters for each in kept],
    }
    columns = ["student_module", "role", "student_layer", "teacher_layer"]
    return plan_frame(plan)[columns].assign(**used)


def kept_figure(frame: pd.DataFrame, look: Look = LIGHT) -> go.Figure:
    """Layer pairs on y, roles on x: energy as colour and in percent, the rank below it."""
    energy, rank = _by_role(frame, "energy", "rank")
    text = energy.map("{:.0%}".format) + rank.map("<br>r {:.0f}".format)
    bar = {"tickformat": ".0%", "thickness": 12}
    axis = {"cmin": 0.0, "cmax": 1.0, "colorscale": charts.MAGNITUDE, "colorbar": bar}
    return _grid_figure(energy, text, axis, "%{y} · %{x}<br>%{text}<extra></extra>", look, 46)


def _by_role(frame: pd.DataFrame, *values: str) -> list[pd.DataFrame]:
    """Values of all matrices, layer pairs down and roles across."""
    rows = [_row(s, t) for s, t in zip(frame["student_layer"], frame["teacher_layer"], strict=True)]
    roles = [role for role in ROLES if role in set(frame["role"])]
    return charts.pivot(frame.assign(row=rows), "row", "role", *values, order=roles)


def _grid_figure(
    z: pd.DataFrame, text: pd.DataFrame, axis: Any, hover: str, look: Look, height: int, **more: Any
) -> go.Figure:
    """Layer pairs on y, roles on x; `height` of a row in pixels."""
    fig = go.Figure()
    cells = {"x": list(z), "y": list(z.index), **more}
    ink.add_cells(fig, z.to_numpy(), text.to_numpy(), axis, hover, **cells)
    fig.update_yaxes(autorange="reversed", showgrid=False, title="teacher → student")
    fig.update_xaxes(side="top", showgrid=False)
    # The toolbar stands above the headings.
    return charts.finish(fig, look, 78 + height * len(z), margin={"t": 58, "b": 4})


def losses_frame(rows: Sequence[Mapping[str, float | str]]) -> pd.DataFrame:
    """Training loss per arm and step over the seeds that got there, thinned for the eye.

    Each seed's losses within a few neighbouring steps become their mean; then `loss` is the mean
    over seeds, `low` and `high` the seeds at the edges, `seeds` how many there are.
    """
    columns = ["arm", "step", "loss", "low", "high", "seeds"]
    if not rows:
        return pd.DataFrame(columns=columns)
    every = max(1, int(max(float(row["step"]) for row in rows)) // POINTS)
    frame = pd.DataFrame(rows)
    frame["step"] = (frame["step"] // every) * every
    by_seed = frame.groupby(["arm", "step", "seed"], sort=False, as_index=False).agg(
        {"loss": "mean"}
    )
    found = by_seed.groupby(["arm", "step"], sort=False, as_index=False).agg(
        loss=("loss", "mean"),
        low=("loss", "min"),
        high=("loss", "max"),
        seeds=("loss", "count"),
    )
    return pd.DataFrame(found, columns=columns)


def identity_frame(
    found: Mapping[str, Mapping[int, float | None]], arms: Mapping[str, Any]
) -> pd.DataFrame:
    """One row per arm: the largest difference at step 0 over its seeds, and what is promised."""
    rows = []
    for name, by_seed in found.items():
        known = [value for value in by_seed.values() if value is not None]
        arm = arms.get(name)
        promised = bool(known) and (arm is None or arm.keeps_function)
        starts = STUDENT if promised else "as a different function"
        rows.append((charts.plain_name(name), starts, max(known, default=None), len(by_seed)))
    return pd.DataFrame(rows, columns=["arm", "starts", LOGIT, "seeds"])


def identity_title(frame: pd.DataFrame) -> str:
    """The step-0 identity in one line: the largest difference of all arms that promise it."""
    promised = [
        difference
        for starts, difference in zip(frame["starts"], frame[LOGIT], strict=True)
        if starts == STUDENT
    ]
    if not promised:
        return "Step-0 identity: no arm starts from the untouched student"
    arms = "1 arm starts" if len(promised) == 1 else f"{len(promised)} arms start"
    return f"Step-0 identity: {arms} as the untouched student, logits within {max(promised):.1e}"


def losses_figure(
    frame: pd.DataFrame, look: Look = LIGHT, roles: Mapping[str, ArmRole] | None = None
) -> go.Figure:
    """A line per arm and a band from its lowest to its highest seed; names are drawn as text.

    Arms look as their `roles` do on every page; one that has none is a baseline's stage.
    """
    fig = go.Figure()
    names = charts.labels(dict.fromkeys(frame["arm"]))
    known = roles or {}
    styles = charts.arm_styles({**known, **{a: "baseline" for a in names if a not in known}})
    for arm, own in frame.groupby("arm", sort=False):
        colour, dash, _ = styles[str(arm)]
        charts.add_line(
            fig,
            own.sort_values("step"),
            "loss",
            names[str(arm)],
            colour,
            mode="lines+markers" if len(own) < 3 else "lines",
            dash=dash,
        )
    fig.update_xaxes(title="step", rangemode="tozero")
    fig.update_yaxes(title="training loss", rangemode="tozero")
    return charts.finish(fig, look, 260, showlegend=True)

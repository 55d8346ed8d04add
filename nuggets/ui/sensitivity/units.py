"""Neurons and heads of the Sensitivity page: rankings, and what tasks have in common."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import streamlit as st

from nuggets import api
from nuggets.ui.charts import sensitivity as sensitivity_charts
from nuggets.ui.frame import safe, share
from nuggets.ui.frame.share import Picture
from nuggets.ui.sensitivity.sources import Source, Sources
from nuggets.views.matrices import Units

TOP = 12
"""Neurons or heads that are listed."""


@safe.fragment
@safe.shown_problems("units")
def units(found: Sources, a: str, b: str | None) -> None:
    """The most sensitive units, and what share of them every two tasks have in common."""
    st.subheader("Neurons and heads", anchor=False)
    rank = st.segmented_control("Rank", ("neurons", "heads"), default="neurons", required=True,
                                key="units", bind="query-params")  # fmt: skip
    chosen: Units = "heads" if rank == "heads" else "neurons"
    left, right = st.columns([2, 3], gap="medium")
    with left:
        _ranking(found, a, b, chosen)
    with right:
        if len(found) < 2:
            st.text(f"Measure a second task to see how many {chosen} both tasks use.")
            return
        _overlap({name: _scores(each, chosen) for name, each in found.items()}, chosen, found[a])


def _ranking(found: Sources, a: str, b: str | None, units: Units) -> None:
    """The most sensitive units of A, and which of them B has too."""
    source = found[a]
    scores = _scores(source, units)
    others = {u[:2] for u in api.views.top_units(_scores(found[b], units), TOP)} if b else set()
    top = api.views.top_units(scores, TOP)
    frame = sensitivity_charts.units_frame(top, units[:-1], others if b else None)
    also = f"; orange: also among the first {TOP} of {b}" if b else ""
    Picture(
        sensitivity_charts.units_figure(frame, share.look()),
        frame,
        f"top-{units}",
        f"Most sensitive {units} of {scores.size}{also} · {a}, {source.about}",
        source.origin(f"print(api.views.top_units(api.views.unit_scores(map, {units!r}), {TOP}))"),
        f"Bars of the most sensitive {units}",
    ).draw()


def _scores(source: Source, units: Units) -> np.ndarray:
    return api.views.unit_scores(source.map, units)


def _overlap(scores: Mapping[str, np.ndarray], units: Units, source: Source) -> None:
    every = list(scores.values())
    found = api.views.overlap(every, min(100, max(1, every[0].size // 20)))
    frame = sensitivity_charts.overlap_frame(found, list(scores))
    first = found[0][0]
    Picture(
        sensitivity_charts.overlap_figure(frame, share.look()),
        frame,
        f"overlap-{units}",
        f"Share of the top {first.k} {units} that two tasks have in common; "
        f"{100 * first.chance:.0f} % by chance · {source.about}",
        source.origin(
            f"print(api.views.unit_scores(map, {units!r}))  # one per task, then overlap"
        ),
        f"Heatmap, tasks by tasks: share of the top {units} in common",
    ).draw()

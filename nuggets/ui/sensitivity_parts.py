"""Parts of the Sensitivity page: what is shown, the layers, one matrix, and tasks compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from numpy import ndarray

from nuggets import api
from nuggets.errors import BadInput
from nuggets.recipe import SensitivityJob
from nuggets.ui import charts, charts_map, charts_sensitivity, safe, share, shell

Maps = Mapping[str, api.SensitivityMap]
TOP = 12
"""Neurons or heads that are listed."""


def origin(found: api.SensitivityMap) -> str:
    """Where a map comes from, for captions."""
    digest = str(found.meta.get("digest", ""))[:8] or "unnamed"
    model = found.meta.get("model", "model")
    return f"{model} · {found.n_samples} samples · map {digest}"


def shown_values(
    maps: Maps, a: str, b: str | None, show: str, mode: Any, log: bool
) -> tuple[pd.DataFrame, charts_map.Shown, Sequence[ndarray]]:
    """The values of the map with their reading, and what must share their colours."""
    spec, tasks = maps[a].spec, list(maps.values())
    views = api.views
    if b is not None and show == "A − B":
        values = views.difference(maps[a], maps[b], mode, log, tasks)
        totals = views.difference(maps[a], maps[b], "absolute").mean
        shown = charts_map.Shown.of(mode, log, f"{a} − {b}")
        return charts_map.map_frame(spec, values, totals), shown, ()
    own, other = (a, b) if show != "B" or b is None else (b, a)
    values = views.module_values(maps[own], mode, tasks)
    totals = views.module_values(maps[own], "absolute").mean
    compare = () if other is None else (views.module_values(maps[other], mode, tasks).mean,)
    return charts_map.map_frame(spec, values, totals), charts_map.Shown.of(mode, log), compare


def _map_key() -> str:
    """The map's key; it changes when the matrix is chosen by keyboard, which unselects the map."""
    return f"sensitivity-map-{st.session_state.get('nuggets-map-round', 0)}"


def _choose(key: str, frame: pd.DataFrame) -> None:
    """Takes a click on the map over into the choice of the matrix."""
    points = st.session_state[key]["selection"]["points"]
    names = dict(zip(frame["module"], frame["name"], strict=True))
    clicked = [names.get(point.get("customdata")) for point in points]
    if clicked and clicked[0] is not None:
        st.session_state["matrix"] = clicked[0]


def _by_keyboard() -> None:
    st.session_state["nuggets-map-round"] = st.session_state.get("nuggets-map-round", 0) + 1


def draw_map(
    frame: pd.DataFrame, shown: charts_map.Shown, compare: Any, origin: str, job: SensitivityJob
) -> None:
    """The heatmap; a click chooses the matrix below."""
    look = charts.look_of(st.context.theme.type)
    key = _map_key()
    share.figure(
        charts_map.map_figure(frame, shown, compare, look),
        frame,
        key=key,
        caption=f"{shown.title} · {origin}",
        command=api.as_command(job),
        python=api.as_python(job),
        alt=f"Heatmap of layers by modules: {shown.title} for {origin}. The table has the values.",
        on_select=lambda: _choose(key, frame),
    )


def layers(found: api.SensitivityMap, choice: shell.Choice, task: str, job: SensitivityJob) -> None:
    """Layer shares with intervals, and which layers other samples would choose."""
    k = min(api.spec(choice.student).n_layers, found.spec.n_layers)
    stability = api.views.layer_stability(found.layer_samples, k)
    frame = charts_sensitivity.layers_frame(api.views.layer_values(found), stability)
    share.figure(
        charts_sensitivity.layers_figure(frame, charts.look_of(st.context.theme.type)),
        frame,
        key="layers",
        caption=f"{k} most sensitive layers in orange; 95 % intervals over samples · {task}, "
        f"{origin(found)}",
        command=api.as_command(job),
        python=api.as_python(job),
        alt="Bars: share of each layer with its interval, and how often it is chosen again when "
        "samples are drawn anew",
    )


def matrix(maps: Maps, choice: shell.Choice, model: str, job: SensitivityJob) -> None:
    """One matrix: blocks, windows, profiles; and the neurons or heads of the model."""
    found = maps[choice.task]
    spec = found.spec
    places = {charts_map.short_name(spec, role, at): (m, role) for m, role, at in spec.modules()}
    st.subheader("One matrix", anchor=False)
    if st.session_state.get("matrix") not in places:
        st.session_state["matrix"] = next(name for name in places if "down" in name)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.selectbox("Matrix", places, key="matrix", bind="query-params", width=260,
                            on_change=_by_keyboard,
                            help="Click a cell of the map, or choose here.")  # fmt: skip
        which = st.segmented_control("Blocks", ("mean", "max"), default="mean", required=True,
                                     key="blocks", bind="query-params")  # fmt: skip
        units = st.segmented_control("Rank", ("neurons", "heads"), default="neurons",
                                     required=True, key="units", bind="query-params")  # fmt: skip
    left, right = st.columns([3, 2], gap="medium")
    with left, safe.shown_problems("matrix"):
        _matrix(found, *places[name], which, choice, job)
    with right:
        _units(found, "heads" if units == "heads" else "neurons", choice.task, job)


def _matrix(
    found: api.SensitivityMap, module: str, role: str, which: str, choice: shell.Choice,
    job: SensitivityJob,
) -> None:  # fmt: skip
    views, spec = api.views, found.spec
    shape = api.spec(choice.student).shape(role)
    key = str(found.meta.get("digest") or id(found))
    binned, windows, note = _blocks(key, module, shape, found)
    profiles = views.profile(found.rows[module]), views.profile(found.cols[module])
    axes = views.axis_name(spec, role)
    look = charts.look_of(st.context.theme.type)
    size = f"{binned.rows[-1]} × {binned.cols[-1]}, window {shape[0]} × {shape[1]}"
    share.figure(
        charts_sensitivity.matrix_figure(binned, which, windows, profiles, axes, look=look),
        charts_sensitivity.matrix_frame(binned, which),
        key="matrix-map",
        caption=f"{module} · {size} · {choice.task}, {origin(found)}",
        command=api.as_command(job),
        python=api.as_python(job),
        alt=f"Heatmap of {module} in blocks, with the student-sized window of most sensitivity",
    )
    if note:
        st.text(note)


@st.cache_data(max_entries=128, show_spinner="Looking at every entry…")
def _blocks(
    key: str, module: str, shape: tuple[int, int], _found: api.SensitivityMap
) -> tuple[Any, list[Any], str]:
    """Blocks and windows of a matrix, and why there is no window; kept, as large ones take long."""
    weights = _found.matrix(module)
    try:
        windows = [w for w in api.views.chosen_windows(weights, *shape) if w is not None]
    except BadInput as problem:
        return api.views.bin_matrix(weights), [], str(problem)
    return api.views.bin_matrix(weights), windows, ""


def _units(found: api.SensitivityMap, units: Any, task: str, job: SensitivityJob) -> None:
    scores = api.views.unit_scores(found, units)
    frame = charts_sensitivity.units_frame(api.views.top_units(scores, TOP), units[:-1])
    share.figure(
        charts_sensitivity.units_figure(frame, charts.look_of(st.context.theme.type)),
        frame,
        key=f"top-{units}",
        caption=f"Most sensitive {units} of {scores.size} · {task}, {origin(found)}",
        command=api.as_command(job),
        python=api.as_python(job),
        alt=f"Bars of the most sensitive {units}",
    )


def tasks(maps: Maps, task: str, job: SensitivityJob) -> None:
    """How far the map can be trusted, and what tasks have in common."""
    st.subheader("Can the map be trusted?", anchor=False)
    left, right = st.columns([2, 3], gap="medium")
    with left, safe.shown_problems("stability"):
        _agreement(maps[task])
        _samples(maps[task], task, job)
    with right:
        if len(maps) > 1:
            _overlap(maps, job)
        else:
            st.text("Measure a second task to see how many neurons both tasks use.")


def _agreement(found: api.SensitivityMap) -> None:
    halves = api.views.split_half(api.views.module_samples(found))
    st.metric(
        "Rank agreement of two halves of the samples",
        f"{halves.mean:.3f}",
        help=f"Spearman's correlation of the matrices' sums in {halves.n_half} samples and in "
        f"{halves.n_half} others; middle 95 % of random halves: {halves.low:.3f} to "
        f"{halves.high:.3f}.",
    )
    st.caption(f"95 % of random halves: {halves.low:.3f} to {halves.high:.3f}")


def _samples(found: api.SensitivityMap, task: str, job: SensitivityJob) -> None:
    k = min(api.spec(shell.current().student).n_layers, found.spec.n_layers)
    sizes = [n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256) if n < found.n_samples]
    sizes.append(found.n_samples)
    same = api.views.stability_by_samples(found.layer_samples, k, sizes)
    frame = pd.DataFrame({"samples": sizes, "same_layers": same})
    share.figure(
        charts_sensitivity.samples_figure(frame, charts.look_of(st.context.theme.type)),
        frame,
        key="samples",
        caption=f"How many of the {k} layers fewer samples choose too · {task}, {origin(found)}",
        command=api.as_command(job),
        python=api.as_python(job),
        alt="Share of the chosen layers against the number of seed samples",
    )


def _overlap(maps: Maps, job: SensitivityJob) -> None:
    scores = [api.views.unit_scores(found, "neurons") for found in maps.values()]
    found = api.views.overlap(scores, min(100, max(1, scores[0].size // 20)))
    shares = np.array([[cell.share for cell in row] for row in found])
    names, first = list(maps), found[0][0]
    frame = pd.DataFrame(shares, columns=names)
    frame.insert(0, "task", names)
    share.figure(
        charts_sensitivity.overlap_figure(shares, names, charts.look_of(st.context.theme.type)),
        frame,
        key="overlap",
        caption=f"Share of the top {first.k} FFN neurons that two tasks have in common; chance "
        f"{100 * first.chance:.0f} % · {origin(next(iter(maps.values())))}",
        command=api.as_command(job),
        python=api.as_python(job),
        alt="Heatmap of tasks by tasks: share of top neurons in common",
    )

"""Parts of the Sensitivity page: the map, the layers, and how far the map can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
import streamlit as st
from numpy import ndarray

from nuggets import api
from nuggets.documents.colours import Look
from nuggets.ui.charts import base as charts
from nuggets.ui.charts import erasure as erasure_charts
from nuggets.ui.charts import heatmap
from nuggets.ui.charts import sensitivity as sensitivity_charts
from nuggets.ui.frame import safe, share, shell
from nuggets.ui.frame.share import Picture
from nuggets.ui.sensitivity import matrix as matrix_part
from nuggets.ui.sensitivity import truth
from nuggets.ui.sensitivity.sources import Source, Sources

PICKED = "nuggets-map-picked"


class View(NamedTuple):
    """Which maps the page shows, checked.

    Attributes:
        a: name of the map that is shown.
        b: name of the one it is compared with.
        show: `A`, `B` or `A − B`.
    """

    a: str
    b: str | None
    show: str

    def own(self, found: Sources) -> Source:
        """The map that is shown, the first of a difference."""
        return found[self.b] if self.show == "B" and self.b else found[self.a]


class Values(NamedTuple):
    """How the map's values are shown: one of `api.views.MODES`, and by decades or as a ratio."""

    mode: Any
    log: bool


def overview(found: Sources, view: View, choice: shell.Choice) -> None:
    """The model at a glance, and one of its matrices beside it."""
    left, right = st.columns(2, gap="small")
    with left:
        glance(found, view)
    with right:
        matrix_part.matrix(found, view.a, view.b, view.show, choice)


@safe.fragment
@safe.shown_problems("map")
def glance(found: Sources, view: View) -> None:
    """The map with its controls, which draw nothing else again; a click does."""
    if st.session_state.pop(PICKED, False):
        st.rerun()
    values = _controls(bool(reference_set(found)))
    chosen = matrix_part.chosen(found[view.a].map.spec)
    picture = map_picture(found, view, values, share.look(), chosen)
    # The key changes when the matrix is chosen by keyboard, which unselects the map.
    key = f"{picture.key}-{st.session_state.get('nuggets-map-round', 0)}"
    picture._replace(key=key).draw(lambda: _choose(key, picture.data))


def reference_set(found: Sources) -> list[api.SensitivityMap]:
    """What `distinctive` is set against: every built-in task, or nothing while one is missing.

    It is always the same set, so that no number changes because something else was measured.
    """
    names = list(api.skills())
    return [found[name].map for name in names] if set(names) <= set(found) else []


def _controls(comparable: bool) -> Values:
    bound: Any = {"bind": "query-params"}
    modes: list[Any] = [mode for mode in api.views.MODES if mode != "distinctive" or comparable]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        mode = st.selectbox("Values", modes, key="mode", width=160, format_func=charts.plain_name,
                            help="; ".join(f"{charts.plain_name(m)}: {heatmap.TITLES[m]}"
                                           for m in modes), **bound)  # fmt: skip
        fixed = mode == "distinctive"
        scale = st.segmented_control("Scale", ("linear", "log"), default="linear", required=True,
                                     key="scale", disabled=fixed, **bound)  # fmt: skip
    return Values(mode if mode in modes else modes[0], scale == "log" and not fixed)


def shown_values(
    found: Sources, view: View, values: Values
) -> tuple[pd.DataFrame, heatmap.Shown, Sequence[ndarray]]:
    """The values of the map with their reading, and what must share their colours."""
    (a, b, _), (mode, log) = view, values
    maps = {name: source.map for name, source in found.items()}
    spec, views = maps[a].spec, api.views
    if b is not None and view.show == "A − B":
        cells = views.difference(maps[a], maps[b], mode, log)
        totals = views.difference(maps[a], maps[b], "absolute").mean
        shown = heatmap.Shown.of(mode, log, f"{a} − {_scaled(maps, a, b, mode)}")
        return heatmap.map_frame(spec, cells, totals), shown, ()
    own, other = (a, b) if view.show != "B" or b is None else (b, a)
    cells = _set_against(found, maps[own], mode)
    totals = views.module_values(maps[own], "absolute").mean
    compare = () if other is None else (_set_against(found, maps[other], mode).mean,)
    return heatmap.map_frame(spec, cells, totals), heatmap.Shown.of(mode, log), compare


def _scaled(maps: dict[str, api.SensitivityMap], a: str, b: str, mode: str) -> str:
    """B's name, and that its sums are scaled where it has other samples in number than A."""
    n = maps[a].n_samples
    same = mode in ("share", "distinctive") or maps[b].n_samples == n
    return b if same else f"{b} (scaled to {n} samples)"


def _set_against(found: Sources, map: api.SensitivityMap, mode: Any) -> api.views.Values:
    """A map's values; what is distinctive, against the reference set and, if it is none, itself."""
    tasks = reference_set(found)
    return api.views.module_values(map, mode, [t for t in tasks if t is not map] + [map])


def _choose(key: str, frame: pd.DataFrame) -> None:
    """Takes a click on the map over into the choice of the matrix."""
    points = st.session_state[key]["selection"]["points"]
    names = dict(zip(frame["module"], frame["name"], strict=True))
    clicked = [names.get(point.get("customdata")) for point in points]
    if clicked and clicked[0] is not None and clicked[0] != st.session_state.get("matrix"):
        st.session_state["matrix"] = clicked[0]
        st.session_state[PICKED] = True
        matrix_part.whole()


def map_picture(
    found: Sources, view: View, values: Values, look: Look, chosen: str | None = None
) -> Picture:
    """The model at a glance, with one matrix outlined."""
    frame, shown, compare = shown_values(found, view, values)
    source, mode = view.own(found), values.mode
    apart = view.show == "A − B"
    fixed = mode == "distinctive" and not apart
    what = f"{view.a} − {view.b}" if apart else source.label
    erased = None if apart else truth.found_for(source)
    damage = None if erased is None else erasure_charts.layer_damage(erased)
    note = "" if mode != "distinctive" else "  # distinctive: pass the maps of all tasks"
    mode = mode if mode != "distinctive" else "share"
    return Picture(
        heatmap.map_figure(frame, shown, compare, look, damage, chosen),
        frame,
        "sensitivity-map",
        f"{shown.title[:1].upper()}{shown.title[1:]}{' of all built-in tasks' if fixed else ''}; "
        f"hover for 95 % intervals over samples · {what}, {source.about}"
        + ("" if damage is None else f" · damage to {what} without a layer: 1 is guessing"),
        source.origin(f"print(api.views.module_values(map, {mode!r})){note}"),
        f"Heatmap of layers by modules: {shown.title} for {what}. The table has the values.",
    )


def n_chosen(source: Source, choice: shell.Choice) -> int:
    """How many layers the student would receive."""
    return min(api.spec(choice.student).n_layers, source.map.spec.n_layers)


def layers(source: Source, k: int, look: Look) -> Picture:
    """Layer shares with intervals, and which `k` layers other samples would choose."""
    found = source.map
    stability = api.views.layer_stability(found.layer_samples, k)
    frame = sensitivity_charts.layers_frame(api.views.layer_values(found), stability)
    return Picture(
        sensitivity_charts.layers_figure(frame, look),
        frame,
        "layers",
        f"The {k} most sensitive layers are orange; 95 % intervals over samples · "
        f"{source.label}, {source.about}",
        source.origin(
            "print(api.views.layer_values(map))\n"
            f"print(api.views.layer_stability(map.layer_samples, {k}))",
        ),
        "Bars: share of each layer with its interval, and how often it is chosen when "
        "samples are resampled",
    )


def trust(source: Source, choice: shell.Choice) -> None:
    """Which layers would be chosen, and how far the map can be trusted with these samples."""
    st.subheader("Which layers, and can the map be trusted?", anchor=False)
    left, right = st.columns(2, gap="medium")
    with left, safe.shown_problems("layers"):
        layers(source, n_chosen(source, choice), share.look()).draw()
    with right, safe.shown_problems("stability"):
        samples(source, n_chosen(source, choice), share.look()).draw()
        _agreement(source.map)


def _agreement(found: api.SensitivityMap) -> None:
    halves = api.views.split_half(api.views.module_samples(found))
    st.metric(
        "Rank correlation between two halves of the samples",
        f"{halves.mean:.3f}",
        help=f"Spearman's correlation between the matrices' sums over {halves.n_half} samples "
        f"and over {halves.n_half} others; middle 95 % of random halves: {halves.low:.3f} "
        f"to {halves.high:.3f}.",
    )
    st.caption(f"95 % of random halves: {halves.low:.3f} to {halves.high:.3f}")


def samples(source: Source, k: int, look: Look) -> Picture:
    """How many of the `k` layers fewer samples choose too; its data start with the fewest."""
    found = source.map
    sizes = [n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256) if n < found.n_samples]
    sizes.append(found.n_samples)
    same = api.views.stability_by_samples(found.layer_samples, k, sizes)
    frame = pd.DataFrame({"samples": sizes, "same_layers": same})
    return Picture(
        sensitivity_charts.samples_figure(frame, look),
        frame,
        "samples",
        f"How many of the {k} layers are also chosen from fewer samples · "
        f"{source.label}, {source.about}",
        source.origin(f"print(api.views.stability_by_samples(map.layer_samples, {k}, {sizes}))"),
        "Share of the chosen layers against the number of seed samples",
    )

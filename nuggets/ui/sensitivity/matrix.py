"""One matrix of the Sensitivity page: blocks, zoom, windows and profiles.

A box on the matrix zooms in: the part is binned again from the full map. The choice
lives in two sliders, which are part of the address and work by keyboard.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import streamlit as st

from nuggets import api
from nuggets.errors import BadInput
from nuggets.ui.charts import heatmap
from nuggets.ui.charts import sensitivity as sensitivity_charts
from nuggets.ui.frame import safe, share, shell
from nuggets.ui.sensitivity.sources import Source, Sources
from nuggets.views.matrices import Binned, Placed

LEAST = 8
"""Fewest rows or columns that are looked at."""
MATRIX_ROUND = "nuggets-matrix-round"
NAMED = "nuggets-matrix-named"
WHOLE = (-1, -1)

Span = tuple[int, int]
Read = Callable[[], np.ndarray]


@safe.fragment
def matrix(found: Sources, a: str, b: str | None, show: str, choice: shell.Choice) -> None:
    """One matrix of what is shown; its own controls draw nothing else again."""
    if st.session_state.pop(NAMED, False):
        st.rerun()  # the map outlines another matrix
    spec = found[a].map.spec
    chosen(spec)
    places = _places(spec)
    shown = found[b] if show == "B" and b else found[a]
    minus = found[b] if show == "A − B" and b else None
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.selectbox("Matrix", places, key="matrix", bind="query-params", width=220,
                            on_change=by_keyboard,
                            help="Click a cell of the map, or choose a matrix here.")  # fmt: skip
        module, role = places[name]
        if any(each and module not in each.map.full for each in (shown, minus)):
            which = None
        else:
            which = st.segmented_control("Blocks", ("mean", "max"), default="mean", required=True,
                                         key="blocks", bind="query-params")  # fmt: skip
    with safe.shown_problems("matrix"):
        if which is None:
            _sums(shown, module, api.views.axis_name(spec, role))
        else:
            _matrix(shown, minus, module, role, "max" if which == "max" else "mean", choice)


def _places(spec: api.ArchSpec) -> dict[str, tuple[str, str]]:
    """Name → module and role of every matrix."""
    return {heatmap.matrix_name(spec, role, at): (m, role) for m, role, at in spec.modules()}


def chosen(spec: api.ArchSpec) -> str:
    """The name of the matrix that is shown; nonsense in the address gives way to a first one."""
    places = _places(spec)
    said = st.session_state.get("matrix", st.query_params.get("matrix"))
    if said not in places:
        said = next(name for name, (_, role) in places.items() if role == "down")
    if st.session_state.get("matrix") != said:  # setting it draws it again
        st.session_state["matrix"] = said
    return said


def by_keyboard() -> None:
    """Forgets the click on the map and the zoom: another matrix was chosen."""
    st.session_state["nuggets-map-round"] = st.session_state.get("nuggets-map-round", 0) + 1
    st.session_state[NAMED] = True
    whole()


def whole() -> None:
    """Shows the whole matrix again."""
    # Set when the sliders are drawn, which know the size; dropping the state would not do: the
    # address still has the old values.
    st.session_state["rows"] = st.session_state["cols"] = WHOLE


def _matrix(
    shown: Source, minus: Source | None, module: str, role: str, which: str, choice: shell.Choice
) -> None:
    spec = shown.map.spec
    large, small = spec.shape(role), api.spec(choice.student).shape(role)
    place = st.container()  # the figure stands above the sliders that it follows
    rows, cols = _part(large)
    binned, windows, note = _looked(shown, module, small, rows, cols)
    name = shown.label
    if minus is not None:
        binned = _difference(binned, shown, minus, module, rows, cols)
        name = f"{shown.label} − {minus.label}"
    profiles = (
        _profile(shown.map.rows[module], rows),
        _profile(shown.map.cols[module], cols),
    )
    key = f"matrix-map-{st.session_state.get(MATRIX_ROUND, 0)}"
    axes = api.views.axis_name(spec, role)
    size = f"rows {rows[0]}–{rows[1] - 1} of {large[0]}, columns {cols[0]}–{cols[1] - 1} of "
    size += f"{large[1]}, window {small[0]} × {small[1]}"
    picture = share.Picture(
        sensitivity_charts.matrix_figure(
            binned, which, windows, profiles, axes, signed=minus is not None, look=share.look()
        ),
        sensitivity_charts.matrix_frame(binned, which),
        key,
        f"{module} · {size} · {name}, {shown.about}",
        shown.origin(
            f"matrix = map.matrix({module!r})\n"
            f"print(api.views.bin_matrix(matrix, rows={rows}, cols={cols}).{which})\n"
            f"print(api.views.chosen_windows(matrix, *{small}))",
        ),
        f"Heatmap of {module} in blocks, with the most sensitive window of the student's shape",
    )
    with place:
        picture.draw(lambda: _zoom(key, large))
        if note:
            st.text(note)


def _sums(shown: Source, module: str, axes: tuple[str, str]) -> None:
    """What is left of a matrix whose entries were not kept."""
    rows, cols = shown.map.rows[module], shown.map.cols[module]
    frame = sensitivity_charts.sums_frame(rows, cols, axes)
    share.Picture(
        sensitivity_charts.sums_figure(frame, share.look()),
        frame,
        "matrix-sums",
        f"{module} · only its {len(rows)} row and {len(cols)} column sums were kept · "
        f"{shown.label}, {shown.about}",
        shown.origin(f"print(map.rows[{module!r}], map.cols[{module!r}])"),
        f"Sums over the rows and over the columns of {module}",
    ).draw()


def _part(large: Span) -> tuple[Span, Span]:
    """The rows and columns shown; an address may contain anything."""
    spans = []
    with st.container(horizontal=True, vertical_alignment="bottom"):
        for key, label, size in (("rows", "Rows", large[0]), ("cols", "Columns", large[1])):
            if key in st.session_state and not _inside(st.session_state[key], size):
                st.session_state[key] = (0, size)
            low, high = st.slider(label, 0, size, (0, size), key=key, bind="query-params",
                                  width=130, help="Or drag a box on the matrix.")  # fmt: skip
            spans.append(_at_least(low, high, size))
        st.button("Whole matrix", key="whole", on_click=whole,
                  disabled=spans == [(0, large[0]), (0, large[1])])  # fmt: skip
    return spans[0], spans[1]


def _inside(span: Any, size: int) -> bool:
    if not isinstance(span, tuple | list) or len(span) != 2:
        return False
    return all(isinstance(x, int) for x in span) and 0 <= span[0] <= span[1] <= size


def _at_least(low: float, high: float, size: int) -> Span:
    """A span of whole numbers inside 0…size that is not too small to look at."""
    least = min(LEAST, size)
    start = int(np.clip(np.floor(low), 0, size - least))
    return start, int(np.clip(np.ceil(high), start + least, size))


def _zoom(key: str, large: Span) -> None:
    """Takes a box over into the sliders; the figure is then a new one, with nothing selected."""
    boxes = st.session_state[key]["selection"].get("box") or []
    if not boxes:
        return
    down, across = sorted(boxes[0]["y"]), sorted(boxes[0]["x"])
    st.session_state["rows"] = _at_least(down[0], down[1], large[0])
    st.session_state["cols"] = _at_least(across[0], across[1], large[1])
    st.session_state[MATRIX_ROUND] = st.session_state.get(MATRIX_ROUND, 0) + 1


def _looked(
    shown: Source, module: str, small: Span, rows: Span, cols: Span
) -> tuple[Binned, list[Placed], str]:
    key = str(shown.map.meta.get("digest") or id(shown.map))
    read = cache(partial(shown.map.matrix, module))  # hundreds of MB: not twice, and not kept
    windows, note = _windows(key, module, small, read)
    return _blocks(key, module, rows, cols, read), windows, note


@st.cache_data(max_entries=128, show_spinner="Reading every entry…")
def _blocks(key: str, module: str, rows: Span, cols: Span, _read: Read) -> Binned:
    return api.views.bin_matrix(_read(), rows=rows, cols=cols)


@st.cache_data(max_entries=128, show_spinner="Searching for the window…")
def _windows(key: str, module: str, shape: Span, _read: Read) -> tuple[list[Placed], str]:
    """Windows of a matrix, and why there is none; kept, as large ones take long."""
    try:
        found = api.views.chosen_windows(_read(), *shape)
    except BadInput as problem:
        return [], str(problem)
    return [window for window in found if window is not None], ""


def _difference(
    binned: Binned, a: Source, b: Source, module: str, rows: Span, cols: Span
) -> Binned:
    """Blocks of A minus blocks of B, each as a share of its matrix's sum."""
    key = str(b.map.meta.get("digest") or id(b.map))
    other = _blocks(key, module, rows, cols, partial(b.map.matrix, module))
    ours, theirs = a.map.total(module) or 1.0, b.map.total(module) or 1.0
    return binned._replace(
        mean=binned.mean / ours - other.mean / theirs, max=binned.max / ours - other.max / theirs
    )


def _profile(values: np.ndarray, part: Span) -> tuple[np.ndarray, np.ndarray]:
    at, means = api.views.profile(values[part[0] : part[1]])
    return at + part[0], means

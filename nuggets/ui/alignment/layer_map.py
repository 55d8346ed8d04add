"""The layer map by hand: clicked on the matrix or written, kept in the address, used in a transfer.

The map is one text, a teacher layer per student layer. A click on the matrix sets one of them;
the text field is the same by keyboard.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import streamlit as st
from numpy import ndarray

from nuggets import api
from nuggets.errors import BadInput
from nuggets.ui.charts import alignment as alignment_charts
from nuggets.ui.frame import safe, share, shell
from nuggets.ui.transfer import form

KEY = "layer_map"
BY_HAND = alignment_charts.BY_HAND
Maps = dict[str, list[tuple[int, int]]]


def field(n_student: int) -> None:
    """Draws the text of the map; empty where none is made."""
    st.text_input(
        "Layer map by hand",
        key=KEY,
        bind="query-params",
        placeholder="click cells or type layers",
        max_chars=1000,
        width=240,
        help=f"The teacher layer for each of the {n_student} student layers, counted from 0 and "
        "separated by commas. Clicking a cell of the matrix sets the layer of its column.",
    )


def text() -> str:
    """The map as it stands in the field."""
    return str(st.session_state.get(KEY) or "").strip()


def written() -> tuple[int, ...] | None:
    """The map as written; None where nothing is.

    Raises:
        BadInput: if it is not a list of whole numbers.
    """
    if not text():
        return None
    parts = [part.strip() for part in text().split(",")]
    if not all(part.isdecimal() and len(part) < 6 for part in parts):
        raise BadInput(
            f"The layer map {text()[:80]!r} is not a list of layers. Type whole numbers from 0, "
            "separated by commas, such as 0, 1, 3, 5."
        )
    return tuple(int(part) for part in parts)


def usable(shape: tuple[int, int]) -> tuple[int, ...] | None:
    """The map by hand, if there is one that fits the pair."""
    try:
        found = written()
        api.views.layer_maps(*shape, by_hand=found)
    except BadInput:
        return None
    return found


def add(maps: Maps, shape: tuple[int, int]) -> Maps:
    """The selectors' maps with the one by hand, or a sentence why it cannot be."""
    with safe.shown_problems("layer-map"):
        by_hand = written()
        if by_hand is not None:
            found = api.views.layer_maps(*shape, by_hand=by_hand)
            return maps | {BY_HAND: found[BY_HAND]}
    return maps


def clicked(key: str, shape: tuple[int, int], start: Sequence[int]) -> None:
    """Takes a click on the matrix over into the map; the first one begins with a selector's."""
    points = st.session_state[key]["selection"]["points"]
    cells = [point.get("customdata") for point in points]
    if not cells or cells[0] is None:
        return
    student, teacher = (int(layer) for layer in cells[0])
    layers = list(usable(shape) or start)
    layers[student] = teacher
    write(layers)


def write(layers: Sequence[int]) -> None:
    """Sets the map, from a callback."""
    st.session_state[KEY] = ", ".join(str(layer) for layer in layers)


def actions(maps: Maps) -> None:
    """What is done with a map, and what is odd about the one by hand."""
    by_hand = [teacher for _, teacher in maps.get(BY_HAND, ())]
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button("Use in a transfer", type="primary", key="use-layer-map",
                     disabled=not by_hand, help="Opens Transfer with these layers."):  # fmt: skip
            form.choose_layers(by_hand)
            shell.go("transfer")
        for name, pairs in maps.items():
            if name != BY_HAND:
                st.button(f"Start from {name}", key=f"start-{name}", on_click=write,
                          args=([teacher for _, teacher in pairs],))  # fmt: skip
        st.button("Clear", key="clear-layer-map", on_click=write, args=((),), disabled=not by_hand)
    if not by_hand:
        st.caption("Click cells to build your own layer map, one teacher layer for each column.")
    safe.notes(remarks(by_hand))


def table(maps: Maps, matrix: ndarray, title: str, caption: str, origin: share.Origin) -> None:
    """All layer maps in figures."""
    share.table(
        alignment_charts.maps_frame(maps, matrix),
        "layer-maps",
        caption,
        origin,
        height="content",
        column_config={
            "layer_map": "layer map",
            "teacher_layers": "teacher layers",
            "mean": st.column_config.NumberColumn(
                "mean along the map", format="%.3f", help=f"{title}, mean over the student's layers"
            ),
        },
        alt="Every layer map with its teacher layers and the mean of the measure along it",
    )


def remarks(layers: Sequence[int]) -> list[str]:
    """What is allowed, but unusual: layers out of order, and layers that are used twice."""
    found = []
    back = next((i for i, (a, b) in enumerate(pairwise(layers), 1) if b < a), None)
    if back is not None:
        found.append(
            f"Out of order: student layer {back} gets teacher layer {layers[back]}, student layer "
            f"{back - 1} the later {layers[back - 1]}. The paper keeps the order, but a transfer "
            "runs either way."
        )
    twice = sorted({layer for layer in layers if layers.count(layer) > 1})
    if twice:
        found.append(f"Used more than once: {', '.join(f'L{layer}' for layer in twice)}.")
    return found

"""Controls that are part of the address: what a link says is taken, or refused in a sentence.

Streamlit drops a value of an address that its widget cannot take, and says nothing. Each field here
looks at the address first and keeps a sentence, which `refusals` gives until the field is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import streamlit as st

from nuggets.ui.frame import safe

REFUSED = "nuggets-address"
_DRAWN = "nuggets-fields"
"""Which fields this view has: what another page's could not take blocks nothing here."""
N = TypeVar("N", int, float)
_UNSEEN: Any = object()
"""The value of a field that has not been drawn yet."""


def begin() -> None:
    """A new view, whose fields are yet to be drawn."""
    st.session_state[_DRAWN] = set()


def select(label: str, options: Sequence[str], value: str, key: str, help: str) -> str:
    """One of a few, from a list that opens."""
    check(key, options.__contains__, f"one of {', '.join(options)}")
    place = options.index(value) if value in options else 0
    return st.selectbox(label, options, index=place, key=key, bind="query-params", help=help)


def switch(label: str, options: Sequence[str], value: str, key: str, help: str) -> str:
    """One of two or three, side by side."""
    check(key, options.__contains__, f"one of {', '.join(options)}")
    return st.segmented_control(
        label, options, default=value, required=True, key=key, bind="query-params",
        help=help, width="stretch",
    )  # fmt: skip


def several(
    label: str, options: Sequence[str], value: Sequence[str], key: str, help: str
) -> list[str]:
    """Some of many, in the order in which they were chosen."""
    check(key, options.__contains__, f"some of {', '.join(options)}")
    return st.multiselect(
        label, options, default=list(value), key=key, bind="query-params", help=help
    )


def pills(
    label: str, options: Sequence[str], value: Sequence[str], key: str, help: str
) -> list[str]:
    """Some of a few, side by side."""
    check(key, options.__contains__, f"some of {', '.join(options)}")
    return st.pills(
        label, options, selection_mode="multi", default=list(value), key=key,
        bind="query-params", help=help,
    )  # fmt: skip


def number(
    label: str, low: N, high: N, value: N, key: str, help: str = "", step: N | None = None,
    format: str | None = None,
) -> N:  # fmt: skip
    """A number to type."""
    check(key, _inside(low, high), _range(low, high))
    return st.number_input(  # type: ignore[return-value]
        label, low, high, value, step, format=format, key=key, bind="query-params",
        help=help or None,
    )  # fmt: skip


def slider(label: str, low: N, high: N, value: N, key: str, help: str, step: N) -> N:
    """A number to move."""
    check(key, _inside(low, high), _range(low, high))
    return st.slider(label, low, high, value, step, key=key, bind="query-params", help=help)


def text(label: str, value: str, key: str, help: str, placeholder: str = "") -> str:
    """A line to type; whether it means something is for the recipe to say."""
    return st.text_input(
        label, value, key=key, bind="query-params", help=help, placeholder=placeholder
    )


def check(key: str, fits: Callable[[str], bool], allowed: str) -> None:
    """Looks whether the address says what a field can take; call before it is drawn."""
    st.session_state.setdefault(_DRAWN, set()).add(key)
    if key in st.session_state:
        return  # drawn before: the address follows the field now
    wrong = [value for value in st.query_params.get_all(key) if not fits(value)]
    if wrong:
        shown = ", ".join(repr(value[:40]) for value in wrong[:3])
        sentence = f"The link sets {key}={shown}, but the value must be {allowed}."
        st.session_state.setdefault(REFUSED, {})[key] = (sentence, _UNSEEN)


def refusals() -> list[str]:
    """What the link asked for and no field could take, one sentence each; call after drawing."""
    state, found = st.session_state, {}
    for key, (sentence, stood) in state.get(REFUSED, {}).items():
        now = state.get(key)
        if key not in state.get(_DRAWN, ()):
            continue
        if stood is _UNSEEN or stood == now:
            found[key] = (sentence, now)
    state[REFUSED] = found
    return [sentence for sentence, _ in found.values()]


def ignored() -> bool:
    """Says what the link asked for and no field could take; a person says how to go on."""
    sentences = refusals()
    for place, sentence in enumerate(sentences):
        safe.problem(sentence, f"address-{place}", "Part of this link was ignored")
    if sentences:
        st.button("Go on with the values shown", key="as-shown", on_click=forget)
    return bool(sentences)


def forget() -> None:
    """Another recipe: what the link said of the last one matters no more."""
    st.session_state[REFUSED] = {}


def _inside(low: float, high: float) -> Callable[[str], bool]:
    def fits(value: str) -> bool:
        try:
            return low <= float(value) <= high
        except ValueError:
            return False

    return fits


def _range(low: float, high: float) -> str:
    return f"a number from {low:,g} to {high:,g}"


def popover(label: str, key: str, **more: Any) -> Any:
    """A popover that `close` can close once it has served, else it covers the page below it."""
    return st.popover(label, key=key, on_change="rerun", **more)


def close(*keys: str) -> None:
    """Closes those of these popovers that are on the page; from a callback only."""
    for key in keys:
        if key in st.session_state:
            st.session_state[key] = False

"""Text that we did not write is shown as it is: never as Markdown, HTML or a link."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import streamlit as st

from nuggets.disk import last_frame
from nuggets.disk.last_frame import is_fault
from nuggets.runs.schema import RunStatus

REFUSED = "This did not work"
STATUS_COLOURS = {
    "created": "gray",
    "queued": "orange",
    "running": "blue",
    "done": "green",
    "failed": "red",
    "cancelled": "gray",
    "interrupted": "orange",
    "damaged": "red",
}


def problem(text: object, key: str = "problem", title: str = REFUSED) -> None:
    """A sentence about what went wrong, as plain text in a frame; the title is our own."""
    with st.container(border=True, key=f"nuggets-{key}", gap="xsmall"):
        st.badge(title, color="red")
        st.text(str(text))


def notes(sentences: Iterable[str]) -> None:
    """What the user should know, one plain sentence per line."""
    with st.container(gap="xxsmall"):
        for sentence in sentences:
            st.text(f"• {sentence}")


@contextmanager
def shown_problems(key: str = "problem") -> Iterator[None]:
    """Shows an error of the block as a sentence; the rest of the page is drawn."""
    try:
        yield
    except BaseException as error:
        if not is_fault(error):  # Streamlit ends a drawing with exceptions of its own
            raise
        problem(last_frame.sentence(error), key)


def fragment(body: Callable[..., None], run_every: float | None = None) -> Callable[..., None]:
    """A part that is drawn again by itself; an error of it is shown in its place."""

    @wraps(body)
    def drawn(*given: Any, **named: Any) -> None:
        with shown_problems(body.__name__.strip("_")):
            body(*given, **named)

    return st.fragment(drawn, run_every=run_every)


@contextmanager
def refused_later(place: str = "refused") -> Iterator[None]:
    """Keeps an error of a button for the next full run, where `refused` shows it.

    Also a decorator, for callbacks.
    """
    try:
        yield
    except BaseException as error:
        if not is_fault(error):
            raise
        st.session_state[f"nuggets-{place}"] = last_frame.sentence(error)


def refused(place: str = "refused", title: str = REFUSED) -> None:
    """Shows what the last button of a place could not do."""
    if text := st.session_state.pop(f"nuggets-{place}", None):
        problem(text, place, title)


def status(value: RunStatus) -> None:
    """The status of a run as a coloured word."""
    st.badge(value, color=STATUS_COLOURS[value])  # type: ignore[arg-type]


def label(text: str, most: int = 60) -> str:
    """Foreign text for a place that reads Markdown, such as a widget's label: escaped, short."""
    flat = " ".join(text.split())
    short = flat if len(flat) <= most else f"{flat[: most - 1]}…"
    # A colon begins icons and colours, which backslashes do not disarm: use its look-alike.
    return re.sub(r"([\\`*_{}\[\]()<>#+\-.!|~$^=&])", r"\\\1", short).replace(":", "꞉")

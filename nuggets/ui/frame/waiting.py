"""Reading a user's files beside the page: nobody waits for a file longer than a moment.

A file may lie on a disk that sleeps or a network that hangs. What is not there in time is shown by
the page once it is; until then the page says what is read, and everything else works.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Thread
from typing import Any, TypeVar

import streamlit as st

from nuggets.ui.frame import safe

PATIENCE_S = 1.5
KEPT_S = 60.0
"""How long the answer to something slow is used again, so that the page can be worked with."""
_POLL_S = 0.5
_JOBS = "nuggets-awaited"

T = TypeVar("T")


def read(key: str, wanted: str, call: Callable[[], T], saying: str) -> T:
    """The value of a call that reads files; the page ends here while there is none yet.

    Args:
        key: a place on the page, which waits for one thing at a time.
        wanted: what is asked for; another text asks anew.
        call: runs in a thread of its own, and may not draw.
        saying: what is shown meanwhile.

    Raises:
        NuggetsError: as the call does.
    """
    jobs: dict[str, tuple[str, float, Future[Any]]] = st.session_state.setdefault(_JOBS, {})
    asked, began, future = jobs.get(key, ("", 0.0, Future()))
    if asked != wanted:
        began, future = time.monotonic(), Future()
        Thread(target=_work, args=(future, call), name=f"nuggets-{key}", daemon=True).start()
        jobs[key] = (wanted, began, future)
    wait([future], PATIENCE_S)
    if not future.done():
        st.text(saying)
        safe.fragment(_look, run_every=_POLL_S)(future)
        st.stop()
    if not PATIENCE_S < time.monotonic() - began < KEPT_S:
        del jobs[key]  # what is quick is read again each time, so that a changed file shows
    return future.result()


def _work(future: Future[Any], call: Callable[[], Any]) -> None:
    try:
        future.set_result(call())
    except BaseException as problem:
        future.set_exception(problem)


def _look(future: Future[Any]) -> None:
    if future.done():
        st.rerun()

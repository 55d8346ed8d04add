"""What the playground's worker replies to a question, drawn as it arrives."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from nuggets import api
from nuggets.errors import NuggetsError
from nuggets.ui.frame import safe

TICK_S = 0.5


def panel(
    question: api.playground.Question, key: str, draw: Callable[[api.playground.Reply], None]
) -> bool:
    """Draws the newest reply to exactly this question; False if it was not asked yet.

    Args:
        question: what was asked.
        key: unique on the page.
        draw: draws the answers that are there, again and again until all are.
    """
    found = api.playground.latest(question)
    if found is None:
        return False
    tick = None if found.ended else TICK_S
    safe.fragment(_panel, run_every=tick)(found.id, key, draw, not found.ended)
    return True


def _panel(
    reply_id: str, key: str, draw: Callable[[api.playground.Reply], None], was_open: bool
) -> None:
    try:
        found = api.playground.reply(reply_id)
    except NuggetsError as error:
        safe.problem(error, f"{key}-lost")
        return
    if was_open and found.ended:
        st.rerun()  # stops the polling
    if found.status == "failed":
        safe.problem(found.problem, f"{key}-failed", "No answer")
    elif not found.ended:
        text = "The models are loading. The first question takes a few seconds."
        st.caption("Answering…" if found.answers else text)
    draw(found)

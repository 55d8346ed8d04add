"""A run as people see it, the same on every page: its name, its status, its verdict in words."""

from __future__ import annotations

from typing import Any

import streamlit as st

from nuggets import api
from nuggets.statistics.verdict import KIND_WORDS, LOCATION_WORDS, Verdict
from nuggets.ui.frame import safe

COLOURS: dict[str, Any] = {"helps": "green", "hurts": "red", "same_as_controls": "orange"}
"""Of the verdict's badge; grey where nothing was shown."""
PLACES: dict[str, Any] = {"located": "green", "not_located": "orange"}


def line(run: api.Run) -> None:
    """Draws the name, with the id as its tooltip, and badges for status and verdict."""
    with st.container(horizontal=True, vertical_alignment="center", width="stretch", gap="small"):
        st.text(api.about(run).title, help=safe.label(f"Run {run.id}", 80), width="content")
        status = run.status()
        safe.status(status)
        if status == "done" and (found := verdict_of(run)):
            badges(found)


def badges(found: Verdict) -> None:
    """The two answers of a verdict; the second where it was asked."""
    st.badge(KIND_WORDS[found.kind], color=COLOURS.get(found.kind, "gray"))
    if found.location:
        st.badge(LOCATION_WORDS[found.location], color=PLACES.get(found.location, "gray"))


def verdict_of(run: api.Run) -> Verdict | None:
    """The verdict of a run; a report that cannot be read is a matter for the Results page."""
    try:
        report = api.report(run)
    except ValueError:
        return None
    return None if report is None else report.verdict

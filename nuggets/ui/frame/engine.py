"""Where runs compute, in one line."""

from __future__ import annotations

import streamlit as st

from nuggets import api
from nuggets.errors import NuggetsError
from nuggets.ui.frame import safe


def engine() -> None:
    """Says where runs compute, and why they could not be started there now."""
    try:
        chosen = api.engines.chosen()
    except NuggetsError as problem:
        safe.problem(problem, "engine")
        return
    st.text(f"{chosen.words()} {chosen.unavailable()}".strip())

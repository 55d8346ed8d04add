"""Popovers that close once they have done what they were opened for: else they cover the page."""

from __future__ import annotations

from typing import Any

import streamlit as st


def popover(label: str, key: str, **more: Any) -> Any:
    """A popover that a callback can `close` by its key."""
    return st.popover(label, key=key, on_change="rerun", **more)


def close(*keys: str) -> None:
    """Closes those of these popovers that are on the page; from a callback only."""
    for key in keys:
        if key in st.session_state:
            st.session_state[key] = False

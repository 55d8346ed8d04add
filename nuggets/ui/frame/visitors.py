"""What a demo server does not offer: absent, or told in one sentence."""

from __future__ import annotations

import streamlit as st

from nuggets import demo


def not_here(why: str) -> bool:
    """Whether this is a demo, which then says in one sentence why something is missing."""
    if demo.on():
        st.text(demo.sentence(why))
    return demo.on()


def notice() -> None:
    """For the sidebar: what a visitor should know before anything is started."""
    if demo.on():
        st.caption(
            f"**Demo.** Built-in models and tasks; runs of {demo.MINUTES:g} minutes at most, which "
            "all visitors see."
        )

"""The first-visit guide: five steps in one line above Home, until it is put away."""

from __future__ import annotations

import streamlit as st

from nuggets import api
from nuggets.ui.frame import safe, shell

STEPS = (
    ("sensitivity", "1 Find", "Where the teacher keeps the skill: layers, matrices, neurons."),
    ("alignment", "2 Compare", "Which layers of the two models are similar."),
    ("transfer", "3 Plan", "What will be extracted, before anything is trained."),
    ("runs", "4 Run", "Train arms and seeds in the background, even with this window closed."),
    ("results", "5 Judge", "The verdict, with controls and intervals."),
)
HIDDEN = "nuggets-tour-hidden"


def card() -> None:
    """Draws the steps as links, unless the guide was put away."""
    if _hidden():
        return
    with st.container(border=True, horizontal=True, vertical_alignment="center", key="tour"):
        st.markdown("**First visit?**")
        for page, label, meaning in STEPS:
            shell.link(page, label, help=meaning)
        shell.link("learn", "Learn why")
        st.button("Hide", key="tour-hide", type="tertiary", on_click=_put_away, args=(True,),
                  help="You can show it again from the Learn page.")  # fmt: skip


def again() -> None:
    """On Learn: brings the guide back."""
    if _hidden():
        st.button("Show the tour again", key="tour-again", on_click=_put_away, args=(False,))
    else:
        shell.link("home", "Go to the tour on Home")


def _hidden() -> bool:
    return st.session_state.get(HIDDEN, False) or api.tour.hidden()


@safe.refused_later()
def _put_away(hidden: bool) -> None:
    """Remembered in the home; in this window alone where that cannot be written to."""
    st.session_state[HIDDEN] = hidden
    api.tour.hide(hidden)

"""Yes, thing by thing: to what a recipe or run from elsewhere would use, and to what is sent."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from nuggets import api
from nuggets.recipe import TransferRecipe
from nuggets.ui.frame import safe


def ticked(wants: Sequence[api.strangers.Want], key: str) -> set[str]:
    """Draws a box for each thing that is wanted; returns the names that a person ticked."""
    if wants:
        st.text("It was not made here. Tick what it may use:")
    return {
        want.name
        for place, want in enumerate(wants)
        if st.checkbox(safe.label(f"{want.what} {want.name}", 400), key=f"{key}-want-{place}")
    }


def agreed(recipe: TransferRecipe) -> bool:
    """Whether the person agrees to everything that leaves this machine, each by its name."""
    yes = True
    for sentence in api.permits.sent(recipe.benchmarks):
        st.text(sentence)
        yes &= st.checkbox("Send this", key=f"send-{sentence}")
    return yes


def allow_and_resume(run_id: str, names: set[str]) -> None:
    """Continues a run from elsewhere with everything that it wants.

    Raises:
        BadInput: if a box was not ticked, naming it.
    """
    api.strangers.allow(run_id, names)
    api.resume(run_id)

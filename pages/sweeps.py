"""Sweeps: search a recipe's fields, look at the trials, confirm what was found."""

from __future__ import annotations

import streamlit as st

from nuggets import api
from nuggets.errors import NuggetsError
from nuggets.ui.frame import safe, shell
from nuggets.ui.sweeps import live, results, start


def main() -> None:
    """Draws the page."""
    results.go_on()
    st.title("Sweeps", anchor=False)
    safe.refused()
    try:
        sweep = _choose()
        if sweep is None:
            start.draw(shell.current())
            return
        if sweep.status() == "damaged":
            safe.problem(sweep.problem() or "This sweep cannot be read.", "sweep-damaged")
            return
        _show(sweep)
    except NuggetsError as error:
        safe.problem(error)


def _choose() -> api.Run | None:
    """The sweep that the address names; none for starting one."""
    found = {sweep.id: sweep for sweep in api.sweeping.sweeps()}
    shell.from_address("sweep", found)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.selectbox(
            "Sweep",
            list(found),
            index=None,
            key="sweep",
            format_func=lambda name: live.title(found[name]) if name in found else str(name),
            placeholder="none chosen: start one below",
            width=420,
        )
        if st.session_state.get("sweep"):
            st.button("New sweep", key="new-sweep", on_click=shell.choose, kwargs={"sweep": None})
    shell.keep_in_address("sweep")
    return found.get(st.session_state.get("sweep") or "")


def _show(sweep: api.Run) -> None:
    recipe, state = api.sweeping.recipe_of(sweep), api.sweeping.state_of(sweep)
    live.panel(sweep)
    results.confirmed(sweep, recipe, state)
    if not state.trials:
        return
    # Only the open one is computed and sent.
    tabs = st.tabs(results.TABS, key="view", on_change="rerun", bind="query-params")
    for name, tab in zip(results.TABS, tabs, strict=True):
        if tab.open:
            with tab, safe.shown_problems(f"sweep-{name}"):
                if name == "Trials":
                    results.trials(sweep, recipe, state)
                else:
                    results.figure(name, sweep, recipe, state)
    results.files(sweep, state)


main()

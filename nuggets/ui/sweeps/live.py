"""Where a sweep stands: status, progress, what it found so far; cancel and resume."""

from __future__ import annotations

import streamlit as st

from nuggets import api, demo
from nuggets.amounts import duration
from nuggets.ui.frame import live, safe


def panel(sweep: api.Run) -> None:
    """Draws the panel; it polls while the sweep lives, and the page follows every trial."""
    is_live = sweep.status() in api.LIVE
    n = len(api.sweeping.state_of(sweep).done)
    safe.fragment(_panel, run_every=live.TICK_S if is_live else None)(sweep, is_live, n)


def _panel(sweep: api.Run, was_live: bool, was_done: int) -> None:
    status = sweep.status()
    state = api.sweeping.state_of(sweep)
    acted = st.session_state.pop(live.ACTED, False)
    if acted or (was_live and status not in api.LIVE) or len(state.done) != was_done:
        st.rerun()
    if status == "done":
        return
    recipe, record = api.sweeping.recipe_of(sweep), sweep.record()
    new = status == "created"
    with st.container(border=True, key="nuggets-sweep", gap="small"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.text(title(sweep), help=safe.label(f"Sweep {sweep.id}", 80), width="content")
            safe.status(status)
            if status in api.LIVE and not demo.on():
                asked = sweep.cancel_requested()
                st.button("Stopping…" if asked else "Cancel", key="sweep-cancel", disabled=asked,
                          on_click=live.act, args=(api.sweeping.cancel, sweep.id))  # fmt: skip
            if status in api.RESUMABLE and not demo.on():
                st.button("Start" if new else "Resume", key="sweep-resume", type="primary",
                          on_click=live.act, args=(api.sweeping.resume, sweep.id),
                          help=None if new else "Goes on with the trial that was cut off.",
                )  # fmt: skip
        st.progress(live.overall(record))
        begun = "not started" if new else "starting (loading PyTorch)"
        doing = live.told(sweep).doing or record.stage or begun
        st.text(f"{len(state.done)} of {recipe.n_trials} trials  ·  {doing}  ·  "
                f"Elapsed: {duration(live.elapsed(record))}")  # fmt: skip
        if record.error is not None and status == "failed":
            safe.problem(record.error.message, "sweep-error", "The sweep failed")


def title(sweep: api.Run) -> str:
    """A sweep's name for people: its recipe's, and when it was made."""
    if sweep.status() == "damaged":
        return sweep.id
    record = sweep.record()
    made = record.created.astimezone()
    return f"{record.name} · {made.day} {made:%b} {made:%H:%M}"

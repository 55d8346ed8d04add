"""What a transfer would take, before anything is trained: from the cached map, at once."""

from __future__ import annotations

import streamlit as st

from nuggets import api
from nuggets.errors import NuggetsError
from nuggets.recipe import TransferRecipe
from nuggets.ui import charts, charts_transfer, live, safe, share

MEASURING = "nuggets-measuring"


def plan(recipe: TransferRecipe) -> None:
    """Draws the plan of a recipe, or what has to be measured first."""
    with safe.shown_problems("preview"):
        job = _missing(recipe)
        if job is not None:
            _measure(job)
            return
        found = api.plan(recipe)
        _numbers(found)
        frame = charts_transfer.plan_frame(found)
        share.figure(
            charts_transfer.plan_figure(frame, charts.look_of(st.context.theme.type)),
            frame,
            key="plan",
            caption="Sensitivity kept, in multiples of a random choice's share: 1× is chance",
            command=api.as_command(recipe, "plan"),
            python=api.as_python(recipe),
            alt="Share of sensitivity kept per layer pair and matrix",
        )
        safe.notes(found.notes)


def _missing(recipe: TransferRecipe) -> api.SensitivityJob | api.AlignJob | None:
    """The measurement that the plan still needs."""
    job = api.map_job(recipe)
    if api.find_map(job) is None:
        return job
    if recipe.extraction.layers.kind == "cka":
        pair = api.alignment_job(recipe)
        return pair if api.find_alignment(pair) is None else None
    return None


def _measure(job: api.SensitivityJob | api.AlignJob) -> None:
    """The empty state: says what is missing, and measures it in the background."""
    what = (
        f"The sensitivity of {job.model} was not measured for these samples yet."
        if isinstance(job, api.SensitivityJob)
        else f"The alignment of {job.teacher} and {job.student} was not measured yet."
    )
    with st.container(border=True, key="nuggets-measure"):
        st.text(what)
        st.text("Measure it once, and the plan follows every control at once.")
        st.button("Measure it", key="measure", type="primary", on_click=_start, args=(job,))
    if run := _measuring():
        live.panel(run, "measuring", losses=False)


def _measuring() -> api.Run | None:
    run_id = st.session_state.get(MEASURING)
    try:
        run = api.open_run(run_id) if run_id else None
    except NuggetsError:
        return None
    return None if run is None or run.status() == "done" else run


def _start(job: api.SensitivityJob | api.AlignJob) -> None:
    try:
        st.session_state[MEASURING] = api.start(job).id
    except NuggetsError as error:
        st.session_state["nuggets-refused"] = str(error)


def _numbers(found: api.ExtractionPlan) -> None:
    layers = [teacher for _, teacher in found.alignment.pairs]
    kept = [item.kept_mass for item in found.items]
    agree = found.residual_agreement
    with st.container(horizontal=True):
        st.metric("Teacher layers", " ".join(str(layer) for layer in layers), border=True)
        st.metric("Kept per matrix", f"{sum(kept) / len(kept):.1%}", border=True)
        st.metric(
            "Neighbours agree",
            "–" if agree is None else f"{agree:.0%}",
            border=True,
            help="Overlap of the residual dimensions that neighbouring matrices were cut to. Far "
            "below 100 % the pieces speak of different things: a broken circuit.",
        )
        st.metric("Trainable", f"{found.trainable_parameters:,}", border=True)

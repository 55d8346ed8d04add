"""What a transfer would take, before anything is trained: from the cached map, at once."""

from __future__ import annotations

import streamlit as st

from nuggets import api
from nuggets.recipe import TransferRecipe
from nuggets.ui import charts, charts_transfer, measure, safe, share


def plan(recipe: TransferRecipe) -> None:
    """Draws the plan of a recipe, or what has to be measured first."""
    with safe.shown_problems("preview"):
        if _lacks_map(recipe) or _lacks_alignment(recipe):
            return
        found = api.plan(recipe)
        _numbers(found)
        frame = charts_transfer.plan_frame(found)
        share.figure(
            charts_transfer.plan_figure(frame, charts.look_of(st.context.theme.type)),
            frame,
            key="plan",
            caption="Sensitivity kept; a random choice keeps 1×",
            command=api.as_command(recipe, "plan"),
            python=api.as_python(recipe),
            alt="Share of sensitivity kept per layer pair and matrix",
        )
        safe.notes(found.notes)


def _lacks_map(recipe: TransferRecipe) -> bool:
    job = api.map_job(recipe)
    if api.find_map(job) is not None:
        return False
    sentence = (
        f"The sensitivity of {job.model} was not measured for these samples yet. Once it is, "
        "the plan follows every control at once. Seconds on the built-in models."
    )
    measure.missing("No plan yet", sentence, {"Measure it": [job]}, "plan-map")
    return True


def _lacks_alignment(recipe: TransferRecipe) -> bool:
    job = api.alignment_job(recipe)
    if recipe.extraction.layers.kind != "cka" or api.find_alignment(job) is not None:
        return False
    sentence = (
        f"The layer map cka needs the alignment of {job.teacher} and {job.student}, which was "
        "not measured yet."
    )
    measure.missing("No alignment yet", sentence, {"Measure it": [job]}, "plan-alignment")
    return True


def _numbers(found: api.ExtractionPlan) -> None:
    layers = [teacher for _, teacher in found.alignment.pairs]
    agree = found.residual_agreement
    left, right = st.columns(2)
    left.metric(
        "Teacher layers",
        " ".join(str(layer) for layer in layers),
        border=True,
        help="In the order of the student's layers, from 0.",
    )
    right.metric("Trainable weights", f"{found.trainable_parameters:,}", border=True)
    kept = [item.kept_mass for item in found.items]
    left.metric(
        "Kept per matrix",
        f"{min(kept):.0%} to {max(kept):.0%}",
        border=True,
        help="Share of a teacher matrix's sensitivity that lies inside the chosen entries.",
    )
    right.metric(
        "Neighbours agree",
        "–" if agree is None else f"{agree:.0%}",
        border=True,
        help="Overlap of the residual dimensions that neighbouring matrices were cut to. Below "
        "100 % the pieces speak of different dimensions: the circuit is broken.",
    )

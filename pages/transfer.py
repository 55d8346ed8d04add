"""Transfer: choose what to move and how, look at the plan, run it beside its controls."""

from __future__ import annotations

import streamlit as st

from nuggets import api
from nuggets.errors import NuggetsError
from nuggets.recipe import TransferRecipe
from nuggets.ui.frame import consent, fields, live, safe, shell, waiting
from nuggets.ui.frame.engine import engine
from nuggets.ui.transfer import form, preview, prompt, recipes


def main() -> None:
    """Draws the page."""
    st.title("Plan a transfer", anchor=False)
    safe.refused()
    choice = shell.current()
    _chosen_run(choice)
    refused = st.container()
    try:
        base = recipes.picker(choice)
        left, right = st.columns([5, 6], gap="medium")
        with left, st.container(border=True):
            recipe = form.recipe(base, choice)
            with refused:
                ignored = fields.ignored()
            ahead = waiting.read(
                "ahead",
                api.dump_job(recipe),
                lambda: api.look_ahead(recipe),
                "Reading models and samples…",
            )
            ready = not ignored and not ahead.refusals
            _start_button(recipe, ready=consent.agreed(recipe) and ready)
            recipes.keep(recipe)
            shell.link("sweeps", "Search several settings", "Save this recipe first to search it.")
        with right:
            preview.draw(recipe, ahead)
        prompt.expander(recipe.student, recipe.data)
        recipes.compare(recipe, choice)
        recipes.export(recipe)
    except NuggetsError as error:
        safe.problem(error)


def _chosen_run(choice: shell.Choice) -> None:
    """The live panel of the run that the sidebar names, if it is a transfer."""
    if choice.run is None:
        return
    run = api.open_run(choice.run)
    if run.status() != "damaged" and run.record().kind != "transfer":
        return
    if run.status() == "done" and (report := api.report(run)):
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            with st.container(width="stretch"):
                st.text(report.verdict.sentence)
            if st.button("Open Results", type="primary", key="to-benchmarks"):
                shell.go("results")
    live.panel(run, "transfer-run")


def _start_button(recipe: TransferRecipe, ready: bool) -> None:
    st.button(
        "Start the transfer",
        type="primary",
        key="start",
        disabled=not ready,
        shortcut="Mod+Enter",
        width="stretch",
        on_click=_start,
        args=(recipe,),
        help="Runs in the background. Reloading or leaving this page does not stop it.",
    )
    engine()


@safe.refused_later()
def _start(recipe: TransferRecipe) -> None:
    shell.choose(run=api.start(recipe).id)


main()

"""Sensitivity: where a model keeps a skill, down to one matrix, neuron or head."""

from __future__ import annotations

from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from nuggets import api
from nuggets.ui.frame import fields, measure, safe, shell
from nuggets.ui.sensitivity import atlas, prompt, sources, truth
from nuggets.ui.sensitivity import map as parts
from nuggets.ui.sensitivity import units as units_part
from nuggets.ui.transfer import own_samples

FORMULA = r"S(\theta)=\sum_{x}\left|\,\theta\cdot\partial L(x)/\partial\theta\,\right|"


def main() -> None:
    """Draws the page."""
    choice = shell.current()
    with safe.shown_problems("sensitivity"):
        toolbar = st.container(horizontal=True, vertical_alignment="bottom")
        with toolbar:
            st.title(
                "Sensitivity",
                anchor=False,
                width="content",
                help="Where a skill lives: how much the loss on its answers would change, to first "
                f"order, if a weight were 0. ${FORMULA}$, summed over the seed samples x; L is the "
                "loss on answer tokens only.",
            )
            model, run = where(choice)
        if model is None:
            of_atlas(toolbar, choice)
            return
        wanted = sources.jobs(choice, model)
        found = sources.measured(wanted)
        task = choice.label
        if run is not None:
            taken = sources.of_run(run)
            task, found = taken.label, {taken.label: taken} | found
        if task not in found:
            empty(model, task, wanted, found)
            prompt.section(choice)
            return
        with toolbar:
            view = compared(task, found)
        parts.overview(found, view, choice)
        truth.truth(found[view.a])
        prompt.section(choice)
        units_part.units(found, view.a, view.b)
        parts.trust(found[view.a], choice)
        unmeasured(wanted, found)


def of_atlas(toolbar: DeltaGenerator, choice: shell.Choice) -> None:
    """A map of an atlas: everything that needs no model."""
    with toolbar:
        found, skill = atlas.chosen()
        view = compared(skill, found)
    parts.overview(found, view, choice)
    truth.truth(found[skill])
    units_part.units(found, view.a, view.b)
    parts.trust(found[skill], choice)
    atlas.card(str(found[skill].atlas))


def where(choice: shell.Choice) -> tuple[str | None, str | None]:
    """Which model's map (none: an atlas's), and from which run; both are part of the address."""
    sides = {"teacher": choice.teacher, "student": choice.student}
    sides |= {"atlas": None} if api.atlases.atlases() else {}
    side = st.segmented_control("Model", sides, default="teacher", required=True, key="side",
                                bind="query-params",
                                help="An atlas has maps of other models, which need not be here."
                                )  # fmt: skip
    model = sides.get(str(side), choice.teacher)
    if model is None:
        return None, None
    names = api.titles(sources.past_runs(model))
    with fields.popover("Other samples", "other-samples"):
        own_samples.uploader()
        shell.from_address("map_run", names)
        run = st.selectbox("Map of a past run", list(names), index=None, key="map_run",
                           placeholder="none: the sidebar's task",
                           format_func=lambda run: names.get(run, str(run)),
                           help="Runs that measured or used a map of this model.")  # fmt: skip
        shell.keep_in_address("map_run")
    return model, run


def compared(a: str, found: sources.Sources) -> parts.View:
    """Draws the controls of which maps are shown; every one is part of the address."""
    bound: Any = {"bind": "query-params"}
    others = [name for name in found if name != a]
    b = st.selectbox("Compare with", others, index=None, key="other", width=150,
                     placeholder="no task", **bound)  # fmt: skip
    if b not in others:
        return parts.View(a, None, "A")
    shows = ("A", "B", "A − B")
    show = st.segmented_control("Show", shows, default="A", required=True, key="show",
                                help="A is the sidebar's task or the past run's map; B is the "
                                "task to compare with.", **bound)  # fmt: skip
    return parts.View(a, b, show if show in shows else "A")


def empty(model: str, task: str, wanted: dict[str, Any], found: sources.Sources) -> None:
    """Nothing is measured for the task: says what to click."""
    left = [job for name, job in wanted.items() if name not in found]
    measure.missing(
        "Not measured yet",
        f"How strongly the loss on {task} depends on each weight of {model}, from one forward "
        "and backward pass for each of 32 samples. This takes a few seconds on a built-in "
        "model, and the result is saved.",
        {"Measure": [wanted[task]], f"Measure all {len(left)} tasks": left},
        "sensitivity",
    )


def unmeasured(wanted: dict[str, Any], found: sources.Sources) -> None:
    """Offers the tasks that the comparison still lacks."""
    left = {name: job for name, job in wanted.items() if name not in found}
    if left:
        measure.missing(
            "Measure more tasks to see differences",
            "Maps of different tasks look much alike until they are compared. Not measured yet: "
            f"{', '.join(left)}.",
            {f"Measure {len(left)} more" if len(left) > 1 else "Measure it": list(left.values())},
            "more",
        )


main()

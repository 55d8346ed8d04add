"""Sensitivity: where a model keeps a skill, down to one matrix, neuron or head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import streamlit as st

from nuggets import api
from nuggets.recipe import DataConfig, SensitivityJob
from nuggets.ui import charts, charts_map, measure, safe, shell
from nuggets.ui import sensitivity_parts as parts

FORMULA = r"S(\theta)=\sum_{x}\left|\,\theta\cdot\partial L(x)/\partial\theta\,\right|"


@dataclass(frozen=True)
class View:
    """What the controls say, checked."""

    choice: shell.Choice
    model: str
    other: str | None
    show: str
    mode: Any
    log: bool

    def job(self, task: str) -> SensitivityJob:
        """The measurement of one task."""
        name, data = f"sensitivity-{task}", DataConfig(task=task)
        return SensitivityJob(name=name, model=self.model, data=data, device=self.choice.device)


def main() -> None:
    """Draws the page."""
    st.title("Sensitivity", anchor=False)
    st.caption(
        "Where a skill lives: by how much the loss on its answers would change, to first order, "
        "if a weight were 0.",
        help=f"${FORMULA}$, summed over the seed samples x; L counts response tokens only.",
    )
    choice = shell.current()
    with safe.shown_problems("sensitivity"):
        model = choice.student if _one_of("side", ("teacher", "student")) == "student" else None
        model = model or choice.teacher
        job = View(choice, model, None, "A", "share", False).job
        maps = {task: m for task in api.skills() if (m := measure.measured_map(job(task)))}
        view = controls(choice, model, maps)
        if choice.task not in maps:
            empty(view, maps)
            return
        overview(view, maps)
        parts.matrix(maps, choice, model, view.job(choice.task))
        parts.tasks(maps, choice.task, view.job(choice.task))
        unmeasured(view, maps)


def _one_of(key: str, allowed: tuple[str, ...]) -> str:
    """A control's value before it is drawn; an address may hold anything."""
    value = st.session_state.get(key)
    return value if value in allowed else allowed[0]


def controls(choice: shell.Choice, model: str, maps: dict[str, api.SensitivityMap]) -> View:
    """Draws the controls; every one is part of the address."""
    bound: Any = {"bind": "query-params"}
    others = [task for task in maps if task != choice.task]
    modes: list[Any] = [mode for mode in api.views.MODES if mode != "distinctive" or len(maps) > 1]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.segmented_control("Model", ("teacher", "student"), default="teacher", required=True,
                             key="side", **bound)  # fmt: skip
        other = st.selectbox("Compare with", others, index=None, key="other", width=150,
                             placeholder="no task", **bound)  # fmt: skip
        shows = ("A", "B", "A − B") if other in others else ("A",)
        show = st.segmented_control("Show", shows, default="A", required=True, key="show",
                                    help="A is the sidebar's task, B the one beside.",
                                    **bound)  # fmt: skip
        mode = st.selectbox("Values", modes, key="mode", width=150, format_func=charts.plain_name,
                            help="; ".join(f"{charts.plain_name(m)}: {charts_map.TITLES[m]}"
                                           for m in modes), **bound)  # fmt: skip
        fixed = mode == "distinctive"
        scale = st.segmented_control("Scale", ("linear", "log"), default="linear", required=True,
                                     key="scale", disabled=fixed, **bound)  # fmt: skip
    return View(
        choice=choice,
        model=model,
        other=other if other in others else None,
        show=show if show in shows else "A",
        mode=mode if mode in modes else modes[0],
        log=scale == "log" and not fixed,
    )


def empty(view: View, maps: dict[str, api.SensitivityMap]) -> None:
    """Nothing is measured for the task: says what to click."""
    left = [view.job(task) for task in api.skills() if task not in maps]
    measure.missing(
        "Not measured yet",
        f"How sensitive each weight of {view.model} is to {view.choice.task}: 32 samples forward "
        "and backward. A built-in model takes seconds; the result is kept.",
        {"Measure": [view.job(view.choice.task)], f"Measure all {len(left)} skills": left},
        "sensitivity",
    )


def unmeasured(view: View, maps: dict[str, api.SensitivityMap]) -> None:
    """Offers the tasks that the comparison still lacks."""
    left = [view.job(task) for task in api.skills() if task not in maps]
    if left:
        names = ", ".join(job.data.task or "" for job in left)
        measure.missing(
            "More tasks make differences visible",
            f"Maps of single tasks look alike. Not measured yet: {names}.",
            {f"Measure {len(left)} more" if len(left) > 1 else "Measure it": left},
            "more",
        )


def overview(view: View, maps: dict[str, api.SensitivityMap]) -> None:
    """The model at a glance, and its layers beside it."""
    frame, shown, compare = parts.shown_values(
        maps, view.choice.task, view.other, view.show, view.mode, view.log
    )
    task = view.other if view.show == "B" and view.other else view.choice.task
    job, found = view.job(task), maps[task]
    what = f"{view.choice.task} − {view.other}" if view.show == "A − B" else task
    left, right = st.columns([3, 2], gap="medium")
    with left:
        parts.draw_map(frame, shown, compare, f"{what}, {parts.origin(found)}", job)
    with right:
        parts.layers(found, view.choice, task, job)


main()

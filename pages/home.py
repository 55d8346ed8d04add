"""Home: what this is, the built-in pairs, a first run, and the runs so far."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from nuggets import api
from nuggets.recipe import SensitivityJob
from nuggets.statistics.verdict import KIND_WORDS
from nuggets.ui.frame import heading, live, measure, safe, share, shell, tour
from nuggets.ui.sensitivity import map as maps
from nuggets.ui.sensitivity.sources import Source

RECENT = 8
MODEL = "teacher"
"""The built-in model whose map is shown."""


def main() -> None:
    """Draws the page."""
    left, right = st.columns([4, 5], gap="large")
    with left:
        st.title("Find a skill, move it, prove it", anchor=False)
        st.markdown(
            "Nuggets **finds** where a language model keeps a skill, **moves** those parameters "
            "into a smaller model as the start of a LoRA adapter, and **proves** whether that "
            "helped, against controls, over several seeds and with intervals."
        )
        _first_steps()
    with right, safe.shown_problems("map"):
        _map(shell.current().task)
    tour.card()
    st.subheader("Built-in pairs")
    with safe.shown_problems("pairs"):
        _pairs()
    st.subheader("Recent runs")
    _recent()
    with st.expander("What the verdicts mean"):
        st.text(api.RULES)


def _first_steps() -> None:
    with st.container(horizontal=True):
        st.button("See a result", type="primary", key="see-result", on_click=_see_result,
                  help="A finished run: does knowledge of kings reach a student?")  # fmt: skip
        st.button("Run it yourself", key="try-it", on_click=_start_quick,
                  help="A minute: the paper's method against plain LoRA and two controls, three "
                  "seeds each, on reversing letters.")  # fmt: skip
    safe.refused()
    if place := st.session_state.pop("nuggets-go", None):
        shell.go(place)


@safe.refused_later()
def _see_result() -> None:
    shell.choose(run=api.shipped_run().id)
    st.session_state["nuggets-go"] = "results"


@safe.refused_later()
def _start_quick() -> None:
    shell.choose(run=api.start(api.load_recipe("quick")).id)
    st.session_state["nuggets-go"] = "transfer"


def _map(task: str) -> None:
    """Where the teacher keeps the sidebar's skill; nothing where it was not measured."""
    job = SensitivityJob(model=MODEL, data=api.DataConfig(task=task), device="cpu")
    found = measure.measured_map(job)
    if found is None:
        return
    source, view = Source(task, job, found), maps.View(task, None, "A")
    picture = maps.map_picture({task: source}, view, maps.Values("share", False), share.look())
    picture._replace(key="home-map", caption=f"Where the teacher keeps “{task}”: share of its "
                     "sensitivity by layer and matrix. On the right the damage when a layer is "
                     "skipped: 1 is guessing.").draw()  # fmt: skip


def _pairs() -> None:
    for column, pair in zip(st.columns(len(api.PAIRS)), api.PAIRS.values(), strict=True):
        teacher, student = api.model_card(pair.teacher), api.model_card(pair.student)
        with column, st.container(border=True, height="stretch", key=f"pair-{pair.name}"):
            st.markdown(f"**{pair.teacher} → {pair.student}**")
            st.text(pair.description)
            st.caption(f"{teacher.parameters:,} → {student.parameters:,} parameters")
            _scores(teacher, student)
            st.button(
                "Use this pair",
                key=f"use-{pair.name}",
                on_click=shell.choose,
                kwargs={"teacher": pair.teacher, "student": pair.student},
            )


def _scores(teacher: api.ModelCard, student: api.ModelCard) -> None:
    rows = [
        {
            "skill": skill,
            "teacher": teacher.scores[skill],
            "student": student.scores.get(skill, 0.0),
            "": "lacking" if skill in student.lacks else "",
        }
        for skill in teacher.scores
    ]
    number = st.column_config.NumberColumn(format="percent", width=70)
    bar = st.column_config.ProgressColumn(min_value=0, max_value=1, format="percent", width=110)
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        column_config={"teacher": number, "student": bar},
        row_height=30,
        height="content",
        alt=f"Exact match of {teacher.name} and {student.name} on each skill",
    )


def _recent() -> None:
    rows = [_row(run) for run in api.runs()[:RECENT]]
    if not rows:
        st.text("No runs yet. Click “Run it yourself” above, or set one up on the Plan page.")
        return
    st.dataframe(pd.DataFrame(rows), hide_index=True, alt="Recent runs with their status")
    shell.link("runs", "All runs")


def _row(run: api.Run) -> dict[str, str]:
    row = live.row(run)
    found = heading.verdict_of(run) if row["status"] == "done" else None
    return row | {"verdict": KIND_WORDS[found.kind] if found else ""}


main()

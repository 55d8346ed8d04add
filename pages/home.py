"""Home: what this is, the built-in pairs, a first run, and the runs so far."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from nuggets import api
from nuggets.ui.frame import live, safe, shell, tour

RECENT = 8


def main() -> None:
    """Draws the page."""
    tour.card()
    st.title("Find a skill, move it, prove it")
    st.markdown(
        "Nuggets **finds** where a language model keeps a skill: which layers, matrices and "
        "neurons its answers depend on. It **moves** those parameters into a smaller model as "
        "the initialisation of a LoRA adapter. And it **proves** whether that helped, against "
        "controls without the knowledge or from elsewhere, over several seeds and with intervals."
    )
    _try_it()
    st.subheader("Built-in pairs")
    with safe.shown_problems("pairs"):
        _pairs()
    st.subheader("Recent runs")
    _recent()
    with st.expander("What the verdicts mean"):
        st.text(api.RULES)


def _try_it() -> None:
    with st.container(border=True, horizontal=True, wrap=False, vertical_alignment="center"):
        st.markdown(
            "**Try it in one minute.** Does the paper's method teach the small model to reverse "
            "letters better than plain LoRA does? Each arm is trained with three seeds, next to "
            "two controls.",
            width="stretch",
        )
        st.button("Run it now", type="primary", key="try-it", on_click=_start_quick)
    safe.refused()
    if st.session_state.pop("nuggets-started", False):
        shell.go("transfer")


@safe.refused_later()
def _start_quick() -> None:
    run = api.start(api.load_recipe("quick"))
    shell.choose(run=run.id, teacher="teacher", student="independent", task="reverse")
    st.session_state["nuggets-started"] = True


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
        st.text("No runs yet. Click “Run it now” above, or set up a run on the Transfer page.")
        return
    st.dataframe(pd.DataFrame(rows), hide_index=True, alt="Recent runs with their status")
    st.page_link(shell.page("runs"), label="All runs")


def _row(run: api.Run) -> dict[str, str]:
    row = live.row(run)
    report = api.report(run) if row["status"] == "done" else None
    return row | {"verdict": report.verdict.sentence if report else ""}


main()

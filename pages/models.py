"""Models: choose teacher and student, see whether they fit, ask both a question."""

from __future__ import annotations

import shlex

import pandas as pd
import streamlit as st

from nuggets import api
from nuggets.ui import answers, safe, share, shell

GIB = 2**30


def main() -> None:
    """Draws the page."""
    st.title("Models")
    st.text("A large model that knows a skill, and a smaller one that should. Nothing is loaded.")
    left, right = st.columns(2)
    with left:
        shell.pair_input("teacher")
    with right:
        shell.pair_input("student")
    choice = shell.current()
    with safe.shown_problems("preflight"):
        _preflight(api.preflight(choice.teacher, choice.student), choice)
    st.subheader("Ask both")
    _ask(choice)


def _preflight(found: api.Preflight, choice: shell.Choice) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge("fits" if found.ok else "does not fit", color="green" if found.ok else "red")
        st.text(
            f"Vocabularies {found.vocabularies}  ·  "
            f"memory: {_size(found.memory_available)} free  ·  "
            f"disk: {_size(found.disk_needed)} needed, {_size(found.disk_free)} free"
        )
    for index, sentence in enumerate(found.problems):
        safe.problem(sentence, f"preflight-{index}")
    left, right = st.columns([3, 2])
    with left:
        _dimensions(found, choice)
    with right:
        _memory(found)
    safe.notes(found.notes)


def _dimensions(found: api.Preflight, choice: shell.Choice) -> None:
    number = st.column_config.NumberColumn(format="localized")
    facts = [("weights", "parameters"), ("bytes on disk", "bytes_on_disk")]
    rows = [
        {
            "dimension": d.name,
            "teacher": d.teacher,
            "student": d.student,
            "fits": "yes" if d.fits else "no: the student is larger",
        }
        for d in found.dimensions
    ]
    if found.teacher and found.student:
        rows += [
            {
                "dimension": title,
                "teacher": getattr(found.teacher, name),
                "student": getattr(found.student, name),
                "fits": "",
            }
            for title, name in facts
        ]
    if rows:
        share.table(
            pd.DataFrame(rows),
            key="dimensions",
            caption="From configs and headers alone",
            command=shlex.join(["nuggets", "preflight", choice.teacher, choice.student]),
            height="content",
            column_config={"teacher": number, "student": number},
            alt="Dimensions of teacher and student side by side",
        )


def _memory(found: api.Preflight) -> None:
    rows = [
        {
            "stage": stage.stage,
            "memory": _size(stage.bytes_needed),
            "fits": "yes" if stage.fits else "no",
        }
        for stage in found.stages
    ]
    if rows:
        st.dataframe(
            pd.DataFrame(rows),
            hide_index=True,
            height="content",
            alt="Memory that each stage needs",
        )


def _size(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"


def _ask(choice: shell.Choice) -> None:
    skill = api.skills()[choice.task]
    with st.form("ask", border=False):
        prompt = st.text_input(
            "Question", value=skill.example[0], key=f"question-{skill.name}", max_chars=2000
        )
        asked = st.form_submit_button("Ask both", type="primary", key="ask-both")
    if not prompt.strip():
        return
    with safe.shown_problems("ask"):
        models = dict.fromkeys((choice.teacher, choice.student))
        question = answers.Question(
            speakers=tuple(api.playground.Speaker(model=model) for model in models),
            prompt=prompt.strip(),
            device=choice.device,
        )
        if asked:
            api.playground.post(question)
        answers.panel(question, "ask")
    st.page_link(shell.page("playground"), label="Ask arms of a run, and scale their adapters")


main()

"""Models: choose teacher and student, see whether they fit, ask both a question."""

from __future__ import annotations

import streamlit as st

from nuggets import api
from nuggets.ui.frame import safe, share, shell
from nuggets.ui.models import chooser as model_chooser
from nuggets.ui.models import preflight as preflight_part
from nuggets.ui.playground import answers


def main() -> None:
    """Draws the page."""
    st.title("Models", anchor=False)
    st.caption(
        "A large model that has a skill, and a smaller one that should learn it. Nothing is "
        "loaded: configurations and file headers show whether a transfer can work and what it "
        "needs."
    )
    built_in = st.container()
    left, right = st.columns(2)
    with left:
        teacher = model_chooser.side("teacher")
    with right:
        student = model_chooser.side("student")
    with built_in:
        model_chooser.pairs(shell.current())
    with st.container(horizontal=True, vertical_alignment="bottom"):
        shell.dtype_input()
        choice = shell.current()
        recipe = preflight_part.work(choice)
    with safe.shown_problems("preflight"):
        if model_chooser.waits_for_hub(choice):
            return
        found = preflight_part.look(choice, recipe)
        model_chooser.facts(teacher, found.teacher)
        model_chooser.facts(student, found.student)
        preflight(found, preflight_part.origin_of(recipe))
    st.subheader("Ask both", anchor=False)
    ask(choice)


def preflight(found: api.Preflight, origin: share.Origin) -> None:
    """Everything that is known, in the order in which it decides."""
    preflight_part.verdict(found)
    left, right = st.columns([4, 5], gap="medium")
    with left:
        preflight_part.dimensions(found, origin)
    with right:
        preflight_part.matrices(found, origin)
    safe.notes(found.notes)
    if found.stages:
        st.subheader("Requirements on this machine", anchor=False)
        preflight_part.needs(found, origin)


def ask(choice: shell.Choice) -> None:
    """The same question to both models."""
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
    shell.link("playground", "Ask a run's arms and scale their adapters")


main()

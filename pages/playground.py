"""Playground: one question to teacher, student and arms of a run, token by token."""

from __future__ import annotations

from typing import Literal

import streamlit as st

from nuggets import amounts, api
from nuggets.errors import NuggetsError
from nuggets.models.references import short_name
from nuggets.ui.frame import heading, safe, shell
from nuggets.ui.playground import answers

TEACHER, STUDENT = "teacher", "student"
FORMAT_HELP = (
    "paper: the format of the paper's data, on which the built-in models were trained. chat: the "
    "chat template of each model's tokenizer, which chat models expect."
)


def main() -> None:
    """Draws the page."""
    st.title("Playground", anchor=False)
    st.caption(
        "Ask teacher, student and the arms of a run the same question, and compare their "
        "answers token by token."
    )
    safe.refused()
    choice = shell.current()
    with safe.shown_problems("playground"):
        if choice.run is not None:
            heading.line(api.open_run(choice.run))
        left, right = st.columns([3, 2], gap="medium")
        with left:
            prompt = _prompt(choice.task)
        with right:
            speakers = _speakers(choice)
            scale = _scale(speakers)
        with st.container(horizontal=True, vertical_alignment="center"):
            asked = st.button("Ask", type="primary", key="ask", shortcut="Mod+Enter")
            length = st.number_input("Max new tokens", 1, 512, 24, key="tokens",
                                     bind="query-params", width=150)  # fmt: skip
            format = _format()
            _memory()
        if not prompt.strip() or not speakers:
            st.text("Write a question and choose which models answer it.")
            return
        question = answers.Question(
            speakers=tuple(speakers),
            prompt=prompt.strip(),
            scale=scale,
            max_new_tokens=int(length),
            format=format,
            device=choice.device,
        )
        moved = st.session_state.pop("nuggets-scale-moved", False)
        if asked or (moved and api.playground.state().alive):
            answers.post(question)
        if not answers.panel(question, "playground"):
            st.text("Press Ask (Ctrl+Enter). Models load once and stay in memory.")


def _prompt(task: str) -> str:
    example = api.skills()[task].example[0]
    return st.text_area(
        "Question",
        value=example,
        key="prompt",
        bind="query-params",
        max_chars=2000,
        height=110,
        help="Every model gets it in the prompt format chosen below and answers by greedy "
        "decoding.",
    )


def _format() -> Literal["paper", "chat"]:
    """The control of how a question is written for a model."""
    chosen = st.selectbox("Prompt format", ("paper", "chat"), key="format", bind="query-params",
                          width=150, help=FORMAT_HELP)  # fmt: skip
    return "chat" if chosen == "chat" else "paper"


def _speakers(choice: shell.Choice) -> list[api.playground.Speaker]:
    """The controls of who answers; arms are those of the sidebar's run."""
    options = {
        TEACHER: api.playground.Speaker(model=choice.teacher),
        STUDENT: api.playground.Speaker(model=choice.student),
    }
    if choice.run is not None:
        options |= {each.label: each for each in _arms(choice.run)}
    chosen = st.multiselect(
        "Models",
        list(options),
        default=[TEACHER, STUDENT],
        key="speakers",
        bind="query-params",
        help="To add a transfer's arms, choose a finished run in the sidebar.",
    )
    return [options[name] for name in chosen if name in options]


def _arms(run_id: str) -> list[api.playground.Speaker]:
    try:
        return api.playground.speakers_of(api.open_run(run_id))
    except NuggetsError:
        return []  # a damaged run is a matter for the Runs page


def _scale(speakers: list[api.playground.Speaker]) -> float:
    """The factor on the adapters; without any there is nothing to scale."""
    return st.slider(
        "Adapter scale",
        0.0,
        2.0,
        1.0,
        0.1,
        key="scale",
        bind="query-params",
        disabled=all(speaker.arm is None for speaker in speakers),
        on_change=lambda: st.session_state.update({"nuggets-scale-moved": True}),
        help="0 is the untouched student, 1 is the arm as trained.",
    )


def _memory() -> None:
    """What is loaded, and the button that frees it."""
    state = api.playground.state()
    if not state.alive:
        st.caption("No model is loaded.")
        return
    with st.container(width="stretch"):
        loaded = ", ".join(map(short_name, state.loaded)) or "loading"
        size = f" · {amounts.size(state.bytes)} on {state.device}" if state.bytes else ""
        st.text(f"In memory: {loaded}{size}")
    st.button(
        "Free memory",
        key="free",
        on_click=_free,
        help="Models are also unloaded after five minutes without a question.",
    )


def _free() -> None:
    api.playground.free()


main()

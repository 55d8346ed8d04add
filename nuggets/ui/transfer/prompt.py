"""The exact text that a model reads, shown on request: a child process loads the tokenizer."""

from __future__ import annotations

import streamlit as st

from nuggets import api
from nuggets.ui.frame import safe


def expander(model: str, data: api.DataConfig) -> None:
    """Prompt and answer of the first seed sample, special tokens included."""
    wanted = (model, data.model_dump_json())
    with (
        st.expander("The exact prompt, and the part that enters the loss"),
        safe.shown_problems("prompt"),
    ):
        if st.button(
            "Show the prompt",
            key="show-prompt",
            help="Loads the tokenizer, which takes a few seconds.",
        ):
            st.session_state["nuggets-prompt"] = wanted
        if st.session_state.get("nuggets-prompt") != wanted:
            return
        for shown in _rendered(*wanted):
            st.caption(
                f"Prompt: {shown.n_prompt} tokens, not in the loss (⏎ marks the end of a line)"
            )
            st.code(_visible(shown.prompt), language=None, wrap_lines=True)
            st.caption(f"In the loss: {shown.n_answer} tokens, and each of them as a label")
            st.code(_visible(shown.answer), language=None, wrap_lines=True)
            st.code(shown.labels, language=None, wrap_lines=True)


def _visible(text: str) -> str:
    """The text with the line ends at its end as signs: `st.code` cuts them off."""
    body = text.rstrip("\n")
    return body + "⏎" * (len(text) - len(body))


@st.cache_data(show_spinner="Loading the tokenizer…", max_entries=20)
def _rendered(model: str, data: str) -> list[api.Rendered]:
    return api.rendered_apart(model, api.DataConfig.model_validate_json(data))

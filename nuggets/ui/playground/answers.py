"""A question to several speakers, and their answers as they arrive."""

from __future__ import annotations

from functools import partial

import streamlit as st

from nuggets import api
from nuggets.amounts import duration
from nuggets.ui.charts import answers as answers_charts
from nuggets.ui.frame import replies, safe, share

COLUMNS = 3
Question = api.playground.Question


@safe.refused_later()
def post(question: Question) -> None:
    """Asks from a button; what is refused is shown in the next full run."""
    api.playground.post(question)


def panel(question: Question, key: str) -> bool:
    """Draws the newest answers to exactly this question; False if it was not asked yet."""
    return replies.panel(question, key, partial(_side_by_side, key))


def _side_by_side(key: str, found: api.playground.Reply) -> None:
    across = min(COLUMNS, max(2, len(found.question.speakers)))
    for start in range(0, len(found.answers), across):
        row = found.answers[start : start + across]
        for place, (column, answer) in enumerate(zip(st.columns(across), row, strict=False)):
            with column:
                _answer(found, answer, f"{key}-{start + place}")


def _answer(found: api.playground.Reply, answer: api.playground.Answer, key: str) -> None:
    with st.container(border=True, key=f"{key}-answer", gap="small"):
        st.text(answer.speaker.label)
        if answer.problem:
            safe.problem(answer.problem, key)
            return
        still = "…" if not found.ended and not answer.text else "(nothing)"
        st.code(answer.text or still, language=None, wrap_lines=True)
        if answer.note:
            st.text(answer.note)
        if answer.tokens:
            _tokens(found, answer, key)


def _tokens(found: api.playground.Reply, answer: api.playground.Answer, key: str) -> None:
    ended = "" if answer.finished or not answer.text else ", stopped at the token limit"
    frame = answers_charts.tokens_frame(answer)
    share.Picture(
        answers_charts.tokens_figure(answer, share.look()),
        frame,
        f"{key}-tokens",
        f"{len(answer.tokens)} tokens, {duration(answer.seconds)}{ended}",
        share.Origin.of(found.question),
        "Probability of each token; the table below shows the alternatives",
    ).draw()
    with st.expander("Exact prompt", key=f"{key}-read"):
        st.code(answer.read, language=None, wrap_lines=True)
    with st.expander("Top alternative tokens", key=f"{key}-others"):
        bar = st.column_config.ProgressColumn(min_value=0, max_value=1, format="percent")
        st.dataframe(frame, hide_index=True, column_config={"probability": bar}, height=220)

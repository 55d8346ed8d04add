"""On one prompt: when teacher and student know an answer, and on which layers its loss rests."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import streamlit as st

from nuggets import api
from nuggets.data.samples import Sample
from nuggets.ui.charts import lens as charts
from nuggets.ui.frame import replies, safe, share, shell
from nuggets.ui.frame.share import Picture

PROMPT, ANSWER, SAMPLE = "one-prompt", "one-answer", "one-sample"
_OF = "nuggets-one-prompt-of"
"""The task whose samples the fields were filled from."""
_TAKEN = "nuggets-one-prompt-taken"
OFFERED = 20
"""Samples that can be chosen."""


@safe.shown_problems("one-prompt")
def section(choice: shell.Choice) -> None:
    """The section: a prompt with its right answer, typed or chosen, and what is seen in both."""
    st.subheader("On one prompt", anchor=False)
    st.caption(
        "When does each model know the answer, and on which layers does it rest? Both are given "
        "the right answer token by token.",
        help="Logit lens: the model's own final norm and head read the states behind every layer, "
        "as if it were the last. Attribution: the sum of |θ · ∂ℓ/∂θ| over a layer's parameters, "
        "where ℓ is the loss of one token; it is the map above for that token alone.",
    )
    question = _question(choice, api.seed_samples(choice.data())[:OFFERED])
    if question is None:
        st.text("Write a prompt and its right answer, or choose a sample.")
        return
    pressed = st.button("Look into both", key="one-look", type="primary")
    taken = st.session_state.pop(_TAKEN, False) and api.playground.state().alive
    if pressed or taken:
        api.playground.post(question)
    if not replies.panel(question, "one-prompt", partial(_draw, question)):
        st.text("Press Look into both. Models load once and stay in memory.")


def _question(choice: shell.Choice, samples: Sequence[Sample]) -> api.playground.Question | None:
    """The fields; None while one of them is empty."""
    state, first = st.session_state, samples[0]
    moved = state.get(_OF) not in (None, choice.label)
    for key, text in ((PROMPT, first.prompt), (ANSWER, first.answer)):
        if moved or (key not in state and key not in st.query_params):
            state[key] = text
    state[_OF] = choice.label
    left, middle, right = st.columns([3, 2, 2], gap="small", vertical_alignment="bottom")
    with left:
        prompt = st.text_area("Prompt", key=PROMPT, bind="query-params", max_chars=2000, height=76)
    with middle:
        right_one = st.text_area("Right answer", key=ANSWER, bind="query-params", max_chars=1000,
                                 height=76)  # fmt: skip
    with right:
        st.selectbox(
            "Sample", range(len(samples)), index=None, key=SAMPLE, on_change=_take,
            args=(samples,), placeholder="or choose one",
            format_func=lambda i: safe.label(samples[i].prompt),
        )  # fmt: skip
    if not prompt.strip() or not right_one.strip():
        return None
    both = dict.fromkeys((choice.teacher, choice.student))
    return api.playground.Question(
        speakers=tuple(api.playground.Speaker(model=model) for model in both),
        prompt=prompt.strip(),
        answer=right_one.strip(),
        device=choice.device,
    )


def _take(samples: Sequence[Sample]) -> None:
    """Fills the fields; looked into at once where the models are already in memory."""
    chosen = st.session_state.get(SAMPLE)
    if chosen is not None:
        sample = samples[chosen]
        st.session_state.update({PROMPT: sample.prompt, ANSWER: sample.answer, _TAKEN: True})


def _draw(question: api.playground.Question, found: api.playground.Reply) -> None:
    """A sentence per model, then the two figures, teacher beside student."""
    looked = {}
    for place, each in enumerate(found.answers):
        if each.problem:
            safe.problem(f"{each.speaker.label}: {each.problem}", f"one-prompt-{place}")
        if each.lens is not None:
            looked[each.speaker.label] = each.lens
    if not looked:
        return
    said = [f"{each.lens.sentence(each.speaker.label)} {each.note}".rstrip()
            for each in found.answers if each.lens is not None]  # fmt: skip
    safe.notes(said)
    Picture(
        charts.known_figure(looked, share.look()),
        charts.known_frame(looked),
        "known-from",
        "Logit lens: what each model's own final norm and head read off its states, from its "
        "input to its last layer. Colour: probability of the right token; number: its rank.",
        share.Origin.of(question, "print([each.lens.rank for each in reply.answers])"),
        "Heatmaps of layers by tokens of the answer: probability and rank of the right token",
    ).draw()
    Picture(
        charts.rests_figure(looked, share.look()),
        charts.rests_frame(looked),
        "rests-on",
        "Attribution: each layer's share, in percent, of the sum of |θ · gradient| of the loss "
        "of one token, norms and biases included.",
        share.Origin.of(question, "print([each.lens.attribution for each in reply.answers])"),
        "Heatmaps of layers by tokens of the answer: each layer's share of the attribution",
    ).draw()

"""The section `On one prompt` of the Sensitivity page: fields, figures, links, odd input."""

from __future__ import annotations

import json

import pytest
from streamlit.testing.v1 import AppTest

from nuggets import api
from nuggets.ui.sensitivity import sources
from nuggets.ui.sensitivity.prompt import ANSWER, PROMPT, SAMPLE
from tests.app.conftest import HOSTILE, rendered, shown
from tests.app.test_page_alignment import decoded
from tests.app.test_page_playground import wait_for_replies
from tests.app.test_page_sensitivity import figures

FIELDS = {PROMPT: "reverse a b", ANSWER: "b a"}


def alone() -> None:
    """The section by itself, for the task and the student that the address names."""
    import streamlit as st

    from nuggets.ui.frame import shell
    from nuggets.ui.sensitivity import prompt

    task = st.query_params.get("task", "reverse")
    student = st.query_params.get("student", "independent")
    prompt.section(shell.Choice("teacher", student, task, "auto", None))


def opened(**query: str) -> AppTest:
    """The section at an address."""
    at = AppTest.from_function(alone, default_timeout=120)
    for key, value in query.items():
        at.query_params[key] = value
    return at.run()


def looked(at: AppTest) -> AppTest:
    """Presses the button, waits for both models, and draws the section again."""
    at.button(key="one-look").click().run()
    wait_for_replies(at)
    return at


def drawn(at: AppTest) -> list[list[list[list[float]]]]:
    """The values of the two figures, model by model."""
    return [[decoded(t["z"]) for t in fig["data"] if t.get("hovertemplate")] for fig in figures(at)]


def test_it_opens_with_a_sample_of_the_task_and_says_what_to_press():
    at = opened(task="sub")
    first = api.seed_samples(api.DataConfig(task="sub"))[0]
    assert (at.text_area(key=PROMPT).value, at.text_area(key=ANSWER).value) == (
        first.prompt,
        first.answer,
    )
    assert "Press Look into both." in shown(at)
    assert not api.playground.state().alive, "nothing is loaded before somebody asks"


def test_both_models_are_looked_into_side_by_side():
    at = looked(opened(**FIELDS))
    assert "teacher knows the whole answer from L1 on." in shown(at)
    assert "independent: no token of the answer is the first choice at the end." in shown(at)
    known, rests = drawn(at)
    assert known == [
        [[0.0, 0.0], [0.2, 0.2], [0.9, 0.9]],
        [[0.0, 0.0], [0.2, 0.2], pytest.approx([0.9 / 7] * 2)],
    ]
    assert rests == [[[0.75, 0.75], [0.25, 0.25]]] * 2
    command = "nuggets lens 'reverse a b' 'b a' --model teacher --model independent"
    assert command in shown(at)
    assert "api.playground.ask(api.playground.question(" in shown(at)


def test_a_link_restores_prompt_answer_and_what_was_seen():
    looked(opened(**FIELDS))
    at = opened(**FIELDS)
    assert at.text_area(key=PROMPT).value == FIELDS[PROMPT]
    assert "teacher knows the whole answer from L1 on." in shown(at)
    other = opened(**(FIELDS | {ANSWER: "b"}))
    assert "Press Look into both." in shown(other), "another answer is another question"


def test_a_chosen_sample_fills_the_fields_and_is_looked_into_where_models_are_loaded():
    at = looked(opened(**FIELDS))
    at.selectbox(key=SAMPLE).set_value(2).run()
    sample = api.seed_samples(api.DataConfig(task="reverse"))[2]
    assert at.text_area(key=PROMPT).value == sample.prompt
    assert at.text_area(key=ANSWER).value == sample.answer
    wait_for_replies(at)
    assert "teacher knows the whole answer from L1 on." in shown(at)


def test_another_task_brings_a_sample_of_its_own():
    at = opened(**FIELDS)
    at.query_params["task"] = "capital"
    at.run()
    first = api.seed_samples(api.DataConfig(task="capital"))[0]
    assert at.text_area(key=PROMPT).value == first.prompt
    assert at.text_area(key=ANSWER).value == first.answer


def test_empty_fields_and_missing_models_are_told():
    at = opened(**(FIELDS | {ANSWER: "  "}))
    assert "Write a prompt and its right answer" in shown(at)
    gone = opened(student="./gone", **FIELDS)
    gone.button(key="one-look").click().run()
    assert not gone.exception
    assert "gone" in shown(gone)


def test_hostile_prompts_stay_text():
    at = looked(opened(**{PROMPT: HOSTILE, ANSWER: HOSTILE}))
    assert "teacher knows the whole answer" in shown(at)
    assert "<img" not in rendered(at)
    for fig in figures(at):
        assert "<img" not in json.dumps(fig), "Plotly reads some HTML"


def test_it_stands_on_the_page_also_where_nothing_is_measured(open_page, monkeypatch):
    monkeypatch.setattr(sources, "measured", lambda wanted: {})
    at = open_page("sensitivity")
    assert [part.value for part in at.subheader] == ["Not measured yet", "On one prompt"]

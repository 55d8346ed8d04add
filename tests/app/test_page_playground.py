"""Playground: who answers, at what scale, what is in memory; hostile names and answers."""

from __future__ import annotations

import time

import pytest

from nuggets import api
from tests.app.conftest import HOSTILE, rendered, shown
from tests.app.measured import write_benchmark


def asked(at):
    """Presses Ask, waits for every reply, and draws the page again."""
    at.button("ask").click().run()
    wait_for_replies(at)


def wait_for_replies(at):
    """Waits for every reply, and draws the page again."""
    assert not at.exception
    deadline = time.monotonic() + 120
    folder = api.playground.folder() / "replies"
    while time.monotonic() < deadline:
        if all(api.playground.reply(path.stem).ended for path in folder.glob("*.json")):
            break
        time.sleep(0.05)
    at.run()
    assert not at.exception


def test_before_the_first_question_it_says_what_to_press(open_page):
    at = open_page("playground")
    assert "Press Ask" in shown(at)
    assert at.slider("scale").disabled
    assert "No model is loaded." in rendered(at)


def test_arms_of_the_run_answer_beside_teacher_and_student(open_page):
    run = write_benchmark(api.load_recipe("quick"))
    at = open_page("playground", run=run.id, prompt="a b", scale="0.5")
    at.multiselect("speakers").set_value(["teacher", "student", "paper (seed 1)"]).run()
    assert not at.slider("scale").disabled
    asked(at)
    assert [code.value for code in at.code].count("b a") == 3
    assert "paper (seed 1)" in shown(at)
    command = next(code.value for code in at.code if code.value.startswith("nuggets ask"))
    assert f"--run {run.id} --seed 1 --arm paper --scale 0.5" in command


def test_the_link_restores_the_answers(open_page):
    asked(open_page("playground", prompt="x y"))
    assert "y x" in [code.value for code in open_page("playground", prompt="x y").code]


def test_the_prompt_format_is_a_choice_that_links_and_commands_carry(open_page):
    asked(open_page("playground", prompt="x y", format="chat"))
    at = open_page("playground", prompt="x y", format="chat")
    codes = [code.value for code in at.code]
    assert codes.count("[chat] x y") == 2, "the exact text that each model read"
    assert any("--format chat" in code for code in codes if code.startswith("nuggets ask"))
    other = open_page("playground", prompt="x y")
    assert "[chat] x y" not in [code.value for code in other.code], "another question"


def test_memory_is_shown_and_freed(open_page):
    at = open_page("playground", prompt="a")
    asked(at)
    assert "In memory: teacher, independent" in shown(at)
    at.button("free").click().run()
    assert not at.exception
    assert "No model is loaded." in rendered(at)
    assert not api.playground.state().alive


@pytest.mark.parametrize("query", [{"teacher": "./gone"}, {"speakers": "x"}, {"scale": "99"}])
def test_nonsense_in_the_address_is_no_exception(open_page, query):
    assert open_page("playground", **query).title[0].value == "Playground"


def test_hostile_questions_stay_text(open_page):
    at = open_page("playground", prompt=HOSTILE)
    asked(at)
    assert "<img" not in rendered(at)

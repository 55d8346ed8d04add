"""Questions on Models and Playground: answers as text, from a worker that only pretends."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from nuggets import api
from nuggets.ui.playground import answers
from tests.app.conftest import HOSTILE, rendered, shown

BACKWARDS = " ".join(reversed(HOSTILE.split()))


@pytest.fixture(autouse=True)
def speakers(home, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The worker answers with the prompt's words backwards, each with probability .9."""
    monkeypatch.setenv("NUGGETS_SPEAKERS", "fake_speakers:Speakers")
    yield
    api.playground.free(wait=120)


def wait_until_answered(*models: str, prompt: str, device: str = "auto", **fields) -> None:
    speakers = tuple(api.playground.Speaker(model=model) for model in models)
    question = answers.Question(speakers=speakers, prompt=prompt, device=device, **fields)
    deadline = time.monotonic() + 120
    while (found := api.playground.latest(question)) is None or not found.ended:
        assert time.monotonic() < deadline, "the question was not answered"
        time.sleep(0.05)


def test_both_models_answer_side_by_side_and_as_text(open_page):
    at = open_page("models", student="sibling")
    at.text_input("question-reverse").set_value(HOSTILE)
    at.button("ask-both").click().run()
    assert not at.exception
    wait_until_answered("teacher", "sibling", prompt=HOSTILE)
    assert not at.run().exception
    assert shown(at).count(BACKWARDS) == 2
    assert BACKWARDS not in rendered(at)
    frame = next(part.value for part in at.dataframe if "probability" in part.value.columns)
    assert frame["probability"].iloc[0] == 0.9


def test_the_playground_answers_the_question_it_was_asked(open_page):
    at = open_page("playground")
    at.text_area("prompt").set_value("a b c").run()
    at.button("ask").click().run()
    assert not at.exception
    wait_until_answered("teacher", "independent", prompt="a b c", scale=1.0, max_new_tokens=24)
    assert not at.run().exception
    assert shown(at).count("c b a") == 2
    at.text_area("prompt").set_value("another").run()
    assert "c b a" not in shown(at)


def test_a_worker_that_dies_is_one_sentence(open_page):
    at = open_page("playground", prompt="die now")
    at.button("ask").click().run()
    wait_until_answered("teacher", "independent", prompt="die now", scale=1.0, max_new_tokens=24)
    assert not at.run().exception
    assert "stopped before it answered" in shown(at)

"""The playground's worker: loaded once, freed on request or when idle, and its deaths are told."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nuggets.disk.last_frame import MAX_LOG_BYTES
from nuggets.disk.locks import is_held
from nuggets.errors import BadInput, NuggetsError
from nuggets.playground import mailbox as playground
from nuggets.playground.mailbox import Speaker
from nuggets.runs import processes
from nuggets.ui import serving
from nuggets.ui.serving import lifespan

TESTS = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of its own, where workers answer without models."""
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NUGGETS_SPEAKERS", "fake_speakers:Speakers")
    monkeypatch.setenv("PYTHONPATH", str(TESTS / "app"), prepend=os.pathsep)
    yield tmp_path / "home"
    playground.free(wait=120)
    for child in processes.children:
        child.wait(timeout=120)


def question(prompt: str, *models: str, **fields):
    speakers = [Speaker(model=model) for model in models or ("teacher",)]
    return playground.question(speakers=speakers, prompt=prompt, **fields)


def worker_pid() -> int:
    return processes.children[-1].pid


def test_every_speaker_answers_in_order():
    found = playground.ask(question("a b c", "teacher", "independent"), timeout=120)
    assert [(a.speaker.model, a.text) for a in found.answers] == [
        ("teacher", "c b a"),
        ("independent", "c b a"),
    ]


def test_the_worker_stays_for_the_next_question_and_is_freed_on_request(home):
    playground.ask(question("a"), timeout=120)
    first, log = worker_pid(), home / "playground" / "output.log"
    log.write_bytes(b"x" * (MAX_LOG_BYTES + 1))  # as libraries print it
    playground.ask(question("b"), timeout=120)
    assert worker_pid() == first
    playground.ask(question("another"), timeout=120)  # when the log was looked at
    assert log.stat().st_size < MAX_LOG_BYTES
    assert playground.state().loaded == ("teacher",)
    assert not playground.free(wait=120).alive
    assert not is_held(home / "playground" / "lock")
    playground.ask(question("c"), timeout=120)
    assert worker_pid() != first


def test_the_worker_leaves_when_nobody_asks(monkeypatch):
    monkeypatch.setenv("NUGGETS_PLAYGROUND_IDLE_S", "0.1")
    playground.ask(question("a"), timeout=120)
    assert processes.children[-1].wait(timeout=120) == 0
    assert not playground.state().alive


def test_the_worker_leaves_with_the_app_that_started_it_and_with_no_other(monkeypatch):
    async def app_ends() -> None:
        async with lifespan(None):
            pass

    monkeypatch.setattr(serving, "_import_all", lambda: None)
    playground.ask(question("a"), timeout=120)
    with monkeypatch.context() as patch:
        patch.setattr(playground, "_started", [])  # as in another process
        asyncio.run(app_ends())
    assert not (playground.folder() / "stop").exists()
    asyncio.run(app_ends())
    assert processes.children[-1].wait(timeout=120) == 0


def test_a_killed_worker_is_one_sentence_and_the_next_question_starts_another():
    with pytest.raises(NuggetsError, match="stopped before it answered"):
        playground.ask(question("die"), timeout=120)
    first = worker_pid()
    assert playground.ask(question("a b"), timeout=120).answers[0].text == "b a"
    assert worker_pid() != first
    # The question that killed it was not tried again, and its reply says so for good.
    dead = playground.latest(question("die"))
    assert dead is not None
    assert (dead.status, "stopped before" in dead.problem) == ("failed", True)


def test_a_worker_that_dies_between_two_looks_did_start(monkeypatch):
    monkeypatch.setattr(playground, "_POLL_S", 3.0)
    with pytest.raises(NuggetsError, match="stopped before it answered"):
        playground.ask(question("die"), timeout=120)


def test_a_bug_fails_one_question_and_not_the_worker():
    with pytest.raises(NuggetsError, match="RuntimeError: a bug"):
        playground.ask(question("break"), timeout=120)
    first = worker_pid()
    assert playground.ask(question("a"), timeout=120).status == "done"
    assert worker_pid() == first


def test_what_one_speaker_refuses_is_part_of_its_answer():
    found = playground.ask(question("refuse"), timeout=120)
    assert (found.status, found.answers[0].problem) == ("done", "This one refuses.")


def test_an_answer_can_be_stopped_half_way():
    waiting = playground.post(question("hang on"))
    deadline = time.monotonic() + 120
    while not playground.reply(waiting).answers and time.monotonic() < deadline:
        time.sleep(0.02)
    assert playground.reply(waiting).status == "answering"
    assert playground.reply(waiting).answers[0].tokens
    playground.free(wait=120)
    assert playground.reply(waiting).status == "failed"
    assert "asked to unload" in playground.reply(waiting).problem


def test_of_many_who_ask_at_once_one_worker_answers_all(home):
    found: list[playground.Reply] = []

    def asking(number: int) -> None:
        found.append(playground.ask(question(f"a {number}"), timeout=120))

    threads = [threading.Thread(target=asking, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(reply.answers[0].text for reply in found) == [f"{n} a" for n in range(6)]
    assert len({child.pid for child in processes.children if child.poll() is None}) == 1


def test_the_same_question_is_found_again_and_another_is_not():
    assert playground.latest(question("a")) is None
    playground.ask(question("a"), timeout=120)
    again = playground.latest(question("a"))
    assert again is not None
    assert again.answers[0].text == "a"
    assert playground.latest(question("a", scale=0.5)) is None


@pytest.mark.parametrize("reply_id", ["../../etc/passwd", "x", "", "../replies/x"])
def test_replies_that_are_not_kept_are_one_sentence(reply_id):
    with pytest.raises(BadInput, match="ask again"):
        playground.reply(reply_id)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"speakers": [], "prompt": "a"}, "speakers"),
        ({"speakers": [Speaker(model="teacher")], "prompt": ""}, "prompt"),
        ({"speakers": [Speaker(model="teacher")], "prompt": "a", "scale": -1}, "scale"),
    ],
)
def test_impossible_questions_name_the_field(fields, words):
    with pytest.raises(BadInput, match=words):
        playground.question(**fields)


def test_unknown_models_and_arms_start_nothing(home):
    with pytest.raises(BadInput, match="no-such-model"):
        playground.post(question("a", "./no-such-model"))
    speaker = Speaker(model="independent", run="20990101", arm="paper", seed=0)
    with pytest.raises(BadInput, match="No run id begins"):
        playground.post(playground.question(speakers=[speaker], prompt="a"))
    assert not list(home.rglob("*.json"))


def test_ask_from_the_command_line(nuggets):
    found = nuggets("ask", "a b", "--model", "teacher", "--json")
    assert found.json["answers"][0]["text"] == "b a"
    assert "b a" in nuggets("ask", "a b", "--model", "teacher", "--free").out
    assert nuggets("ask").code == 2
    assert nuggets("ask", "a", "--arm", "paper").code == 2


def test_the_command_lens_tells_when_each_model_knows_the_answer(nuggets):
    ended = nuggets("lens", "reverse a b", "b a")
    assert ended.code == 0, ended.err
    assert "teacher knows the whole answer from L1 on." in ended.err
    assert "independent: no token of the answer is the first choice at the end." in ended.err
    lines = [line.split() for line in ended.out.splitlines() if "'b'" in line]
    assert lines == [
        ["│", "'b'", "│", known, "│", chance, "│", ">999", "3", last, "│", "L0", "75%,", "L1",
         "25%", "│"]
        for known, chance, last in (("L1", "0.90", "1"), ("never", "0.13", "7"))
    ]  # fmt: skip
    whole = nuggets("lens", "reverse a b", "b a", "--model", "teacher", "--json").json
    assert whole["answers"][0]["lens"]["rank"] == [[2000, 2000], [3, 3], [1, 1]]


def test_the_command_lens_refuses_an_empty_answer(nuggets):
    ended = nuggets("lens", "reverse a b", "")
    assert ended.code == 2
    assert "answer" in ended.err

"""Two app servers on one home: each sees and ends what the other began, and neither falls."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from nuggets import api
from tests.app.conftest import shown
from tests.app.measured import write_benchmark


class Seen(NamedTuple):
    """What a page shows."""

    text: str
    statuses: list[str]
    problems: list[str]


def look(at: Any) -> Seen:
    tables = [part.value for part in at.dataframe if "status" in part.value.columns]
    statuses = [status for table in tables for status in table["status"]]
    return Seen(shown(at), statuses, [part.value for part in at.exception])


def serve(pipe: Any, open_page: Any) -> None:
    """The other server: one session, told what to do."""
    at: Any = None
    for verb, *words in iter(pipe.recv, None):
        if verb == "open":
            name, query = words
            at = open_page(name, **query)
        elif verb == "click":
            at.button(words[0]).click().run()
        else:
            at.run()
        pipe.send(look(at))


class Other:
    """The other server, as this process speaks with it."""

    def __init__(self, open_page: Any) -> None:
        # Forked, since importing everything again takes seconds; from here nothing is shared.
        fork = multiprocessing.get_context("fork")
        self.pipe, theirs = fork.Pipe()
        self.process = fork.Process(target=serve, args=(theirs, open_page), daemon=False)
        self.process.start()

    def tell(self, *words: Any) -> None:
        self.pipe.send(words)

    def answer(self) -> Seen:
        assert self.pipe.poll(120), "the other server does not answer"
        seen = self.pipe.recv()
        assert not seen.problems, seen.problems
        return seen

    def ask(self, *words: Any) -> Seen:
        self.tell(*words)
        return self.answer()


@pytest.fixture
def other(home, open_page) -> Iterator[Other]:
    made = Other(open_page)
    yield made
    made.pipe.send(None)
    made.process.join(60)
    assert made.process.exitcode == 0


def test_a_run_is_seen_cancelled_and_resumed_once_whichever_server_is_asked(
    other, open_page, wait_for
):
    run = api.start(api.load_recipe("quick").model_copy(update={"name": "slow"}))
    wait_for(run, "running")
    there = other.ask("open", "runs", {"run": run.id})
    assert there.statuses == ["running"]
    assert other.ask("click", "opened-cancel").text
    wait_for(run, "cancelled")
    here = open_page("runs", run=run.id)
    assert look(here).statuses == other.ask("look").statuses == ["cancelled"]
    other.tell("click", "opened-resume")
    here.button("opened-resume").click().run()
    assert not here.exception
    other.answer()
    wait_for(run, "running")
    assert run.record().attempts == 2
    assert look(here.run()).statuses == other.ask("look").statuses == ["running"]
    here.button("opened-cancel").click().run()
    wait_for(run, "cancelled")
    assert other.ask("look").statuses == ["cancelled"]
    assert [event.data.get("attempt") for event in run.events() if "attempt" in event.data] == [
        1,
        2,
    ]


@pytest.mark.parametrize("page", ["runs", "results", "transfer", "sensitivity", "playground"])
def test_a_run_that_one_server_deletes_vanishes_from_the_others_page(other, page):
    run = write_benchmark(api.load_recipe("quick"))
    kept = api.create(api.map_job(api.load_recipe("quick")))
    title = api.about(run).title
    before = other.ask("open", page, {"run": run.id})
    assert page != "runs" or "done" in before.statuses
    api.delete(run.id)
    after = other.ask("look")
    assert title not in after.text
    assert page != "runs" or after.statuses == [kept.status()]

"""Many runs through one engine."""

import contextlib
import threading
import time
from typing import Literal

import pytest

from nuggets import worker
from nuggets.errors import Cancelled, NonFinite
from nuggets.runs import fan_out
from nuggets.runs.context import RunContext
from nuggets.runs.engines.base import EngineBase
from nuggets.runs.schema import LIVE


class Threads(EngineBase):
    """A worker per thread, three at once."""

    kind: Literal["threads"] = "threads"

    def at_once(self, device):
        return 3

    def place(self, device):
        return None

    def start(self, run):
        before = run.record().attempts
        threading.Thread(target=work, args=(run,)).start()
        while run.record().attempts == before:
            time.sleep(0.005)


def work(run):
    with contextlib.suppress(Cancelled, NonFinite):
        worker.run_in_foreground(run, lambda event: None)


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(fan_out, "POLL_S", 0.01)


@pytest.fixture
def runs(store):
    return [store.create("toy", f"n: {n}", f"run-{n}", f"cuda:{n}") for n in range(7)]


def test_many_runs_are_worked_off_at_most_so_many_at_once(runs, pipeline):
    at_work, most, lock = set(), 0, threading.Lock()
    three = threading.Barrier(3)

    def execute(run, ctx):
        nonlocal most
        with lock:
            at_work.add(run.id)
            most = max(most, len(at_work))
        if run.device() != "cuda:0" and run.record().attempts == 1:
            three.wait(timeout=60)
        with lock:
            at_work.discard(run.id)
        if run.device() == "cuda:2" and run.record().attempts == 1:
            raise NonFinite("The loss is nan.")

    pipeline(execute)
    worker.run_in_foreground(runs[0], lambda event: None)
    ended = []
    statuses = fan_out.submit_all(runs, Threads(), lambda run, status: ended.append((run, status)))
    assert statuses == ["done"] * 2 + ["failed"] + ["done"] * 4
    assert (most, len(ended)) == (3, 7)
    assert dict(ended)[runs[2]] == "failed"
    assert fan_out.submit_all(runs, Threads()) == ["done"] * 7
    assert [run.record().attempts for run in runs] == [1, 1, 2, 1, 1, 1, 1]


def test_a_run_whose_worker_was_lost_is_continued_but_not_for_ever(runs, pipeline):
    class Losing(Threads):
        def start(self, run):
            often = {runs[1].id: 3, runs[2].id: 9}.get(run.id, 0)
            if run.record().attempts >= often:
                return super().start(run)
            with run.owned():  # what a worker leaves behind that is killed
                ctx = RunContext(run)
                ctx.begin_attempt()
                ctx.set_status("running")
                ctx.close()
            return None

    pipeline(lambda run, ctx: None)
    ended = fan_out.submit_all(runs[:4], Losing())
    assert ended == ["done", "done", "interrupted", "done"]
    assert [run.record().attempts for run in runs[:4]] == [1, 4, 4, 1]


def test_runs_are_asked_for_when_there_is_room(runs, pipeline):
    at_work, most = [], []

    def one_by_one():
        for run in runs:
            most.append(sum(each.status() in LIVE for each in at_work))
            at_work.append(run)
            yield run

    pipeline(lambda run, ctx: time.sleep(0.02))
    assert fan_out.submit_all(one_by_one(), Threads()) == ["done"] * 7
    assert max(most) <= 2


def test_who_stops_waiting_stops_what_was_started(runs, pipeline):
    def execute(run, ctx):
        while run.device() != "cuda:0":
            ctx.check_cancelled()
            time.sleep(0.01)

    def interrupted(run, status):
        raise KeyboardInterrupt

    pipeline(execute)
    with pytest.raises(KeyboardInterrupt):
        fan_out.submit_all(runs, Threads(), interrupted)
    deadline = time.monotonic() + 60
    while any(run.status() in LIVE for run in runs) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [r.status() for r in runs] == ["done", *["cancelled"] * 2, *["created"] * 4]

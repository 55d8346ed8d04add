"""Starting, resuming and cancelling runs, through the engine that this machine uses."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection

from nuggets.disk.commit import disk_errors
from nuggets.disk.locks import Lock
from nuggets.errors import BadInput, RunBusy
from nuggets.runs.context import RunContext
from nuggets.runs.engines.base import EngineBase
from nuggets.runs.engines.settings import chosen
from nuggets.runs.queues import end_job, forget_answers
from nuggets.runs.schema import LIVE, RESUMABLE, RunError, RunStatus
from nuggets.runs.store import Run

_POLL_S = 0.02
QUEUE_TIMEOUT_S = 10.0
"""So long a queue is waited for after it was told to drop a job."""


def start(run: Run, engine: EngineBase | None = None) -> None:
    """Starts a run that was never started; returns once a worker or a queue has taken it.

    Args:
        run: the run.
        engine: how it gets its worker; as this machine is set when not given.

    Raises:
        RunBusy: if it has a worker, or is being started at this moment.
        BadInput: if it ended or was interrupted before.
        NuggetsError: if the worker died at once, or a queue refused it.
    """
    _launch(run, {"created"}, engine)


def resume(run: Run, engine: EngineBase | None = None) -> None:
    """Continues an interrupted, failed or cancelled run from its last commit.

    One that was never started begins: its starter was killed, or a queue refused it.

    Raises:
        RunBusy: if it has a worker, or is being started at this moment.
        BadInput: if it is done, or is damaged.
        NuggetsError: if the worker died at once, or a queue refused it.
    """
    _launch(run, RESUMABLE, engine)


def cancel(run: Run, wait: float = 0.0) -> RunStatus:
    """Asks a run to stop.

    Args:
        run: a run that is queued, running or about to be started.
        wait: how many seconds to wait for the end.

    Returns:
        The status afterwards: still live if it has not noticed yet.

    Raises:
        BadInput: if there is nothing to stop.
    """
    status = run.status()
    if status not in LIVE | {"created"}:
        raise BadInput(f"Run {run.id} is {status}, so there is nothing to cancel.")
    run.request_cancel()
    if job := run.queued_job():
        _leave_queue(run, job)
    deadline = time.monotonic() + wait
    while (status := run.status()) in LIVE and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return status


def _leave_queue(run: Run, job: str) -> None:
    """Ends a job that has no worker yet; one that just got a worker answers for itself."""
    end_job(job)
    deadline = time.monotonic() + QUEUE_TIMEOUT_S
    while run.queued_job() == job and time.monotonic() < deadline:
        time.sleep(10 * _POLL_S)
        forget_answers()
    with contextlib.suppress(RunBusy), run.owned():
        said = f"Run {run.id} was cancelled while it waited in the queue; resume it to start it."
        ctx = RunContext(run)
        ctx.set_status("cancelled", RunError(type="Cancelled", message=said, exit_code=1))
        ctx.close()
        run.clear_cancel()


def _launch(run: Run, allowed: Collection[RunStatus], engine: EngineBase | None) -> None:
    # The lock covers everything from the look at the status to the worker's taking over, so that
    # of two starters the second never finds a run that its rival already worked off.
    lock = Lock(run.folder / "launch.lock")
    with disk_errors(lock.path):
        taken = lock.acquire()
    if not taken:
        raise RunBusy(f"Run {run.id} is being started by another process, or was deleted.")
    try:
        _check_status(run, allowed)
        if allowed is RESUMABLE:
            run.clear_cancel()  # a request from before; one for this attempt comes later
        (engine or chosen()).start(run)
    finally:
        lock.release()


def _check_status(run: Run, allowed: Collection[RunStatus]) -> None:
    status = run.status()
    if status in LIVE:
        raise RunBusy(f"Run {run.id} is already {status}; follow it, or cancel it first.")
    if status in allowed:
        return
    advice = {
        "done": "Start a new run from its recipe.",
        "damaged": run.problem() or "Try again.",
    }.get(status, "Resume it.")
    raise BadInput(f"Run {run.id} is {status}. {advice}")

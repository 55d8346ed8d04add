"""Starting, resuming and cancelling runs as detached worker processes on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path

from nuggets.disk.commit import disk_errors
from nuggets.disk.home import nuggets_home
from nuggets.disk.locks import Lock
from nuggets.errors import BadInput, NuggetsError, RunBusy
from nuggets.runs.schema import LIVE, RESUMABLE, RunStatus
from nuggets.runs.store import Run

LAUNCH_TIMEOUT_S = 60.0
_POLL_S = 0.02

_children: list[subprocess.Popen[bytes]] = []
"""Workers of this process, kept so that those that ended are reaped; never asked for status."""


def start(run: Run) -> None:
    """Starts a run that was never started; returns once its worker has taken it.

    Raises:
        RunBusy: if it has a worker, or is being started at this moment.
        BadInput: if it ended or was interrupted before.
        NuggetsError: if the worker died at once.
    """
    _launch(run, {"created"})


def resume(run: Run) -> None:
    """Continues an interrupted, failed or cancelled run from its last commit.

    Raises:
        RunBusy: if it has a worker, or is being started at this moment.
        BadInput: if it is done, was never started, or is damaged.
        NuggetsError: if the worker died at once.
    """
    _launch(run, RESUMABLE)


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
    deadline = time.monotonic() + wait
    while (status := run.status()) in LIVE and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return status


def _launch(run: Run, allowed: Collection[RunStatus]) -> None:
    # The lock covers everything from the look at the status to the worker's taking over, so that
    # of two starters the second never finds a run that its rival already worked off.
    lock = Lock(run.folder / "launch.lock")
    with disk_errors(lock.path):
        taken = lock.acquire()
    if not taken:
        raise RunBusy(f"Run {run.id} is being started by another process, or was deleted.")
    try:
        _check_status(run, allowed)
        if "created" not in allowed:
            run.clear_cancel()  # a request to the attempt before; one for this attempt comes later
        attempts = run.record().attempts
        _wait_for_worker(run, spawn("nuggets.worker", run.folder, run.log_path), attempts)
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
        "created": "Start it.",
        "damaged": run.problem() or "Try again.",
    }.get(status, "Resume it.")
    raise BadInput(f"Run {run.id} is {status}. {advice}")


def spawn(module: str, folder: Path, log_path: Path) -> subprocess.Popen[bytes]:
    """Starts `python -m module folder` as a detached process that outlives this one.

    Args:
        module: one of ours.
        folder: its argument and its working folder.
        log_path: where its output is appended.
    """
    _children[:] = [child for child in _children if child.poll() is None]
    with log_path.open("ab") as log:
        # -P keeps the folder off the import path: a file in it must never run as code.
        child = subprocess.Popen(  # noqa: S603 - our own module with our own folder
            [sys.executable, "-P", "-m", module, str(folder)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_environment(),
            start_new_session=True,
        )
    _children.append(child)
    return child


def _environment() -> dict[str, str]:
    """This process's environment; relative paths keep their meaning in the worker's folder.

    Bars of other libraries, all drawn by tqdm, would only fill the log.
    """
    environment = {"TQDM_DISABLE": "1", **os.environ, "NUGGETS_HOME": str(nuggets_home())}
    if path := environment.get("PYTHONPATH"):
        entries = (str(Path(entry).absolute()) for entry in path.split(os.pathsep))
        environment["PYTHONPATH"] = os.pathsep.join(entries)
    return environment


def _wait_for_worker(run: Run, child: subprocess.Popen[bytes], attempts: int) -> None:
    deadline = time.monotonic() + LAUNCH_TIMEOUT_S
    while time.monotonic() < deadline:
        code = child.poll()
        if run.record().attempts > attempts:
            return
        if code is not None:
            raise NuggetsError(
                f"The worker of run {run.id} ended with exit code {code} before it started the "
                f"run. Its last output: {run.log_tail(5) or 'none'}"
            )
        time.sleep(_POLL_S)
    raise NuggetsError(
        f"The worker of run {run.id} did not start within {LAUNCH_TIMEOUT_S:.0f} s. The machine "
        f"may be overloaded; check {run.log_path} and the run's status."
    )

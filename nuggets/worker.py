"""`python -m nuggets.worker <run folder>`: the one command that every launcher runs.

It is idempotent: a run that is done stays done, a run that belongs to a living worker is left
alone (exit code 3), and any other is attempted from its last commit. The work itself is
`nuggets.stages.pipeline.execute(run, ctx)`; the environment variable
`NUGGETS_PIPELINE="module:function"` puts another function in its place (tests use it).

Exit codes: 0 done, 1 failed or cancelled, 2 bad input, 3 the run belongs to another worker.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nuggets import demo
from nuggets.compute.memory import memory_reported
from nuggets.disk.home import runs_dir
from nuggets.disk.last_frame import sentence, trim_log
from nuggets.errors import BadInput, Cancelled, NuggetsError, RunBusy, hide_tokens
from nuggets.runs.context import RunContext
from nuggets.runs.devices import device_turn
from nuggets.runs.engines.base import CPU
from nuggets.runs.engines.settings import chosen, here
from nuggets.runs.leases import JOB
from nuggets.runs.schema import RunError, RunEvent, RunRecord
from nuggets.runs.stopping import own_process, stoppable
from nuggets.runs.store import Run, RunStore

BUSY_EXIT_CODE = 3
SWEEP = "sweep"
"""The kind of a run that is a sweep."""


def main(arguments: list[str] | None = None) -> int:
    """Works on one run until it ends; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1 or not Path(arguments[0], "record.json").is_file():
        print(
            "Usage: python -m nuggets.worker RUN_FOLDER (a folder with record.json)",
            file=sys.stderr,
        )
        return BadInput.exit_code
    run = Run(Path(arguments[0]))
    _redirect_output(run.log_path)
    try:
        with own_process():
            _work(run, None)
    except RunBusy as error:
        print(error, file=sys.stderr)
        return BUSY_EXIT_CODE
    except BaseException as error:
        print(hide_tokens(traceback.format_exc()), file=sys.stderr, end="")
        return _exit_code(error)
    return 0


def run_job(job: Any, on_event: Callable[[RunEvent], None] = lambda event: None) -> Run:
    """Runs a job here, reporting events as they happen. Imports torch.

    Raises:
        BadInput: if the job cannot work. When that shows before anything was kept, no run is
            left behind.
        NuggetsError: as the job does.
    """
    from nuggets.stages.creating import create  # NumPy, which starting a worker does not need

    with here():
        made = create(job)
        try:
            run_in_foreground(made, on_event)
        except BadInput:
            if not any((made.folder / "artifacts").glob("*")):
                RunStore(runs_dir()).delete(made.id)
            raise
    return made


def run_in_foreground(run: Run, on_event: Callable[[RunEvent], None]) -> RunRecord:
    """Does the worker's work in this process, with the same locks, record and events.

    Ctrl-C and SIGTERM ask the run to stop; what does not stop by itself within a moment, or at a
    second one, is interrupted. Either way the run ends as cancelled and can be resumed.

    Args:
        run: the run; one that is done returns at once.
        on_event: called with every event, for progress bars.

    Returns:
        The final record.

    Raises:
        RunBusy: if another process owns the run.
        Cancelled: after Ctrl-C, or when somebody cancelled the run.
        Exception: whatever the pipeline raised, after it was recorded.
    """
    try:
        _work(run, on_event)
    except RunBusy:
        raise
    except BaseException as error:
        with contextlib.suppress(OSError), run.log_path.open("a") as log:
            log.write(hide_tokens("".join(traceback.format_exception(error))))
        raise
    return run.record()


def _work(run: Run, on_event: Callable[[RunEvent], None] | None) -> None:
    # A sweep starts its trials through the engine; all other work is done in this process.
    spreads = run.record().kind == SWEEP
    with run.owned(), contextlib.nullcontext() if spreads else here():
        status = run.record().status
        if status == "done":
            return
        if status in ("failed", "cancelled"):
            run.clear_cancel()  # answered already, by a worker killed before it could say so
        ctx = RunContext(run, on_event)
        try:
            _attempt(run, ctx)
        finally:
            ctx.close()


def _attempt(run: Run, ctx: RunContext) -> None:
    def last() -> None:
        _record_end(ctx, ctx.cancelled())
        run.clear_cancel()

    def asked() -> bool:  # several times a second, whatever the work is doing
        trim_log(run.log_path)
        return run.cancel_requested()

    try:
        with stoppable(ctx.request_stop, asked, last):
            ctx.begin_attempt()
            with _device(run, ctx), _demo_limit(run, ctx):
                ctx.check_cancelled()
                ctx.set_status("running")
                with memory_reported("This run", "see `nuggets preflight` for what it needs"):
                    _pipeline(run)(run, ctx)
        ctx.set_status("done")
    except KeyboardInterrupt:
        stopped = ctx.cancelled()
        _record_end(ctx, stopped)
        raise stopped from None
    except BaseException as error:
        _record_end(ctx, error)
        raise
    finally:
        run.clear_cancel()


def _record_end(ctx: RunContext, error: BaseException) -> None:
    message = sentence(error, ctx.run.log_path)
    failure = RunError(type=type(error).__name__, message=message, exit_code=_exit_code(error))
    # With a full disk even this may fail. The lock is freed all the same, and the run is then
    # shown as interrupted.
    with contextlib.suppress(NuggetsError, OSError):
        ctx.set_status("cancelled" if isinstance(error, Cancelled) else "failed", failure)


def _exit_code(error: BaseException) -> int:
    return error.exit_code if isinstance(error, NuggetsError) else NuggetsError.exit_code


@contextmanager
def _device(run: Run, ctx: RunContext) -> Iterator[None]:
    """Holds the run's device, after waiting for whoever has it; a cancel ends the wait."""
    devices, announced = chosen().places_here(run.device()), None
    if JOB in os.environ:  # the cluster gave this job what it computes on
        ctx.use_device(devices[0])
        yield
        return

    def wait(holder: str) -> None:
        nonlocal announced
        if holder != announced:
            ctx.waiting_for(" or ".join(devices), holder)
            announced = holder
        ctx.check_cancelled()

    with device_turn(devices, run.id, wait) as device:
        ctx.use_device(CPU if device.startswith(f"{CPU}:") else device)  # all shares are one CPU
        yield


@contextmanager
def _demo_limit(run: Run, ctx: RunContext) -> Iterator[None]:
    """Stops what the visitor of a demo started after the time that it may take."""
    if not demo.on():
        yield
        return
    ctx.log(f"On this demo server a run is stopped after {demo.MINUTES:g} minutes.")
    timer = threading.Timer(60 * demo.MINUTES, run.request_cancel)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _pipeline(run: Run) -> Callable[[Run, RunContext], Any]:
    # Imported late: the pipeline imports torch, and a queued run should not hold 350 MB. A sweep
    # makes runs itself, so it stands above this module.
    usual = os.environ.get("NUGGETS_PIPELINE", "nuggets.stages.pipeline:execute")
    named = "nuggets.sweeps.working:execute" if run.record().kind == SWEEP else usual
    module, _, function = named.partition(":")
    return getattr(importlib.import_module(module), function)


def _redirect_output(path: Path) -> None:
    """Sends everything printed, by C libraries too, to the run's log."""
    sys.stdout.flush()
    sys.stderr.flush()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


if __name__ == "__main__":
    sys.exit(main())

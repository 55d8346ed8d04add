"""Many runs through one engine, as many at once as it takes."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from nuggets.errors import BadInput, Cancelled, NuggetsError
from nuggets.runs import launch, leases
from nuggets.runs.engines.base import EngineBase
from nuggets.runs.engines.settings import chosen
from nuggets.runs.schema import LIVE, RunStatus
from nuggets.runs.store import Run

POLL_S = 0.2
MOST_LOST = 3
"""A run whose worker was lost is continued so often."""
STOPPING_S = 10.0
"""So long whoever stops waiting waits for what it cancelled."""


def spreads(device: str) -> bool:
    """Whether this machine's engine computes runs of a device elsewhere, or several at once."""
    engine = chosen()
    return engine.elsewhere or engine.at_once(device) > 1


def submit_all(
    runs: Iterable[Run],
    engine: EngineBase | None = None,
    on_end: Callable[[Run, RunStatus], None] = lambda run, status: None,
    on_wait: Callable[[], None] = lambda: None,
) -> list[RunStatus]:
    """Works off many runs and waits for all of them; results do not depend on the engine.

    Runs that are done are left alone, those under way are waited for, and all others are started or
    continued, also one whose worker was lost meanwhile. If this call ends early, by an error or
    Ctrl-C, it cancels what it started; the same call then continues everything.

    Args:
        runs: in the order in which they are started; each is asked for when there is room for it.
        engine: how they get their workers; as this machine is set when not given.
        on_end: told of every run that ended, and how.
        on_wait: called at every look; what it raises ends the call.

    Returns:
        How each run ended, in the order of `runs`: one that failed does not stop the others.

    Raises:
        NuggetsError: if the engine takes no more runs.
    """
    engine, coming, more = engine or chosen(), iter(runs), True
    seen, live, started, lost = list[Run](), list[Run](), list[Run](), Counter[str]()
    try:
        while more or live:
            while more and (not live or len(live) < engine.at_once(live[-1].device())):
                run = next(coming, None)
                if more := run is not None:
                    seen.append(run)
                    live.append(run)
                    _begin(run, engine, started)
            for run in list(live):
                if (status := run.status()) == "interrupted" and lost[run.id] < MOST_LOST:
                    lost[run.id] += 1
                    _begin(run, engine, started)
                # Whoever just took the run has not replaced the status of the attempt before yet.
                elif status not in LIVE and not leases.owner(run.folder, run.lock_path):
                    live.remove(run)
                    on_end(run, status)
            if live:
                on_wait()
                time.sleep(POLL_S)
    except BaseException:
        _stop(started)
        raise
    return [run.status() for run in seen]


def check_done(run: Run, status: RunStatus) -> None:
    """Ends what needs a run that did not reach its end.

    Raises:
        Cancelled: if somebody stopped it.
        NuggetsError: saying what it ended by.
    """
    if status == "done":
        return
    error = run.record().error
    said = f": {error.message}" if error else "."
    kind = Cancelled if status == "cancelled" else NuggetsError
    raise kind(f"Run {run.id} ended as {status}{said}")


def _begin(run: Run, engine: EngineBase, started: list[Run]) -> None:
    status = run.status()
    if status not in ("done", "damaged", *LIVE):
        (launch.start if status == "created" else launch.resume)(run, engine)
        started.append(run)


def _stop(started: Sequence[Run]) -> None:
    for run in started:
        with contextlib.suppress(BadInput):  # it ended already
            launch.cancel(run)
    deadline = time.monotonic() + STOPPING_S
    while any(run.status() in LIVE for run in started) and time.monotonic() < deadline:
        time.sleep(POLL_S)

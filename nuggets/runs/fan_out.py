"""Many runs through one engine, as many at once as it takes."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence

from nuggets.errors import BadInput
from nuggets.runs import launch
from nuggets.runs.engines.base import EngineBase
from nuggets.runs.engines.settings import chosen
from nuggets.runs.schema import LIVE, RunStatus
from nuggets.runs.store import Run

POLL_S = 0.2


def submit_all(
    runs: Sequence[Run],
    engine: EngineBase | None = None,
    on_end: Callable[[Run, RunStatus], None] = lambda run, status: None,
) -> list[RunStatus]:
    """Works off many runs and waits for all of them; results do not depend on the engine.

    Runs that are done are left alone, those under way are waited for, and all others are started or
    continued. If this call ends early, by an error or Ctrl-C, it cancels what it started; the same
    call then continues everything.

    Args:
        runs: in the order in which they are started.
        engine: how they get their workers; as this machine is set when not given.
        on_end: told of every run that ended, and how.

    Returns:
        How each run ended, in the order of `runs`: one that failed does not stop the others.

    Raises:
        NuggetsError: if the engine takes no more runs.
    """
    engine = engine or chosen()
    left, live, started = deque(runs), list[Run](), list[Run]()
    try:
        while left or live:
            while left and len(live) < engine.at_once():
                run = left.popleft()
                if (status := run.status()) not in ("done", *LIVE):
                    (launch.start if status == "created" else launch.resume)(run, engine)
                    started.append(run)
                live.append(run)
            for run in list(live):
                if (status := run.status()) not in LIVE:
                    live.remove(run)
                    on_end(run, status)
            if live:
                time.sleep(POLL_S)
    except BaseException:
        for run in started:
            with contextlib.suppress(BadInput):  # it ended already
                launch.cancel(run)
        raise
    return [run.status() for run in runs]

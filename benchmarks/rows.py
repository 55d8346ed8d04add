"""One row of the table, and how time is measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One comparison.

    Attributes:
        what: what was measured.
        reference: what it is compared with: the published procedure, or the machine.
        nuggets: the same of Nuggets.
        ratio: of the two, from this run.
        aim: what the ratio is to be; empty where there is none.
        note: what else was found.
    """

    what: str
    reference: str
    nuggets: str
    ratio: str
    aim: str = ""
    note: str = ""


def timed(call: Callable[[], Any], rounds: int = 1) -> tuple[float, Any]:
    """Seconds of the fastest of some rounds, and the last result."""
    best, result = float("inf"), None
    for _ in range(rounds):
        start = time.perf_counter()
        result = call()
        best = min(best, time.perf_counter() - start)
    return best, result

"""One run per device at a time; the others wait in line, first come first served.

The device is a lock that its user holds for as long as it computes. Whoever waits holds the
lock of a ticket beside it, named by the time of arrival: a ticket without a holder is dead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nuggets.disk.commit import make_folder
from nuggets.disk.home import device_lock_path
from nuggets.disk.locks import Lock, is_held, read_holder

POLL_S = 0.2


def device_holder(device: str) -> str:
    """The id of the run that computes on a device now; an empty text when it is free."""
    path = device_lock_path(device)
    return read_holder(path) if is_held(path) else ""


@contextmanager
def device_turn(device: str, run_id: str, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Holds a device for the length of the block, after waiting in line for it.

    Args:
        device: such as `cpu` or `cuda:0`.
        run_id: who is asking; others see it while they wait.
        on_wait: called at every look while waiting, with the holder's run id (or an empty
            text); what it raises ends the wait.
    """
    lock = Lock(device_lock_path(device))
    line = lock.path.with_suffix(".line")
    make_folder(line)
    ticket = _take_ticket(line, run_id)
    try:
        while not (_is_first(ticket.path) and lock.acquire()):
            on_wait(device_holder(device))
            time.sleep(POLL_S)
    finally:
        ticket.path.unlink(missing_ok=True)
        ticket.release()
    try:
        lock.write_holder(run_id)
        yield
    finally:
        lock.release()


def _take_ticket(line: Path, run_id: str) -> Lock:
    # Taking fails when somebody clears the ticket away before it is locked: take another.
    while not (ticket := Lock(line / f"{time.time_ns():020d}-{run_id}")).acquire():
        pass
    return ticket


def _is_first(mine: Path) -> bool:
    for ticket in sorted(mine.parent.iterdir()):
        if ticket.name >= mine.name:
            break
        if is_held(ticket):
            return False
        ticket.unlink(missing_ok=True)  # its owner died in line
    return True

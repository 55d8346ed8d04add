"""One run per device at a time; the others wait in line, first come first served.

The device is a lock that its user holds for as long as it computes. Whoever waits holds the
lock of a ticket beside it, named by the time of arrival: a ticket without a holder is dead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
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
def device_turn(
    devices: Sequence[str], run_id: str, on_wait: Callable[[str], None]
) -> Iterator[str]:
    """Holds one of some devices for the length of the block, after waiting in line for each.

    Args:
        devices: such as `cpu`, or `cuda:0` and `cuda:1`; of several free ones the first.
        run_id: who is asking; others see it while they wait.
        on_wait: called at every look while waiting, with the run id of the first device's holder
            (or an empty text); what it raises ends the wait.

    Yields:
        The device.
    """
    locks = {device: Lock(device_lock_path(device)) for device in devices}
    tickets = {}
    try:
        for device, lock in locks.items():
            line = lock.path.with_suffix(".line")
            make_folder(line)
            tickets[device] = _take_ticket(line, run_id)
        while (free := _first_free(locks, tickets)) is None:
            on_wait(device_holder(devices[0]))
            time.sleep(POLL_S)
    finally:
        for ticket in tickets.values():
            ticket.path.unlink(missing_ok=True)
            ticket.release()
    try:
        locks[free].write_holder(run_id)
        yield free
    finally:
        locks[free].release()


def _first_free(locks: dict[str, Lock], tickets: dict[str, Lock]) -> str | None:
    """The device that was taken; None while all are held, or others came first."""
    for device, lock in locks.items():
        if _is_first(tickets[device].path) and lock.acquire():
            return device
    return None


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

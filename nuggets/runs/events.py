"""`events.jsonl`: append-only, one writer, any number of readers at the same time.

A run may write for months. A log that grew too large is replaced by a shorter one, in which older
progress and losses are sparser; numbers of events then have gaps, and never another order.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from pydantic import ValidationError

from nuggets.disk.commit import atomic_write, disk_errors, write_all
from nuggets.disk.untrusted import is_file
from nuggets.errors import NuggetsError
from nuggets.runs.schema import EventType, RunEvent, now

MAX_BYTES = 20_000_000
"""Some 100,000 events; a log never grows beyond."""


def read_events(path: Path, after_seq: int = -1) -> list[RunEvent]:
    """The events with `seq > after_seq`, in order.

    A line that its writer has not finished, or never will, is left out, and so is one that is
    damaged: that costs one event and nothing else.
    """
    events: list[RunEvent] = []
    for line in reversed(_complete_lines(path)):  # newest first: a poll parses only what is new
        event = _parse(line)
        if event is not None:
            if event.seq <= after_seq:
                break
            events.append(event)
    return events[::-1]


class EventLog:
    """The one writer of a run's events."""

    def __init__(self, path: Path) -> None:
        """Opens the log for appending, cutting a line torn by a kill."""
        self.path = path
        self._open()
        events = (_parse(line) for line in reversed(_complete_lines(path)))
        last = next((event for event in events if event is not None), None)
        self._next_seq = 0 if last is None else last.seq + 1

    def _open(self) -> None:
        with disk_errors(self.path):
            how = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK  # never waits for a pipe
            self._fd = os.open(self.path, how, 0o666)
            newest = _newest(self.path)
            torn = len(newest) - (newest.rfind(b"\n") + 1)
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - torn)

    def append(
        self, type_: EventType, stage: str, message: str, data: dict, *, durable: bool = False
    ) -> RunEvent:
        """Writes one event as one line.

        Args:
            type_: the kind of event.
            stage: the stage it belongs to.
            message: words for people.
            data: JSON values.
            durable: whether the event must survive a power cut (syncs the file).

        Raises:
            NuggetsError: if the disk is full or refuses; nothing of the line stays.
        """
        event = RunEvent(
            seq=self._next_seq, time=now(), type=type_, stage=stage, message=message, data=data
        )
        self._write((event.model_dump_json() + "\n").encode(), durable)
        self._next_seq += 1
        return event

    def _write(self, line: bytes, durable: bool) -> None:
        size = os.fstat(self._fd).st_size
        if size + len(line) > MAX_BYTES:
            atomic_write(self.path, _thinned(_complete_lines(self.path)))
            self.close()
            self._open()
            size = os.fstat(self._fd).st_size
        try:
            with disk_errors(self.path):
                write_all(self._fd, line)
                if durable:
                    os.fsync(self._fd)
        except NuggetsError:
            os.ftruncate(self._fd, size)
            raise

    def close(self) -> None:
        """Closes the file."""
        os.close(self._fd)


def _thinned(lines: list[bytes]) -> bytes:
    """Half as much or less: sparser at first, and cut where even that is not enough."""
    old, kept, seen = lines[: len(lines) // 2], [], Counter[tuple[object, object]]()
    for line in old:
        event = _parse(line)
        if event is None or event.type == "progress":
            continue
        if event.type == "metric" and "step" in event.data:
            curve = str(event.data.get("arm")), str(event.data.get("seed"))
            seen[curve] += 1
            if seen[curve] % 2 == 0:
                continue
        kept.append(line)
    whole = b"".join(line + b"\n" for line in (*kept, *lines[len(old) :]))
    if len(whole) > 0.75 * MAX_BYTES:
        whole = whole[-MAX_BYTES // 2 :].partition(b"\n")[2]
    return whole


def _complete_lines(path: Path) -> list[bytes]:
    return _newest(path).split(b"\n")[:-1]


def _newest(path: Path) -> bytes:
    """What a log holds, as far as it is read: its writer keeps it shorter than that."""
    if not is_file(path):
        return b""
    with path.open("rb") as file:
        start = max(0, os.fstat(file.fileno()).st_size - 2 * MAX_BYTES)
        file.seek(start)
        data = file.read()
    return data.partition(b"\n")[2] if start else data


def _parse(line: bytes) -> RunEvent | None:
    try:
        return RunEvent.model_validate_json(line)
    except ValidationError:
        return None

"""`events.jsonl`: append-only, one writer, any number of readers at the same time."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from nuggets.disk.commit import disk_errors, write_all
from nuggets.errors import NuggetsError
from nuggets.runs.schema import EventType, RunEvent, now


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
        with disk_errors(path):
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            complete = sum(len(line) + 1 for line in _complete_lines(path))
            os.ftruncate(self._fd, complete)
        events = (_parse(line) for line in reversed(_complete_lines(path)))
        last = next((event for event in events if event is not None), None)
        self._next_seq = 0 if last is None else last.seq + 1

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


def _complete_lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []


def _parse(line: bytes) -> RunEvent | None:
    try:
        return RunEvent.model_validate_json(line)
    except ValidationError:
        return None

"""Answers that need not be asked for again after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from nuggets.disk.commit import atomic_write

T = TypeVar("T")


def answer_once(folder: Path | None, key: str, ask: Callable[[], T]) -> T:
    """The answer that was kept, or one that is asked for now and kept.

    Args:
        folder: one per model and benchmark, a file per answer; None keeps nothing.
        key: names the request by its content.
        ask: gives an answer that JSON can hold.
    """
    if folder is None:
        return ask()
    file = folder / f"{key}.json"
    with suppress(OSError, ValueError):  # a damaged file counts as none
        return json.loads(file.read_text())
    answer = ask()
    atomic_write(file, json.dumps(answer))
    return answer

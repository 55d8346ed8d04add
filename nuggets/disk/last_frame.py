"""The last frame of every entry: one sentence for what nobody foresaw, its trace in a log."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import traceback
from datetime import UTC, datetime
from pathlib import Path

from nuggets import __version__
from nuggets.disk.commit import make_folder
from nuggets.disk.home import nuggets_home
from nuggets.errors import NuggetsError, hide_tokens

MAX_LOG_BYTES = 1_000_000
"""A run's log that is larger loses its older half; the home's own starts anew beside this one."""


def trim_log(path: Path) -> None:
    """Keeps the newest part of a log that grew too large, in place: whoever writes it appends."""
    with contextlib.suppress(OSError):
        if path.stat().st_size > MAX_LOG_BYTES:
            with path.open("r+b") as file:
                file.seek(-MAX_LOG_BYTES // 2, os.SEEK_END)
                kept = file.read()
                file.seek(0)
                file.write(kept)
                file.truncate()


def is_fault(error: BaseException) -> bool:
    """Whether an error is one, and not a request to stop.

    Libraries written in Rust panic with a BaseException of their own.
    """
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def sentence(error: BaseException, log: Path | None = None) -> str:
    """What is said of an error: its own sentence, or where the trace of an unforeseen one is.

    Args:
        error: any.
        log: where its trace was written already; else it goes to the home's log.
    """
    if isinstance(error, NuggetsError):
        return str(error)
    what = hide_tokens(" ".join(str(error).split()))[:200].rstrip(".")
    name = type(error).__name__
    told = f"{name}: {what}" if what else name
    if isinstance(error, OSError) and error.errno is not None:
        advice = {
            errno.ENOSPC: "Free some space.",
            errno.EMFILE: "Raise the limit of open files (`ulimit -n`).",
        }.get(error.errno, "Check the file, the disk and their permissions.")
        return f"{told}. {advice} {_reference(error, log)}"
    if isinstance(error, MemoryError):
        return f"The memory of this machine did not suffice ({told}). {_reference(error, log)}"
    return f"Something unforeseen went wrong ({told}). {_reference(error, log)}"


def _reference(error: BaseException, log: Path | None) -> str:
    if log is not None:
        return f"Details are in {log}."
    reference = secrets.token_hex(4)
    try:
        path = nuggets_home() / "logs" / "unforeseen.log"
        make_folder(path.parent)
        if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
            path.replace(path.with_suffix(".old"))
        trace = hide_tokens("".join(traceback.format_exception(error)))[-50_000:]
        with path.open("a") as file:
            file.write(f"[{reference}] {datetime.now(UTC):%F %T} nuggets {__version__}\n{trace}\n")
    except Exception:  # the log of the last frame is allowed to fail, its sentence is not
        with contextlib.suppress(Exception):
            traceback.print_exception(error)
        return "Its details could not be written to a log."
    return f"Details are in {path} under {reference}."

"""Exclusive locks held by living processes: the kernel frees them on any death.

flock is kept through SIGSTOP, freed by kill -9 and independent of the clock. Owners hold the
lock exclusively; whoever only asks whether there is an owner takes it *shared*, for an instant.
An owner-to-be that meets a shared holder therefore knows that nobody owns the lock and tries
again, so asking never makes a start fail.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import time
import weakref
from pathlib import Path


class Lock:
    """An exclusive lock on a file. The file itself stays: unlinking would split the waiters."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def acquire(self) -> bool:
        """Takes the lock; False when another owner has it or its folder was deleted."""
        assert self._fd is None, "the lock is already held by this object"
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            return False
        if _take(fd) and _is_at(fd, self.path):
            self._fd = fd
            _held.add(self)
            return True
        os.close(fd)
        return False

    def release(self) -> None:
        """Gives the lock back; does nothing when it is not held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            _held.discard(self)

    def write_holder(self, text: str) -> None:
        """Says in the lock file who holds it, for people who wait. A courtesy, never relied on."""
        assert self._fd is not None, "only the owner signs the lock"
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, text.encode(), 0)


def is_held(path: Path) -> bool:
    """Whether a living process owns the lock at `path`."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _flock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def read_holder(path: Path) -> str:
    """What the owner wrote with `write_holder`, or an empty text."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _take(fd: int) -> bool:
    while not _flock(fd, fcntl.LOCK_EX):
        if not _flock(fd, fcntl.LOCK_SH):
            return False
        fcntl.flock(fd, fcntl.LOCK_UN)
        time.sleep(random.uniform(0.0005, 0.003))  # noqa: S311 - only spreads contenders out
    return True


def _flock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # Some network disks have no locks; runs are then owned by their leases alone.
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise
    return True


def _is_at(fd: int, path: Path) -> bool:
    """Whether `path` still names the locked file: its folder may have been deleted meanwhile."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


_held: weakref.WeakSet[Lock] = weakref.WeakSet()


def _forget_in_child() -> None:
    # A forked child shares the open file: without this it would keep its dead parent's lock.
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_forget_in_child)

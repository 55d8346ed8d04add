"""Atomic commits: a reader finds the old state or the new one, never something half-written.

A folder is written beside its final place as `.tmp-…`, every file is synced, a manifest of
sha256 sums is added, the folders are synced, it is renamed, and the parent is synced. A kill
at any system call leaves at most a `.tmp-…` that `sweep_temps` removes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nuggets.disk.manifest import verify_folder, write_manifest
from nuggets.errors import Damaged, NuggetsError

_TEMP = ".tmp-"
_TRASH = ".trash-"


def atomic_write(path: Path, data: bytes | str) -> None:
    """Replaces the file at `path` in one step; on failure the old content stays.

    Args:
        path: the file; its folder must exist.
        data: the whole content; text is written as UTF-8.

    Raises:
        NuggetsError: if the disk is full or refuses the write.
    """
    payload = data.encode() if isinstance(data, str) else data
    with disk_errors(path):
        temp, fd = _claim_temp(path, folder=False)
        try:
            write_all(fd, payload)
            os.fsync(fd)
            temp.rename(path)
            _sync(path.parent)
        except BaseException:
            temp.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """Yields a temporary folder that appears as `final`, complete, when the block succeeds.

    Args:
        final: where the folder will be; missing parents are made.

    Yields:
        The temporary folder to fill.

    Raises:
        NuggetsError: if `final` exists (nothing is ever overwritten), or the disk fails.
    """
    with disk_errors(final):
        _refuse_existing(final)
        make_folder(final.parent)
        temp, fd = _claim_temp(final, folder=True)
    try:
        yield temp
        with disk_errors(final):
            _sync_tree(temp)
            _refuse_existing(final)
            temp.rename(final)
            _sync(final.parent)
    except BaseException as error:
        shutil.rmtree(temp, ignore_errors=True)
        if _is_disk_full(error):
            raise _disk_full(final) from error
        raise
    finally:
        os.close(fd)


@contextmanager
def commit_folder(final: Path) -> Iterator[Path]:
    """Like `new_folder`, with a manifest of sha256 sums that `verify_folder` checks."""
    with new_folder(final) as temp:
        yield temp
        with disk_errors(final):
            write_manifest(temp)


def newest_valid(parent: Path, prefix: str) -> Path | None:
    """The folder `<prefix><number>` with the greatest number that verifies, or None.

    Damaged folders are skipped, so a bad checkpoint costs the steps since the one before.
    The number decides, not the clock.
    """
    numbers = [p.name.removeprefix(prefix) for p in _children(parent) if p.name.startswith(prefix)]
    for number in sorted((n for n in numbers if n.isdecimal()), key=int, reverse=True):
        with contextlib.suppress(Damaged):
            verify_folder(parent / f"{prefix}{number}")
            return parent / f"{prefix}{number}"
    return None


def remove_folder(path: Path) -> None:
    """Deletes a folder so that a kill half-way never leaves part of it under its own name."""
    with disk_errors(path):
        trash = path.with_name(f"{_TRASH}{path.name}-{secrets.token_hex(4)}")
        path.rename(trash)
        _sync(path.parent)
    shutil.rmtree(trash, ignore_errors=True)


def sweep_temps(parent: Path, recursive: bool = False) -> None:
    """Removes temporaries whose writer is dead; a living writer holds a lock on its own."""
    for path in list(parent.rglob("*") if recursive else _children(parent)):
        if path.name.startswith((_TEMP, _TRASH)):
            _sweep(path)


def make_folder(path: Path) -> None:
    """Makes a folder and its missing parents, so that they survive a power cut."""
    if path.is_dir():
        return
    with disk_errors(path):
        make_folder(path.parent)
        with contextlib.suppress(FileExistsError):
            path.mkdir()
        _sync(path.parent)


def append_line(path: Path, text: str) -> None:
    """Adds a line to a file of one writer, synced; one that a power cut tore is cut before.

    Raises:
        NuggetsError: if the disk is full or refuses; nothing of the line stays.
    """
    with disk_errors(path):
        new = not path.exists()
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                size = path.read_bytes().rfind(b"\n") + 1
            os.ftruncate(fd, size)
            try:
                write_all(fd, text.encode() + b"\n")
                os.fsync(fd)
            except BaseException:
                os.ftruncate(fd, size)
                raise
        finally:
            os.close(fd)
        if new:
            _sync(path.parent)


def write_all(fd: int, data: bytes) -> None:
    """Writes every byte: a nearly full disk may accept only some of them at first."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns an `OSError` of the block into one sentence about `path`.

    Raises:
        NuggetsError: The disk is full or refuses; the sentence says why.
    """
    try:
        yield
    except OSError as error:
        if _is_disk_full(error):
            raise _disk_full(path) from error
        reason = error.strerror or str(error)
        raise NuggetsError(
            f"Could not write {path}: {reason}. Check the disk and its permissions, then resume."
        ) from error


def _claim_temp(final: Path, *, folder: bool) -> tuple[Path, int]:
    """Makes a temporary beside `final`, locked for as long as the returned descriptor is open."""
    while True:
        temp = final.with_name(f"{_TEMP}{final.name}-{secrets.token_hex(4)}")
        if folder:
            temp.mkdir()
            fd = os.open(temp, os.O_RDONLY)
        else:
            fd = os.open(temp, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        # Between making and locking, a sweeper may have taken it for a leftover: try another.
        if _lock_temp(fd) is not False and temp.exists():
            return temp, fd
        os.close(fd)


def _lock_temp(fd: int) -> bool | None:
    """True: locked. False: somebody else has it. None: this file system has no flock."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _sweep(path: Path) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return
    try:
        if _lock_temp(fd):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(
                missing_ok=True
            )
    finally:
        os.close(fd)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_tree(root: Path) -> None:
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            _sync(Path(folder, name))
        _sync(Path(folder))


def _children(parent: Path) -> list[Path]:
    return sorted(parent.iterdir()) if parent.is_dir() else []


def _refuse_existing(final: Path) -> None:
    if os.path.lexists(final):
        raise NuggetsError(
            f"{final} already exists, and nothing is ever overwritten. Delete it or choose "
            "another name."
        )


def _is_disk_full(error: BaseException) -> bool:
    # safetensors reports the system's words in an exception of its own, without the number.
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left on device" in str(error)


def _disk_full(path: Path) -> NuggetsError:
    return NuggetsError(
        f"The disk is full while writing {path}. Free some space and resume; everything saved "
        "before is intact."
    )

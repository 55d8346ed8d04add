"""Folders that the user names for results: never overwritten, complete or not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nuggets.disk.commit import commit_folder, disk_errors
from nuggets.errors import BadInput


def refuse_existing(out: Path) -> None:
    """Refuses an output that holds something, before hours are spent.

    Raises:
        BadInput: if it exists and is not an empty folder, or cannot be made.
    """
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise BadInput(f"{out} already exists, and nothing is ever overwritten. Give a new folder.")
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir():
        raise BadInput(f"{out} cannot be created: {above} is a file. Give another folder.")


@contextmanager
def output_folder(out: Path) -> Iterator[Path]:
    """Yields a folder to fill, which appears as `out` when the block succeeds.

    Raises:
        BadInput: if `out` holds something already.
    """
    refuse_existing(out)
    if out.is_dir():
        with disk_errors(out):
            out.rmdir()
    with commit_folder(out.absolute()) as folder:
        yield folder

"""What can be deleted to free disk space: old runs, caches, and uploads that nothing names."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Literal

from nuggets.disk.commit import disk_errors, remove_folder
from nuggets.disk.home import cache_dir, nuggets_home, runs_dir
from nuggets.errors import BadInput, RunBusy
from nuggets.frozen import Frozen
from nuggets.runs.schema import LIVE
from nuggets.runs.store import Run, RunStore

Kind = Literal["runs", "caches", "uploads"]
KINDS: tuple[Kind, ...] = ("runs", "caches", "uploads")
DAY_S = 86_400.0


class Piece(Frozen):
    """One folder or file that can go.

    Attributes:
        kind: what it is.
        path: where it is.
        size: bytes on disk.
    """

    kind: Kind
    path: Path
    size: int


def size_of(path: Path) -> int:
    """Bytes of a file, or of everything in a folder; links count for nothing."""
    if path.is_symlink() or not path.is_dir():
        return 0 if path.is_symlink() or not path.exists() else path.stat().st_size
    total, folders = 0, [os.fspath(path)]
    while folders:
        # With scandir, since pathlib takes three times as long. What went meanwhile is left out.
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    total += entry.stat(follow_symlinks=False).st_size
    return total


def run_size(run: Run) -> int:
    """Bytes of a run's folder, measured again only after its worker wrote something."""
    try:
        return _run_size(run.folder, run.record_path.stat().st_mtime_ns)
    except OSError:
        return size_of(run.folder)


@lru_cache(maxsize=8192)
def _run_size(folder: Path, _written: int) -> int:
    return size_of(folder)


def prunable(kinds: Collection[Kind] = KINDS, older_than: float = 30.0) -> tuple[Piece, ...]:
    """What could be deleted now; nothing is.

    Args:
        kinds: what is looked at. Caches only cost the time to compute them again.
        older_than: days since a run or an upload last changed; caches go whatever their age.
    """
    before = time.time() - older_than * DAY_S
    found: list[tuple[Kind, Path]] = []
    runs = RunStore(runs_dir()).list()
    every = [*runs, *RunStore(nuggets_home() / "sweeps").list()]
    if "runs" in kinds:
        old = (run for run in runs if run.status() not in LIVE and _changed(run.folder) < before)
        found.extend(("runs", run.folder) for run in old)
    if "caches" in kinds and not any(run.status() in LIVE for run in every):
        found.extend(("caches", path) for path in _children(cache_dir()))
    if "uploads" in kinds:
        texts = list(_texts(every))
        for path in _children(nuggets_home() / "data"):
            if path.suffix != ".jsonl" or any(path.name in text for text in texts):
                continue
            if _changed(path) < before:
                found.append(("uploads", path))
    return tuple(Piece(kind=kind, path=path, size=size_of(path)) for kind, path in found)


def prune(pieces: Collection[Piece]) -> tuple[Piece, ...]:
    """Deletes what `prunable` found, and returns what is gone; a run that lives again stays.

    Raises:
        BadInput: if something else is to be deleted.
        NuggetsError: if the disk refuses.
    """
    homes = {"runs": runs_dir(), "caches": cache_dir(), "uploads": nuggets_home() / "data"}
    gone = []
    for piece in pieces:
        if piece.path.parent != homes[piece.kind]:
            raise BadInput(f"{piece.path} is not one of the {piece.kind} of this home.")
        try:
            if piece.kind == "runs":
                RunStore(runs_dir()).delete(piece.path.name)
            elif piece.path.is_dir():
                remove_folder(piece.path)
            else:
                with disk_errors(piece.path):
                    piece.path.unlink(missing_ok=True)
        except RunBusy:
            continue
        gone.append(piece)
    return tuple(gone)


def _changed(path: Path) -> float:
    """When a file, or one directly in a folder, last changed."""
    times = [path.stat().st_mtime]
    with contextlib.suppress(OSError):
        times += [each.stat().st_mtime for each in _children(path)]
    return max(times)


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _texts(runs: list[Run]) -> Iterator[str]:
    """Every recipe, kept or of a run or sweep: what one of them names is not deleted."""
    for run in runs:
        with contextlib.suppress(BadInput):
            yield run.recipe_text()
    for path in (nuggets_home() / "recipes").glob("*.yaml"):
        with contextlib.suppress(OSError):
            yield path.read_text(errors="replace")

"""Reading others' files: sizes are capped, links stay inside, every fault is a sentence."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

from nuggets.disk.commit import atomic_write
from nuggets.errors import BadInput, Damaged

LFS_MAGIC = b"version https://git-lfs"
MAX_CONFIG_BYTES = 10_000_000
MAX_TOKENIZER_BYTES = 60_000_000
SETTLED_S = 2.0
"""A file that changed less than so long ago may change again within one tick of its clock."""
_UNSETTLED = " just now "
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
UNSAFE_PICKLE = (
    "unsafe pickle, which can run code when it is opened; convert to safetensors "
    "(`nuggets convert`)"
)


def damaged(path: Path, reason: str) -> Damaged:
    """The error for a file that is not what it should be, in one form everywhere."""
    return Damaged(f"File damaged or incomplete: {path.name} ({reason}). Download {path} again.")


@contextmanager
def open_file(path: Path, max_bytes: int | None = None) -> Iterator[BufferedReader]:
    """Opens a regular file for reading: never a pipe or a device, on which a reader would wait.

    Args:
        path: the file; links are followed.
        max_bytes: what it may hold at most.

    Raises:
        BadInput: if it is something else, larger, or cannot be read.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits for a writer before anybody can look at it.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadInput(f"{path} is not a file but a {_kind(status.st_mode)}.")
            if max_bytes is not None and status.st_size > max_bytes:
                raise BadInput(
                    f"{path} has {status.st_size:,} bytes; at most {max_bytes:,} are read."
                )
            yield file
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist.") from None
    except OSError as problem:
        raise BadInput(f"Cannot read {path}: {problem.strerror or problem}.") from None


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")


def is_file(path: str | Path) -> bool:
    """Whether there is a regular file; False for names that no file can have, as those below."""
    return os.path.isfile(path)  # noqa: PTH113 - pathlib's raises where a name is too long


def is_folder(path: str | Path) -> bool:
    """Whether there is a folder."""
    return os.path.isdir(path)  # noqa: PTH112


def exists(path: str | Path) -> bool:
    """Whether there is anything of that name."""
    return os.path.exists(path)  # noqa: PTH110


def at_home(text: str) -> Path:
    """A path with the user's home folder spelled out, where there is such a user."""
    return Path(os.path.expanduser(text))  # noqa: PTH111


def read_text(path: Path, max_bytes: int) -> str:
    """The text of a regular file.

    Raises:
        BadInput: as `open_file` does, or if it is not UTF-8.
    """
    with open_file(path, max_bytes) as file:
        content = file.read(max_bytes)
    try:
        return content.decode()
    except UnicodeDecodeError as problem:
        raise BadInput(f"{path} cannot be read as UTF-8 text: {problem.reason}.") from None


def check_not_lfs(path: Path) -> None:
    """Refuses a Git LFS pointer, which git leaves in place of a file it did not fetch.

    Raises:
        Damaged: naming the file and the command that fetches the real one.
        BadInput: if the file cannot be read.
    """
    with open_file(path) as file:
        start = file.read(len(LFS_MAGIC))
    if start == LFS_MAGIC:
        raise Damaged(
            f"{path.name} is a Git LFS pointer, not the file itself: {path}. "
            "Run `git lfs pull` in its folder, or download the file."
        )


def read_json(path: Path, max_bytes: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """Reads a JSON object from a file that may be hostile.

    Raises:
        Damaged: if the file is empty, a Git LFS pointer, or not a JSON object of finite numbers.
        BadInput: if it cannot be read or is larger than `max_bytes`.
    """
    check_not_lfs(path)
    with open_file(path, max_bytes) as file:
        content = file.read(max_bytes)
    try:
        value = parse_json(content)
    except ValueError as problem:
        raise damaged(path, str(problem)) from None
    if not isinstance(value, dict):
        raise damaged(path, "not a JSON object")
    return value


def parse_json(data: bytes | str) -> Any:
    """Parses JSON strictly; every fault is a ValueError with a short reason."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not a JSON number")

    def number(text: str) -> float:
        value = float(text)
        return value if abs(value) != float("inf") else refuse(text)

    try:
        text = data.decode() if isinstance(data, bytes) else data  # json takes UTF-16 too
        return json.loads(text, parse_constant=refuse, parse_float=number)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    except json.JSONDecodeError as problem:
        raise ValueError(f"not JSON: {problem.msg} at character {problem.pos}") from None


def check_inside(folder: Path, file: Path) -> None:
    """Refuses what is no regular file, and a file that a link leads out of its folder.

    A hub cache keeps its files as links from `models--<id>/snapshots/<revision>` to `blobs` of the
    same model; those are followed.

    Raises:
        BadInput: naming the link and where it leads.
    """
    if file.exists() and not file.is_file():
        raise BadInput(f"{file} is not a file but a {_kind(file.stat().st_mode)}.")
    home, target = folder.resolve(), file.resolve()
    model = home.parent.parent
    cached = home.parent.name == "snapshots" and model.name.startswith("models--")
    if not any(target.is_relative_to(each) for each in (home, *((model / "blobs",) * cached))):
        raise BadInput(
            f"{file.name} is a link to {target}, outside its folder. Put the file itself into "
            f"{folder}."
        )


def stamp(path: Path) -> str:
    """What changes whenever a file does: inode, size, and two times of which one cannot be set.

    Of a file that changed a moment ago nobody can tell, so that its stamp is never the same twice.

    Raises:
        BadInput: as `open_file` does.
    """
    with open_file(path) as file:
        found = os.fstat(file.fileno())
    marks = f"{found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
    settled = time.time() - found.st_ctime > SETTLED_S
    return marks if settled else f"{marks}{_UNSETTLED}{secrets.token_hex(8)}"


def sha256_file(path: Path, cache: Path | None = None) -> str:
    """The sha256 of a file, remembered under `cache` by path, inode, size and times."""
    mark, memo = stamp(path), None
    if cache is not None and _UNSETTLED not in mark:
        name = hashlib.sha256(f"{path.resolve()}\n{mark}".encode()).hexdigest()
        memo = cache / "digests" / name
    if memo is not None and memo.is_file() and len(known := memo.read_text()) == 64:
        return known
    with open_file(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if memo is not None:
        memo.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(memo, digest)
    return digest

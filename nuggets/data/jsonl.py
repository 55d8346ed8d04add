"""Samples from JSONL files, checked line by line: one JSON object per line.

The shapes that are read stand in `nuggets.data.shapes`; `id` is kept, other keys are ignored.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

from nuggets.data.samples import Message, Sample
from nuggets.data.shapes import SHAPES, encodable, read_conversation
from nuggets.disk.untrusted import LFS_MAGIC, is_file, open_file, parse_json
from nuggets.errors import BadInput
from nuggets.progress import Progress

MAX_LINE_BYTES = 1_000_000
MAX_ARRAY_BYTES = 200_000_000
TOLD_EVERY = 5000
"""Lines; reading so many takes a fraction of a second."""
TOLD_FAULTS = 10
"""Wrong lines that a message names beside the first."""
_ARCHIVES = (
    b"PK\x03\x04",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ",
    b"7z\xbc\xaf",
    b"Rar!",
    b"\x28\xb5\x2f\xfd",
)
_TABLES = (".csv", ".tsv", ".parquet", ".csv.gz", ".tsv.gz", ".jsonl.gz", ".json.gz")
"""What `nuggets.data.tables` makes samples of, and this module does not read."""


def load_samples(path: str | Path, limit: int | None = None) -> list[Sample]:
    """Reads samples from a JSONL file.

    Args:
        path: the file.
        limit: maximum number of samples; later lines are not read.

    Returns:
        At least one sample, in the file's order. Ids come from the file (`id`), or from a hash of
        the content.

    Raises:
        BadInput: naming the file, the line and the reason.
    """
    return list(iter_samples(path, limit))


def iter_samples(
    path: str | Path, limit: int | None = None, progress: Progress | None = None
) -> Iterator[Sample]:
    """Reads as `load_samples` does, holding one sample of JSON lines at a time and all their ids.

    Args:
        path: the file.
        limit: maximum number of samples; later lines are not read.
        progress: is told how much of the file is read, and can cancel.

    Raises:
        BadInput: at the first line that is not a sample, or when there was none.
    """
    path = Path(path).expanduser()
    if (listed := _array(path)) is not None:
        samples = _checked(path.name, "entry", ((n, dict, x) for n, x in listed), limit)
    else:
        lines = ((n, parse_json, line) for n, line in _lines(path, progress))
        samples = _checked(path.name, "line", lines, limit)
    n = 0
    for n, sample in enumerate(samples, start=1):  # noqa: B007 - counted for what follows
        yield sample
    if n == 0:
        raise BadInput(
            f"{path} contains no samples. Give a JSONL file with one sample on each line: {SHAPES}."
        )


def read_rows(
    source: str,
    rows: Iterable[tuple[int, dict[str, Any]]],
    limit: int | None = None,
    convert: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> list[Sample]:
    """Samples from numbered rows, such as those of a data set.

    Args:
        source: what the rows are called in messages.
        rows: number and columns.
        limit: how many samples to read at most.
        convert: turns columns into one of the shapes of a sample; a KeyError or ValueError of it
            says that a row does not fit.

    Raises:
        BadInput: naming the source, the row and the reason.
    """
    parse = convert or (lambda row: row)
    samples = list(_checked(source, "row", ((n, parse, row) for n, row in rows), limit))
    if not samples:
        raise BadInput(f"{source} contains no rows.")
    return samples


def _checked(
    source: str,
    unit: str,
    parts: Iterable[tuple[int, Callable[[Any], Any], Any]],
    limit: int | None,
) -> Iterator[Sample]:
    """Parses and checks one part after the other; a fault names where it stands, and its like."""
    seen = _Ids()
    numbered = iter(parts if limit is None else islice(parts, limit))
    for number, parse, part in numbered:
        try:
            sample = _parsed(parse, part, number, seen)
        except ValueError as problem:
            more = _more_faults(numbered, unit, seen)
            raise BadInput(f"{source} {unit} {number}: {problem}.{more}") from None
        yield sample


def _parsed(parse: Callable[[Any], Any], part: Any, number: int, seen: _Ids) -> Sample:
    try:
        return _sample(parse(part), number, seen)
    except KeyError as missing:
        raise ValueError(f"there is no column {missing}") from None


def _more_faults(
    parts: Iterator[tuple[int, Callable[[Any], Any], Any]], unit: str, seen: _Ids
) -> str:
    """Which other parts are wrong: nobody mends a file one line a try."""
    wrong: list[int] = []
    with contextlib.suppress(BadInput):  # what ends the reading is told when it is first
        for number, parse, part in parts:
            try:
                _parsed(parse, part, number, seen)
            except ValueError:
                wrong.append(number)
                if len(wrong) > TOLD_FAULTS:
                    break
    if len(wrong) > TOLD_FAULTS:
        return f" Wrong too: {unit}s {', '.join(map(str, wrong[:-1]))} and more."
    named = ", ".join(map(str, wrong))
    return f" Wrong too: {unit}{'s' * (len(wrong) > 1)} {named}." if wrong else ""


class _Ids:
    """Which ids there were and where, in some 150 bytes each, however long they are."""

    def __init__(self) -> None:
        self._places: dict[bytes, int] = {}
        self._copies: dict[str, int] = {}

    def place(self, name: str) -> int | None:
        """Where an id stands already."""
        return self._places.get(_short(name))

    def add(self, name: str, number: int) -> None:
        """Notes where an id stands."""
        self._places[_short(name)] = number

    def free(self, name: str) -> str:
        """The name, or, if it is taken, the name with the next number that is free."""
        if self.place(name) is None:
            return name
        found = count(self._copies.get(name, 2))  # else a million equal lines never end
        copy = next(n for n in found if self.place(f"{name}-{n}") is None)
        self._copies[name] = copy + 1
        return f"{name}-{copy}"


def _short(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _array(path: Path) -> list[tuple[int, dict[str, Any]]] | None:
    """The numbered objects of a file that is one JSON array of them; None for any other file."""
    if not is_file(path):
        return None
    with open_file(path) as file:
        if not file.read(64).lstrip(b" \t\r\n\xef\xbb\xbf").startswith(b"["):
            return None
        file.seek(0)
        text = file.read(MAX_ARRAY_BYTES + 1)
    try:
        records = parse_json(text.removeprefix(b"\xef\xbb\xbf"))
    except ValueError:
        return None  # lines, the first of which is a list: told as such
    if not isinstance(records, list) or not all(isinstance(each, dict) for each in records):
        return None
    return list(enumerate(records, start=1))


def _lines(path: Path, progress: Progress | None) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that are not blank; refuses what is no text file."""
    with contextlib.suppress(OSError):  # a name that no file can have
        if path.is_dir():
            raise BadInput(f"{path} is a folder, not a JSONL file.")
    with open_file(path) as file:
        _check_text(path, file.read(64))
        file.seek(0)
        number, size = 0, os.fstat(file.fileno()).st_size
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if progress is not None and number % TOLD_EVERY == 0:
                progress.check_cancelled()
                progress.progress(file.tell(), size, f"line {number:,}")
            if len(line) > MAX_LINE_BYTES:
                raise BadInput(
                    f"{path.name} line {number}: longer than {MAX_LINE_BYTES:,} bytes. Shorten "
                    "the sample, or check that the file has one JSON object per line."
                )
            if line.strip(b" \t\r\n\xef\xbb\xbf"):
                yield number, line.removeprefix(b"\xef\xbb\xbf")


def _check_text(path: Path, start: bytes) -> None:
    json_lines = start.lstrip(b" \t\r\n\xef\xbb\xbf").startswith((b"{", b"["))
    if path.name.lower().endswith(_TABLES) and not json_lines:
        raise BadInput(
            f"{path.name} is a table, not JSONL. Make a file of samples of it first: nuggets "
            f"samples {path.name} --out samples.jsonl, and name its columns with --columns."
        )
    if start.startswith(_ARCHIVES):
        raise BadInput(f"{path.name} is an archive; unpack it and give the JSONL file inside.")
    if start.startswith(LFS_MAGIC):
        raise BadInput(f"{path.name} is a Git LFS pointer, not the data. Run `git lfs pull`.")
    if b"\0" in start:
        raise BadInput(f"{path.name} is not a text file; give a JSONL file in UTF-8.")


def _sample(record: Any, number: int, seen: _Ids) -> Sample:
    """One sample from one parsed line; a fault is a ValueError with the reason."""
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    messages, choices, right = read_conversation(record)
    name = record.get("id")
    if name is None:
        name = seen.free(_content_id(messages, choices))
    elif isinstance(name, bool) or not isinstance(name, int | str) or not str(name).strip():
        raise ValueError("its id is neither text nor a whole number")
    name = str(name)
    if (place := seen.place(name)) is not None:
        raise ValueError(f"its id {name[:80]!r} was already used in line {place}")
    sample = Sample(id=encodable(name, "id"), messages=messages, choices=choices, right=right)
    seen.add(name, number)
    return sample


def _content_id(messages: Sequence[Message], choices: Sequence[str]) -> str:
    """An id from the content."""
    content = json.dumps([[m.role, m.content] for m in messages] + [list(choices)])
    return "sample_" + hashlib.sha256(content.encode()).hexdigest()[:12]


def check_leakage(train: Sequence[Sample], test: Sequence[Sample]) -> None:
    """Refuses samples that are learned from (or used as seeds) and tested on.

    A test sample leaks if its id or its whole prompt also stands in `train`.

    Raises:
        BadInput: naming the test samples' ids.
    """
    leaked = [sample.id for sample in shared_samples(train, test)]
    if leaked:
        more = f" and {len(leaked) - 5} more" if len(leaked) > 5 else ""
        raise BadInput(
            f"{len(leaked)} of {len(test)} test samples are also seed or training samples: "
            f"{', '.join(leaked[:5])}{more}. Remove them from one of the two."
        )


def shared_samples(first: Sequence[Sample], second: Sequence[Sample]) -> list[Sample]:
    """Those of `second` whose id or whole prompt also stands in `first`."""
    ids = {sample.id for sample in first}
    prompts = {_prompt(sample) for sample in first}
    return [s for s in second if s.id in ids or _prompt(s) in prompts]


def _prompt(sample: Sample) -> tuple[tuple[str, str], ...]:
    return tuple((m.role, m.content.strip()) for m in sample.messages[:-1])


def samples_digest(samples: Sequence[Sample]) -> str:
    """The sha256 of samples in their order."""
    content = json.dumps([sample.model_dump(mode="json") for sample in samples], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()

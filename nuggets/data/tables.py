"""Any table as samples: CSV, TSV, Parquet or JSONL, gzipped or not, with its columns named.

What comes out is JSONL in one of the shapes of `nuggets.data.shapes`, so that all that follows
reads one kind of file.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO, TextIOWrapper
from itertools import chain, islice
from pathlib import Path
from typing import Any

from nuggets.data.jsonl import MAX_ARRAY_BYTES, read_rows
from nuggets.data.samples import Sample
from nuggets.data.shapes import SHAPES
from nuggets.disk.commit import atomic_write, make_folder
from nuggets.disk.outputs import refuse_existing
from nuggets.disk.untrusted import open_file, parse_json
from nuggets.errors import BadInput

Columns = Mapping[str, Sequence[str]]
"""Part of a sample → the columns that hold it; only choices may have several."""

ENDINGS = (".csv", ".tsv", ".parquet", ".jsonl", ".json")
PARTS = (
    *("question", "answer", "choices", "prompt", "completion", "instruction", "input", "output"),
    *("system", "messages", "conversations", "id"),
)
LOOKED_AT = 100
"""Rows in which columns are looked for: those of JSON need not all have all."""


class UnnamedColumns(BadInput):
    """The columns of a table are not named like the parts of a sample."""


def read_table(path: Path) -> bytes:
    """The bytes of a table's file.

    Raises:
        BadInput: if it cannot be read or is too large.
    """
    with open_file(path.expanduser(), MAX_ARRAY_BYTES) as file:
        return file.read()


def parse_columns(text: str) -> Columns:
    """Understands `question=Frage,choices=A+B+C,answer=Right`.

    Raises:
        BadInput: naming what is no part of a sample, or is not written like that.
    """
    found: dict[str, tuple[str, ...]] = {}
    for each in filter(None, (part.strip() for part in text.split(","))):
        part, equals, columns = (side.strip() for side in each.partition("="))
        names = tuple(name.strip() for name in columns.split("+"))
        if not equals or not all(names):
            raise BadInput(
                f"{each!r} names no column. Write PART=COLUMN, such as question=Text,answer=Label."
            )
        if part not in PARTS or part in found:
            fault = "is named twice" if part in found else "is no part of a sample"
            raise BadInput(f"{part!r} {fault}; the parts are {', '.join(PARTS)}.")
        if len(names) > 1 and part != "choices":
            raise BadInput(f"Only choices may have several columns, not {part}: {columns}.")
        found[part] = names
    return found


def column_names(content: bytes, name: str) -> list[str]:
    """The columns of a table. Raises BadInput where it cannot be read or has no rows."""
    return _columns([row for _, row in islice(_numbered(content, name), LOOKED_AT)], name)


def _columns(rows: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    if not rows:
        raise BadInput(f"{name} contains no rows.")
    return list(dict.fromkeys(column for row in rows for column in row))


def samples_from(
    content: bytes, name: str, columns: Columns, limit: int | None = None
) -> tuple[list[Sample], bytes]:
    """The samples of a table, and the same as JSONL.

    Args:
        content: the file's bytes.
        name: what it is called; the ending says what it is.
        columns: which columns hold the parts of a sample; without them they are named like these.
        limit: how many samples to read at most.

    Raises:
        UnnamedColumns: if `columns` are needed.
        BadInput: naming the file, the row and the reason.
    """
    lines: list[str] = []

    def convert(row: dict[str, Any]) -> dict[str, Any]:
        cells = {column: _text(cell, column) for column, cell in row.items()}
        filled = {column: cell for column, cell in cells.items() if cell not in (None, "")}
        record = _mapped(filled, columns) if columns else filled
        own = {part: record[part] for part in PARTS if part in record}
        lines.append(json.dumps(own, ensure_ascii=False, allow_nan=False, default=str))
        return record

    rows = islice(_numbered(content, name), limit)
    first = list(islice(rows, LOOKED_AT))
    known = _columns([row for _, row in first], name)
    missing = [each for names in columns.values() for each in names if each not in known]
    listed = ", ".join(map(repr, known[:20])) or "none"
    if missing:
        raise BadInput(f"{name} has no column {missing[0]!r}; its columns are {listed}.")
    try:
        samples = read_rows(name, chain(first, rows), convert=convert)
    except BadInput as problem:
        if columns or SHAPES not in str(problem):
            raise
        raise UnnamedColumns(
            f"{name} has the columns {listed}. Say which holds what, such as --columns "
            "question=COLUMN,answer=COLUMN."
        ) from None
    return samples, "".join(f"{line}\n" for line in lines).encode()


def _mapped(row: Mapping[str, Any], columns: Columns) -> dict[str, Any]:
    """The parts of a sample; single values become text, as the user said that they are."""
    parts: dict[str, Any] = {}
    for part, names in columns.items():
        values = [_plain(row.get(name)) for name in names]
        parts[part] = values[0] if len(values) == 1 else values
    answer, choices = parts.get("answer"), parts.get("choices")
    if isinstance(answer, str) and isinstance(choices, list) and answer.isascii():
        parts["answer"] = _meant(answer, choices) if answer.isdigit() else answer
    return parts


def _meant(number: str, choices: Sequence[Any]) -> str | int:
    """A number is a choice, or counts them from 0.

    Raises:
        ValueError: if it does both, and not for the same one.
    """
    place = int(number)
    if number not in choices:
        return place
    if place < len(choices) and choices[place] != number:
        raise ValueError(
            f"answer {number} is one choice and, counted from 0, the number of another; write "
            "letters, A for the first"
        )
    return number


def _text(cell: Any, column: str) -> Any:
    """A cell of Parquet as one of JSON: text may be kept as bytes, nothing as NaN."""
    if isinstance(cell, bytes):
        try:
            return cell.decode()
        except UnicodeDecodeError:
            raise ValueError(f"the column {column} holds bytes that are no UTF-8 text") from None
    return None if isinstance(cell, float) and math.isnan(cell) else cell


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, list | dict) else str(value)


def _numbered(content: bytes, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a table, from 1; a fault names the file, the row and the reason."""
    stem = name.lower().removesuffix(".gz")
    ending = next((each for each in ENDINGS if stem.endswith(each)), None)
    if ending is None:
        raise BadInput(f"{name} is no table that is read; give {', '.join(ENDINGS)}, or any .gz.")
    content = _unpacked(content, name) if name.lower().endswith(".gz") else content
    number = 0
    try:
        for number, row in enumerate(_rows(content, ending), start=1):
            if not isinstance(row, dict) or None in row:
                raise ValueError("it does not fit the columns")
            yield number, row
    except (csv.Error, ValueError, OSError) as problem:
        reason = " ".join(str(problem).split()).rstrip(".")[:300]
        raise BadInput(f"{name} row {number or 1} cannot be read: {reason}.") from None


def _unpacked(content: bytes, name: str) -> bytes:
    try:
        with gzip.open(BytesIO(content)) as file:
            found = file.read(MAX_ARRAY_BYTES + 1)
    except (OSError, EOFError, ValueError) as problem:
        raise BadInput(f"{name} is not a whole gzip file: {problem}.") from None
    if len(found) > MAX_ARRAY_BYTES:
        raise BadInput(f"{name} holds more than {MAX_ARRAY_BYTES:,} bytes; split it.")
    return found


def _rows(content: bytes, ending: str) -> Iterator[Any]:
    if ending == ".parquet":
        yield from _parquet(content)
    elif ending in (".csv", ".tsv"):
        lines = TextIOWrapper(BytesIO(content), encoding="utf-8-sig", newline="")
        first = content.partition(b"\n")[0]  # where a comma is a decimal point, ; takes its place
        comma = ";" if b";" in first and b"," not in first else ","
        delimiter = "\t" if ending == ".tsv" else comma
        rows = csv.DictReader(lines, delimiter=delimiter, strict=True)
        _check_once(rows.fieldnames or ())
        yield from rows
    elif content.lstrip(b" \t\r\n\xef\xbb\xbf").startswith(b"["):
        yield from parse_json(content.removeprefix(b"\xef\xbb\xbf"))
    else:
        lines = content.removeprefix(b"\xef\xbb\xbf").splitlines()
        yield from (parse_json(line) for line in lines if line.strip())


def _check_once(names: Sequence[str]) -> None:
    """A dictionary would keep the last of two columns and lose the first unseen."""
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise ValueError(f"{Counter(names)[twice[0]]} columns are called {twice[0]!r}")


def _parquet(content: bytes) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise BadInput(
            "Parquet needs the library pyarrow: pip install 'nuggets[parquet]'."
        ) from None
    try:
        file = parquet.ParquetFile(BytesIO(content))
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        if (size := sum(group.total_byte_size for group in groups)) > MAX_ARRAY_BYTES:
            raise ValueError(f"it holds {size:,} bytes, and at most {MAX_ARRAY_BYTES:,} are read")
        _check_once(file.schema_arrow.names)
        for batch in file.iter_batches():
            yield from batch.to_pylist()
    except pyarrow.ArrowException as problem:
        raise ValueError(str(problem)) from None


def write_samples(lines: bytes, out: Path) -> None:
    """Writes samples into a new file.

    Raises:
        BadInput: if there is one already.
    """
    refuse_existing(out)
    make_folder(out.absolute().parent)
    atomic_write(out, lines)

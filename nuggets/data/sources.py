"""Samples from a JSONL file, or from a data set that the `datasets` library loads.

A data set is named `org/name@revision:config/split` on the hub, or `FOLDER:split` on this
machine; revision and config may be left out. HF_HOME, HF_TOKEN and HF_HUB_OFFLINE are honoured.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from nuggets import demo
from nuggets.data.jsonl import load_samples, read_rows
from nuggets.data.samples import Sample
from nuggets.disk.untrusted import at_home, exists, is_file, is_folder, parse_json
from nuggets.errors import BadInput
from nuggets.frozen import Frozen

T = TypeVar("T")
Convert = Callable[[dict[str, Any]], dict[str, Any]]
"""From a row of a data set to one of the shapes of a sample."""

_WORD = r"[\w][\w.-]*"
_REF = re.compile(
    rf"(?P<name>{_WORD}/{_WORD})(@(?P<revision>[\w][\w./-]*))?:((?P<config>{_WORD})/)?(?P<split>{_WORD})"
)
_LOCAL = re.compile(rf"(?P<name>.+):((?P<config>{_WORD})/)?(?P<split>{_WORD})")


class DatasetRef(Frozen):
    """Where a data set is; inert: holding one reads nothing.

    Attributes:
        source: the text the user gave.
        name: `org/name`, or a folder's path.
        revision: branch, tag or commit on the hub.
        config: the data set's configuration (subset).
        split: such as `train` or `test`.
    """

    source: str
    name: str
    revision: str | None = None
    config: str | None = None
    split: str


def parse_dataset(text: str) -> DatasetRef | None:
    """Understands a data set's name; None for what can only be a file."""
    if "\0" in text or exists(at_home(text)):
        return None
    local = _LOCAL.fullmatch(text)
    if local and is_folder(at_home(local["name"])):
        return DatasetRef(source=text, **local.groupdict())
    found = _REF.fullmatch(text)
    return DatasetRef(source=text, **found.groupdict()) if found else None


def load_source(
    source: str | Path, limit: int | None = None, convert: Convert | None = None
) -> list[Sample]:
    """Samples of a JSONL file or a data set, checked line by line or row by row.

    Args:
        source: a file, or the name of a data set.
        limit: how many samples at most, taken at equal distances: many sources are sorted, and the
            first hundred of MMLU are all of one subject.
        convert: turns a row of a data set that has columns of its own into a sample's shape;
            files are taken as they are.

    Raises:
        BadInput: naming the source, the line or row, and the reason.
    """
    if demo.on():
        raise demo.refused("samples come from the built-in tasks alone")
    ref = parse_dataset(str(source))
    if ref is None:
        return spread(load_samples(Path(source)), limit)
    return read_rows(ref.source, dataset_rows(ref, limit), convert=convert)


def spread(samples: Sequence[T], limit: int | None) -> list[T]:
    """At most `limit` of some samples, at equal distances, in their order."""
    n = len(samples)
    return [samples[place] for place in _places(n, limit)]


def _places(n: int, limit: int | None) -> Sequence[int]:
    return range(n) if limit is None or limit >= n else [i * n // limit for i in range(limit)]


def dataset_rows(ref: DatasetRef, limit: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """The numbered rows of a data set, from 1; columns that are null are left out.

    Args:
        ref: which.
        limit: how many, at equal distances; all when not given.

    Raises:
        BadInput: if `datasets` is not installed, or cannot load what is named.
    """
    if (file := _file_of(ref)) is not None:
        yield from spread(list(_rows(file)), limit)
        return
    try:
        import datasets
    except ImportError:
        raise BadInput(
            f"{ref.source} is a dataset, which needs the library datasets: pip install "
            "'nuggets[eval]'. Or give a JSONL file."
        ) from None
    table = _load(datasets, ref)
    places = _places(len(table), limit)
    rows = table if limit is None else (table[place] for place in places)
    for place, row in zip(places, rows, strict=True):
        yield place + 1, {name: value for name, value in row.items() if value is not None}


def _file_of(ref: DatasetRef) -> Path | None:
    """The one file of a folder that holds a split, which is read as it stands.

    `datasets` guesses: a class None would be missing, a number 4 a whole one, a date a date.
    """
    files = (at_home(ref.name) / f"{ref.split}{kind}" for kind in (".jsonl", ".csv"))
    return next((file for file in files if ref.config is None and is_file(file)), None)


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    with file.open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.DictReader(lines, strict=True) if file.suffix == ".csv" else (
            parse_json(line.encode()) for line in lines if line.strip()
        )  # fmt: skip
        try:
            for number, row in enumerate(rows, start=1):
                yield number, row
        except (csv.Error, ValueError) as problem:
            raise BadInput(f"{file} row {number + 1} cannot be read: {problem}.") from None


def _load(datasets: Any, ref: DatasetRef) -> Any:
    folder = at_home(ref.name)
    name = str(folder) if is_folder(folder) else ref.name
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(name, ref.config, split=ref.split, revision=ref.revision)
    except (datasets.exceptions.DatasetsError, ValueError, OSError, RuntimeError) as problem:
        reason = " ".join(str(problem).split())[:300] or type(problem).__name__
        raise BadInput(
            f"The dataset {ref.source} cannot be loaded: {reason.rstrip('.')}. Check name, config "
            "and split; offline, it must be in the local cache."
        ) from None
    finally:
        if shown:
            datasets.enable_progress_bars()

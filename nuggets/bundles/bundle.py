"""A run as one file: everything needed to read it on a machine without its models.

A bundle is a zip of the run's folder: recipe, record, events, notes, maps' sums, plan, adapters,
per-item outcomes and the report, with `bundle.json` listing the sha256 and size of every file, and
`report.html` for people without Nuggets. Locks, logs, checkpoints and whole models stay behind.

A bundle from somebody else is not trusted: names, kinds, sizes and hashes are checked before and
while it is read, and the run appears complete or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from pydantic import Field, ValidationError

from nuggets import demo
from nuggets.amounts import size
from nuggets.bundles.page import report_page
from nuggets.disk.commit import atomic_write, disk_errors, make_folder, new_folder
from nuggets.disk.home import nuggets_home, runs_dir
from nuggets.disk.manifest import MANIFEST, verify_folder, write_manifest
from nuggets.disk.untrusted import exists, open_file
from nuggets.errors import BadInput, Damaged
from nuggets.frozen import Frozen, first_fault
from nuggets.recipe import load_job
from nuggets.runs import results
from nuggets.runs.schema import LIVE, RunRecord, parse_record
from nuggets.runs.store import Run
from nuggets.stages.exporting import ADAPTER, MODEL

INDEX = "bundle.json"
PAGE = "report.html"
TOP_FILES = ("recipe.yaml", "record.json", "device", "events.jsonl", "notes.txt")
SUFFIXES = (".json", ".jsonl", ".safetensors", ".md", ".txt", ".yaml")
"""Kinds of files in artifacts; none of them can run."""

MAX_FILES = 20_000
MAX_INDEX_BYTES = 10_000_000
FREE_BYTES = 512 * 2**20
"""What a bundle may unpack to in any case."""
MAX_GROWTH = 10
"""What a larger bundle may unpack to, in multiples of its size."""
MAX_TEXT = 1_000_000
MAX_BYTES = {".safetensors": 2**40, ".jsonl": 200_000_000, ".json": 50_000_000, ".html": 50_000_000}
"""What a file may hold, by its ending; what is parsed whole is smaller. Others: `MAX_TEXT`."""
_CHUNK = 1 << 20
_ID = re.compile(r"\d{8}-\d{6}-[a-z0-9][a-z0-9-]{0,60}")


class Entry(Frozen):
    """One file of a bundle."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class Index(Frozen):
    """What a bundle holds.

    Attributes:
        run: the run's id.
        files: name → hash and size.
        folders: which folders were committed as one, and get a manifest again.
        left_out: what of the run stayed behind.
    """

    version: Literal[1] = 1
    run: str
    files: dict[str, Entry]
    folders: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


@demo.refuses("nothing is written to the server's disk")
def write_bundle(run: Run, out: Path, weights: bool = True) -> Index:
    """Writes a run that has ended as one file.

    Args:
        run: any run that is not running.
        out: a new file, by custom `*.nuggets.zip`.
        weights: False leaves adapters behind too: what was measured and judged, in little space.

    Returns:
        What was written, and what was left out.

    Raises:
        BadInput: if the run is running or damaged, or `out` exists.
    """
    status = run.status()
    if status in LIVE:
        raise BadInput(f"Run {run.id} is {status}. Wait until it ends, or cancel it first.")
    if (problem := run.problem()) is not None:
        raise Damaged(problem)
    if out.exists():
        raise BadInput(f"{out} exists; nothing is ever overwritten. Name a new file.")
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    temp = out.with_name(f".tmp-{out.name}")
    try:
        with disk_errors(out):
            index = _write(run, temp, weights)
            temp.rename(out)
    finally:
        temp.unlink(missing_ok=True)
    return index


def holds_all(run: Run, path: Path) -> bool:
    """Whether a bundle of a run was written after everything that the run says now."""
    if not path.is_file():
        return False
    files = [run.folder / name for name in TOP_FILES]
    changed = max(file.stat().st_mtime_ns for file in files if file.is_file())
    return path.stat().st_mtime_ns >= changed


def _write(run: Run, path: Path, weights: bool) -> Index:
    names = [name for name in TOP_FILES if (run.folder / name).is_file()]
    left_out: list[str] = []  # whole models, and adapters where they are not wanted
    folders = list(_committed(run.folder / "artifacts"))
    for folder in folders:
        verify_folder(folder)
        for name in sorted(json.loads((folder / MANIFEST).read_bytes())["sha256"]):
            place = PurePosixPath(name).parts[0]
            adapter = place == ADAPTER or place.startswith(f"{ADAPTER}_")
            kept = left_out if place == MODEL or (adapter and not weights) else names
            kept.append((folder / name).relative_to(run.folder).as_posix())
    entries = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name in names:
            data = (run.folder / name).read_bytes()
            _put(bundle, name, data)
            entries[name] = Entry(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
        index = Index(
            run=run.id,
            files=entries,
            folders=tuple(folder.relative_to(run.folder).as_posix() for folder in folders),
            left_out=tuple(left_out),
        )
        _put(bundle, INDEX, index.model_dump_json(indent=1).encode())
        if (report := results.report(run)) is not None:
            _put(bundle, PAGE, report_page(run.record(), report, run.recipe_text()).encode())
    return index


def _put(bundle: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))  # equal runs give equal bundles
    bundle.writestr(info, data, zipfile.ZIP_DEFLATED)


def _committed(artifacts: Path) -> Iterator[Path]:
    """The committed folders below; hidden ones are temporaries or were set aside as damaged."""
    for manifest in sorted(artifacts.rglob(MANIFEST)):
        if not any(part.startswith(".") for part in manifest.relative_to(artifacts).parts):
            yield manifest.parent


@demo.refuses("nothing can be imported")
def read_bundle(path: Path) -> Run:
    """Opens a bundle as a run of this machine, whole or not at all.

    Raises:
        BadInput: if the file is no bundle, or a run of that id is here already.
        Damaged: if a name, kind, size, hash or content is not what it should be.
    """
    return opened(path)


def opened(path: Path) -> Run:
    """As `read_bundle`, for a file that nobody named: one that comes with the app."""
    if not exists(path):
        raise BadInput(f"There is no file {path}.")
    try:
        with open_file(path) as file:
            _check_directory(file, path)
            with zipfile.ZipFile(file) as bundle:
                return _unpack(bundle, _read_index(bundle, path), path)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, ValueError) as problem:
        raise Damaged(f"{path} is not a bundle of Nuggets, or is damaged: {problem}.") from None


@demo.refuses("nothing can be uploaded")
def read_upload(content: bytes) -> Run:
    """As `read_bundle`, for what a browser sent; nothing but the run is kept.

    Raises:
        BadInput: as `read_bundle` does.
    """
    make_folder(nuggets_home())
    with tempfile.TemporaryDirectory(dir=nuggets_home(), prefix="upload-") as folder:
        path = Path(folder) / "bundle.zip"
        atomic_write(path, content)
        try:
            return read_bundle(path)
        except BadInput as problem:
            raise type(problem)(str(problem).replace(str(path), "The upload")) from None


def _check_directory(file: IO[bytes], path: Path) -> None:
    """Refuses a list of files so long that reading it takes all memory: `zipfile` reads it whole.

    Its end says how many entries and bytes it has; whatever looks like such an end is believed.
    """
    file.seek(max(0, os.fstat(file.fileno()).st_size - 2 * 2**16))
    tail = file.read()
    for magic, form, offset in ((b"PK\5\6", "<HL", 10), (b"PK\6\6", "<QQ", 32)):
        place = tail.find(magic)
        while place >= 0 and place + offset + struct.calcsize(form) <= len(tail):
            entries, length = struct.unpack_from(form, tail, place + offset)
            unsaid = form == "<HL" and (entries == 0xFFFF or length == 0xFFFFFFFF)  # in the other
            if not unsaid and (entries > MAX_FILES or length > MAX_INDEX_BYTES):
                raise Damaged(f"{path} claims {entries:,} files; at most {MAX_FILES:,} are read.")
            place = tail.find(magic, place + 1)


def _read_index(bundle: zipfile.ZipFile, path: Path) -> Index:
    """The list of files, after everything that can be known before anything is unpacked."""
    infos = bundle.infolist()
    if len(infos) > MAX_FILES:
        raise Damaged(f"{path} lists {len(infos):,} files; a bundle has at most {MAX_FILES:,}.")
    names = [info.filename for info in infos]
    if len(set(names)) != len(names):
        raise Damaged(f"{path} contains the same file twice; it was not written by Nuggets.")
    for info in infos:
        _check_entry(info, path)
        if info.file_size > (most := MAX_BYTES.get(PurePosixPath(info.filename).suffix, MAX_TEXT)):
            raise Damaged(f"{info.filename[:80]!r} in {path} is larger than {size(most)}; refused.")
    if INDEX not in names:
        raise Damaged(f"{path} is not a bundle of Nuggets: it has no {INDEX}.")
    if bundle.getinfo(INDEX).file_size > MAX_INDEX_BYTES:
        raise Damaged(f"{INDEX} in {path} is larger than {size(MAX_INDEX_BYTES)}.")
    try:
        index = Index.model_validate_json(bundle.read(INDEX))
    except (ValidationError, RecursionError) as problem:
        raise Damaged(f"{INDEX} in {path} is not a list of files: {_first(problem)}.") from None
    if not _ID.fullmatch(index.run):
        raise Damaged(f"{path} names a run {index.run[:60]!r}, which is not a valid run id.")
    listed, found = set(index.files), set(names) - {INDEX, PAGE}
    if listed != found:
        raise Damaged(
            f"{path} does not contain the files it lists: {sorted(listed ^ found)[0][:80]!r}."
        )
    parents = {str(parent) for name in listed for parent in PurePosixPath(name).parents}
    if strange := sorted(set(index.folders) - {p for p in parents if p.startswith("artifacts/")}):
        raise Damaged(f"{path} names a folder {strange[0][:80]!r} without files; refused.")
    total = sum(entry.size for entry in index.files.values())
    most = max(FREE_BYTES, MAX_GROWTH * path.stat().st_size)
    if total > most or any(i.file_size != index.files[i.filename].size for i in _files(infos)):
        raise Damaged(f"{path} would unpack to {size(total)} or gives false sizes; refused.")
    make_folder(runs_dir())
    if (free := shutil.disk_usage(runs_dir()).free) < total:
        raise BadInput(f"{path} needs {size(total, 3)} and the disk has {size(free, 3)} free.")
    return index


def _files(infos: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    return [info for info in infos if info.filename not in (INDEX, PAGE)]


def _check_entry(info: zipfile.ZipInfo, path: Path) -> None:
    """Refuses names that lead elsewhere, links, and kinds of files that no run has."""
    name, kind = info.filename, stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG) or info.is_dir() or info.flag_bits & 1:
        raise Damaged(f"{path} holds {name[:80]!r}, which is not a plain file; refused.")
    parts = PurePosixPath(name).parts
    plain = name.isprintable() and "\\" not in name and len(name) <= 300
    inside = name == "/".join(parts) and not any(p in (".", "..") or p[0] == "." for p in parts)
    ours = name in (INDEX, PAGE, *TOP_FILES) or (
        len(parts) > 1 and parts[0] == "artifacts" and name.endswith(SUFFIXES)
    )
    if not (plain and inside and ours) or PurePosixPath(name).name == MANIFEST:
        raise Damaged(f"{path} holds {name[:80]!r}, which is not part of a run; refused.")


def _unpack(bundle: zipfile.ZipFile, index: Index, path: Path) -> Run:
    final = runs_dir() / index.run
    if final.exists():
        raise BadInput(f"Run {index.run} already exists here; delete it first to import it again.")
    with new_folder(final) as folder:
        for name, entry in index.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with bundle.open(name) as source, target.open("xb") as file:
                _copy(source, file, name, entry, path)
        (folder / "lock").touch()
        _check_content(folder, index, path)
        for committed in index.folders:
            write_manifest(folder / committed)
    return Run(final)


def _copy(source: IO[bytes], file: IO[bytes], name: str, entry: Entry, path: Path) -> None:
    """Copies at most the promised number of bytes, and compares their hash."""
    digest, left = hashlib.sha256(), entry.size
    while chunk := source.read(_CHUNK):
        left -= len(chunk)
        if left < 0:
            raise Damaged(f"{name!r} in {path} is larger than its header says; refused.")
        digest.update(chunk)
        file.write(chunk)
    if left or digest.hexdigest() != entry.sha256:
        raise Damaged(f"{name!r} in {path} does not match its sha256; download the bundle again.")


def _check_content(folder: Path, index: Index, path: Path) -> RunRecord:
    """Reads what the app reads, so that what is imported can be opened."""
    try:
        record = parse_record((folder / "record.json").read_text(), f"The record in {path}")
        load_job((folder / "recipe.yaml").read_text())
        run = Run(folder)
        run.device()
        run.events()
        results.report(run)
        results.plan_of(run)
        results.map_of(run)
        results.erasure_of(run)
        results.cells(run)
    except (ValidationError, KeyError, TypeError, RecursionError, OSError) as problem:
        raise Damaged(f"{path} contains a run that cannot be read: {_first(problem)}.") from None
    if record.id != index.run or record.status in LIVE:
        raise Damaged(
            f"The record in {path} does not belong to run {index.run}, or the run had not ended."
        )
    return record


def _first(problem: BaseException) -> str:
    if isinstance(problem, ValidationError):
        return first_fault(problem)
    return f"{type(problem).__name__}: {problem}"[:200]

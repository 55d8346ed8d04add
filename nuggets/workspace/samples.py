"""The user's own samples, remembered by a name, so that every page can offer them.

One small JSON per data set; deleting them loses names only.
"""

from __future__ import annotations

import json
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from nuggets import demo
from nuggets.builtin.skills import SKILLS
from nuggets.data.jsonl import iter_samples
from nuggets.data.sources import parse_dataset
from nuggets.disk.commit import atomic_write, make_folder
from nuggets.disk.home import nuggets_home
from nuggets.disk.untrusted import is_file
from nuggets.errors import BadInput
from nuggets.recipe import DataConfig
from nuggets.recipe_tree import RENAMED, SOURCES, with_new_names

NAME_LENGTH = 40


@demo.refuses("nothing can be uploaded")
def save_upload(content: bytes, name: str = "", checked_as: str = "") -> Path:
    """Keeps an uploaded JSONL under a name made from its content, after checking every line.

    The uploader's own file name is never used as a path.

    Args:
        content: the file.
        name: what people call it; a short digest when not given.
        checked_as: the uploader's own name for the file, for sentences about its lines.

    Raises:
        BadInput: naming the first line that is not a sample, and why.
    """
    path = _folder() / f"{sha256(content).hexdigest()[:16]}.jsonl"
    if not path.exists():
        unchecked = path.with_suffix(".unchecked")
        atomic_write(unchecked, content)
        try:
            for _ in iter_samples(unchecked):
                pass
            unchecked.rename(path)
        except BadInput as problem:
            unchecked.unlink()
            said = str(problem).replace(str(unchecked), unchecked.name)
            raise BadInput(
                said.replace(unchecked.name, plain(checked_as) or "The upload")
            ) from None
    if name:
        remember(DataConfig(file=str(path)), name)
    return path


def remember(data: DataConfig, name: str = "") -> None:
    """Writes down which files a data set is made of; a built-in task needs no remembering.

    A name that was given before stays, unless a new one is given.
    """
    files = {field: path for field in SOURCES if (path := getattr(data, field)) is not None}
    if data.task is not None or not files:
        return
    as_before = {new: old for old, new in RENAMED.items()}  # the same set keeps its one file
    key = json.dumps({as_before.get(field, field): path for field, path in files.items()})
    path = _folder() / f"{sha256(key.encode()).hexdigest()[:16]}.json"
    if name or not path.exists():
        given = plain(name) or plain(Path(next(iter(files.values()))).stem)
        atomic_write(path, json.dumps({"name": given or "samples", "data": files}).encode())


def own_data() -> dict[str, DataConfig]:
    """Data sets whose files are still there, by names that differ from each other and from skills.

    Those that were remembered first come first.
    """
    found: dict[str, DataConfig] = {}
    folder = nuggets_home() / "data"
    for written, path in sorted((p.stat().st_mtime_ns, p) for p in folder.glob("*.json")):
        try:
            name, data = _remembered(path, written)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, BadInput):
            continue  # only a name is lost: the files are where they were
        if not all(map(_is_there, filter(None, sources(data)))):
            continue
        if not name or name in found or name in SKILLS:
            name = f"{name} ({_whereabouts(data)})"
        if name in found:
            name = f"{name} {path.stem[:6]}"
        found[name] = data
    return found


def _whereabouts(data: DataConfig) -> str:
    """What tells data sets of one name apart: uploaded, or the folder of the first file."""
    source = Path(next(filter(None, sources(data))))
    return "upload" if source.parent == nuggets_home() / "data" else source.parent.name or "file"


@lru_cache(maxsize=1024)
def _remembered(path: Path, written: int) -> tuple[str, DataConfig]:
    """What `remember` wrote down; a list of runs asks for it once for every run."""
    head = json.loads(path.read_text())
    data = DataConfig.model_validate(with_new_names(head["data"], tell=False))
    return plain(str(head["name"])), data


def _is_there(source: str) -> bool:
    """Whether a file exists; a data set of the hub is taken at its word."""
    return is_file(source) or parse_dataset(source) is not None


def name_of(data: DataConfig) -> str | None:
    """What people call the samples of a job: the skill, or the name of the user's own data."""
    if data.task is not None:
        return data.task
    same = (name for name, own in own_data().items() if sources(own) == sources(data))
    return next(same, None)


def sources(data: DataConfig) -> tuple[str | None, ...]:
    """The files of a data set, in a fixed order: what makes two of them the same."""
    return tuple(getattr(data, field) for field in ("task", *SOURCES))


def plain(name: str) -> str:
    """A name on one line, short, without characters that cannot be seen."""
    return " ".join("".join(c if c.isprintable() else " " for c in name).split())[:NAME_LENGTH]


def _folder() -> Path:
    folder = nuggets_home() / "data"
    make_folder(folder)
    return folder

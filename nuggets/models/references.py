"""References to models: what the user wrote, and the files behind it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from nuggets.disk.untrusted import (
    PICKLE_SUFFIXES,
    UNSAFE_PICKLE,
    check_inside,
    check_not_lfs,
    read_json,
    sha256_file,
)
from nuggets.errors import BadInput, Damaged, hide_tokens
from nuggets.frozen import Frozen
from nuggets.models.hub import hub_file, hub_folder
from nuggets.progress import Progress

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SIDE_FILES = (
    "generation_config.json",
    "tokenizer.json",
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "chat_template.jinja",
)
"""What is read beside config and weights; for a loader, no other file of the folder exists."""

_HUB_ID = re.compile(r"(?P<id>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>[\w][\w./-]*))?")
_PATH_LIKE = re.compile(r"^[./~\\]|[\\]|^[^@]*/[^@]*/|\.(gguf|safetensors|bin|pt|pth)$|/$")


class ModelRef(Frozen):
    """Where a model is; inert: nothing is read, loaded or downloaded by holding one.

    Attributes:
        source: the text the user gave.
        path: the absolute local folder or `.gguf` file; None for a hub model.
        hub_id: `org/name` on the hub; None for a local model.
        revision: branch, tag or commit of a hub model; None is the default branch.
        format: how the weights are stored.
        shipped: it comes with Nuggets, so that its files need not be tried before they are used.
    """

    source: str
    path: Path | None = None
    hub_id: str | None = None
    revision: str | None = None
    format: Literal["safetensors", "gguf"] = "safetensors"
    shipped: bool = False


def parse_ref(text: str, weights: bool = True) -> ModelRef:
    """Understands a folder, a `.gguf` file or `org/name@revision`.

    Args:
        text: what the user wrote.
        weights: False where the config alone will be read: a folder then needs no weights.

    Raises:
        BadInput: if it is none of these, does not exist, or holds only pickled weights.
    """
    text = text.strip()
    if hide_tokens(text) != text:
        raise BadInput(
            "The model's name holds an access token, which would be written into recipes and "
            "records. Remove it and set HF_TOKEN instead; if others saw the token, revoke it."
        )
    if not text or not text.isprintable():
        raise BadInput(
            "The model's name is empty or cannot be printed. Give a folder, a .gguf file or "
            "org/name."
        )
    try:
        path = Path(text).expanduser()
        if path.is_dir():
            return _folder_ref(text, path.absolute(), weights)
        if path.is_file():
            return _file_ref(text, path.absolute())
    except OSError as problem:
        raise BadInput(f"Cannot read {text[:200]!r}: {problem.strerror}.") from None
    except RuntimeError:  # no such user behind ~name
        pass
    if _PATH_LIKE.search(text):
        raise BadInput(f"There is no folder or file {text[:200]!r}. Check the path.")
    match = _HUB_ID.fullmatch(text)
    if match is None or ".." in text:
        raise BadInput(
            f"{text[:200]!r} is not a model: there is no such folder, and a Hub id has the form "
            "org/name or org/name@revision."
        )
    return ModelRef(source=text, hub_id=match["id"], revision=match["revision"])


def _folder_ref(text: str, folder: Path, weights: bool) -> ModelRef:
    names = {file.name for file in folder.iterdir()}
    if WEIGHTS in names or INDEX in names or (CONFIG in names and not weights):
        return ModelRef(source=text, path=folder)
    if any(Path(name).suffix in PICKLE_SUFFIXES for name in names):
        raise BadInput(f"The weights in {text} are an {UNSAFE_PICKLE}.")
    if gguf := sorted(name for name in names if name.endswith(".gguf")):
        raise BadInput(f"{text} is a folder of GGUF files; give one of them, such as {gguf[0]}.")
    raise BadInput(f"{text} contains no model: it has neither {WEIGHTS} nor {INDEX}.")


def _file_ref(text: str, file: Path) -> ModelRef:
    if file.suffix == ".gguf":
        return ModelRef(source=text, path=file, format="gguf")
    if file.suffix in PICKLE_SUFFIXES:
        raise BadInput(f"{text} is an {UNSAFE_PICKLE}.")
    if file.suffix == ".safetensors":
        raise BadInput(
            f"{text} is one file of a model; give the folder that contains its config.json."
        )
    raise BadInput(f"{text} is not a model: give a folder, a .gguf file or org/name.")


def short_name(model: str) -> str:
    """A model's name; of a folder or file, its own: where it lies is this machine's matter."""
    return Path(model).name if Path(model).is_absolute() else model


def at_revision(model: str) -> tuple[str, str | None]:
    """A hub model's id and revision apart; the name itself of any other model."""
    found = _HUB_ID.fullmatch(model)
    return (model, None) if found is None else (found["id"], found["revision"])


def model_path(ref: ModelRef, progress: Progress | None = None) -> Path:
    """The local folder or `.gguf` file of a model; a hub model is downloaded if need be.

    Args:
        ref: the model.
        progress: receives the bytes of a download, and can cancel it.

    Raises:
        BadInput: if the hub model cannot be had.
    """
    if ref.path is not None:
        return ref.path
    assert ref.hub_id is not None, "a reference names a path or a hub id"
    return hub_folder(ref.hub_id, ref.revision, progress)


def model_file(ref: ModelRef, name: str) -> Path | None:
    """One small file of a model, fetched from the hub if need be; None if it has none.

    Raises:
        BadInput: if a link leads out of the folder, or the hub model cannot be had.
    """
    if ref.path is None:
        assert ref.hub_id is not None, "a reference names a path or a hub id"
        return hub_file(ref.hub_id, ref.revision, name)
    file = ref.path / name
    if ref.format == "gguf" or not file.exists():
        return None
    check_inside(ref.path, file)
    return file


def weight_files(ref: ModelRef) -> list[Path]:
    """The files that hold a local or cached model's weights, in the order of their names.

    Raises:
        BadInput: if a shard is missing, lies outside the folder or has a path for a name.
    """
    path = model_path(ref)
    if ref.format == "gguf":
        return [path]
    files = [path / WEIGHTS] if (path / WEIGHTS).exists() else list(_shards(path))
    for file in files:
        check_inside(path, file)
        check_not_lfs(file)
    return files


def _shards(folder: Path) -> Iterator[Path]:
    if not (folder / INDEX).exists():
        raise BadInput(f"{folder} has no {WEIGHTS} and no {INDEX}.")
    check_inside(folder, folder / INDEX)
    names = read_json(folder / INDEX).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
        raise Damaged(f"{INDEX} in {folder} has no weight_map; download it again.")
    if not names:
        raise Damaged(f"{INDEX} in {folder} lists no weights; download it again.")
    for name in sorted(set(names.values())):
        if name != Path(name).name or "\\" in name or not name.endswith(".safetensors"):
            raise BadInput(
                f"{INDEX} in {folder} points to {name!r}, outside the folder or no weights."
            )
        if not (folder / name).exists():
            raise Damaged(f"File damaged or incomplete: {name} is listed in {INDEX} but missing.")
        yield folder / name


def model_files(ref: ModelRef) -> dict[str, Path]:
    """Every file that a model is read from, by name: what is checked, hashed and loaded.

    Args:
        ref: the model; a hub model is downloaded if need be.

    Raises:
        BadInput: if a file is missing or lies outside the folder, or if an adapter lies beside the
            weights, so that it is not clear which of the two models is meant.
    """
    path = model_path(ref)
    if ref.format == "gguf":
        return {path.name: path}
    ref = ref.model_copy(update={"path": path})
    refuse_adapter(ref)
    weights = weight_files(ref)
    index = () if weights[0].name == WEIGHTS else (INDEX,)
    found = {name: model_file(ref, name) for name in (CONFIG, *index, *SIDE_FILES)}
    return {name: file for name, file in found.items() if file is not None} | {
        file.name: file for file in weights
    }


def refuse_adapter(ref: ModelRef) -> None:
    """Refuses a model with an adapter beside its weights, which transformers would apply.

    Raises:
        BadInput: saying how to use either.
    """
    if model_file(ref, ADAPTER_CONFIG) is not None:
        raise BadInput(
            f"{ref.source} holds whole weights and an adapter ({ADAPTER_CONFIG}), so it is not "
            "clear which model is meant. Move the adapter into a folder of its own, or merge it "
            "into the weights."
        )


def model_digest(ref: ModelRef, cache: Path | None = None) -> str:
    """The sha256 over every file that a model is read from, its tokenizer included.

    Args:
        ref: the model; a hub model is downloaded if need be.
        cache: folder where hashes are remembered by path, inode, size and times.

    Raises:
        BadInput: as `model_files` does.
    """
    lines = [f"{name} {sha256_file(file, cache)}" for name, file in model_files(ref).items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()

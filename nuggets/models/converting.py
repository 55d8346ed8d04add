"""Pickled weights to safetensors: each file is read in a child process that is thrown away."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from nuggets.disk.outputs import output_folder, refuse_existing
from nuggets.disk.untrusted import PICKLE_SUFFIXES, check_inside, check_not_lfs
from nuggets.errors import BadInput, Damaged
from nuggets.models.hub import MODEL_FILES
from nuggets.models.references import INDEX, WEIGHTS
from nuggets.models.safetensors_headers import read_header

_SHARD = re.compile(r".*?(-\d{5}-of-\d{5})\.\w+")
_OTHER = ("optimizer", "scheduler", "training_args", "rng_state")
"""Pickles that training leaves beside the weights."""


def convert(source: Path, out: Path) -> dict[str, Any]:
    """Writes a folder with the same model or adapter in safetensors.

    Args:
        source: a folder with pickled weights, or one such file; what stands beside the weights
            (config, tokenizer) is copied.
        out: a new folder.

    Returns:
        The folder, the files written and the number of tensors.

    Raises:
        BadInput: if there are no pickled weights, or a pickle holds anything but tensors.
    """
    refuse_existing(out)
    files = _pickles(source)
    folder = source if source.is_dir() else source.parent
    names = {file: _new_name(file, len(files)) for file in files}
    if len(set(names.values())) != len(files):
        listed = ", ".join(file.name for file in files)
        raise BadInput(
            f"{source} contains several pickled models ({listed}); give one of the files."
        )
    with output_folder(out) as target:
        weights: dict[str, str] = {}
        for file, name in names.items():
            check_inside(folder, file)
            check_not_lfs(file)
            _unpickle(file, target / name)
            weights |= dict.fromkeys(read_header(target / name), name)
        if len(files) > 1:
            index = {"metadata": {}, "weight_map": weights}
            (target / INDEX).write_text(json.dumps(index, indent=1))
        _copy_beside(folder, target)
    return {"out": str(out), "files": sorted(names.values()), "tensors": len(weights)}


def _pickles(source: Path) -> list[Path]:
    if source.is_file():
        if source.suffix not in PICKLE_SUFFIXES:
            raise BadInput(f"{source} is not a pickle; only {', '.join(sorted(PICKLE_SUFFIXES))}.")
        return [source]
    if not source.is_dir():
        raise BadInput(f"There is no folder or file {str(source)!r}. Check the path.")
    found = sorted(
        file
        for file in source.iterdir()
        if file.suffix in PICKLE_SUFFIXES and not file.name.startswith(_OTHER)
    )
    if not found:
        raise BadInput(f"{source} contains no pickled weights, so there is nothing to convert.")
    return found


def _new_name(file: Path, n: int) -> str:
    """`model.safetensors` or its shard; adapters keep their name, as PEFT wants it."""
    if file.name.startswith("adapter_model"):
        return "adapter_model.safetensors"
    shard = _SHARD.fullmatch(file.name)
    return f"model{shard[1]}.safetensors" if shard and n > 1 else WEIGHTS


def _unpickle(file: Path, target: Path) -> None:
    child = subprocess.run(  # noqa: S603 - our own interpreter and program
        [
            sys.executable,
            "-P",
            "-m",
            "nuggets.models.unpickle_worker",
            str(file.absolute()),
            str(target),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode != 0 or not target.is_file():
        last = child.stderr.strip().splitlines()[-1:] or [f"exit code {child.returncode}"]
        reason = last[0].partition(". ")[0].rstrip(".")
        raise Damaged(
            f"{file.name} cannot be converted: {reason}. Only tensors are read from a pickle, "
            "because anything else could be code."
        )


def _copy_beside(folder: Path, target: Path) -> None:
    """Config, tokenizer and the like: never code, and no index of the old files."""
    for file in sorted(folder.iterdir()):
        wanted = any(fnmatch(file.name, pattern) for pattern in MODEL_FILES)
        weights = file.suffix == ".safetensors" or file.name.endswith(".index.json")
        if file.is_file() and wanted and not weights:
            check_inside(folder, file)
            shutil.copyfile(file, target / file.name)

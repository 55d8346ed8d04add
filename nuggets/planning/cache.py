"""Sensitivity maps and alignments, cached by the digest of everything that went in.

A cache folder appears by one rename when it is complete, so its presence is enough; hashing
tens of gigabytes at every look would not be.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from nuggets.alignment.report import AlignmentReport
from nuggets.builtin.resolve import resolve
from nuggets.data.jsonl import samples_digest
from nuggets.data.samples import Format, Sample
from nuggets.disk.commit import remove_folder
from nuggets.disk.home import cache_dir
from nuggets.disk.untrusted import sha256_file
from nuggets.errors import Damaged
from nuggets.extraction.window_request import WindowRequest
from nuggets.models.pair import read_spec
from nuggets.models.references import model_digest
from nuggets.planning.datasets import align_samples
from nuggets.recipe import AlignJob, DataConfig, SensitivityConfig, SensitivityJob
from nuggets.recipe_tree import SOURCES
from nuggets.runs.schema import ALL_FILES
from nuggets.sensitivity.maps import SensitivityMap

T = TypeVar("T")


def digest_of(**parts: Any) -> str:
    """Names a computation by its inputs."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def digest_model(model: str) -> str:
    """Names the content of a model that is on this machine: every file that it is read from."""
    return ALL_FILES + digest_of(weights=model_digest(resolve(model), cache_dir()))


def digest_files(data: DataConfig) -> dict[str, str]:
    """Names the content of the user's files of samples; keys are fields, such as `data.train`."""
    files = {name: Path(path) for name in SOURCES if (path := getattr(data, name)) is not None}
    return {
        f"data.{name}": sha256_file(path, cache_dir())
        for name, path in files.items()
        if path.is_file()
    }


def map_folder(
    model: str,
    samples: Sequence[Sample],
    config: SensitivityConfig,
    format: Format = "paper",
    windows: WindowRequest | None = None,
) -> Path:
    """Where the map of these inputs is, or will be; `windows` go with `keep: windows` alone."""
    key = digest_of(
        model=digest_model(model),
        samples=samples_digest(samples),
        config=_deciding(config),
        **_format_key(format),
        **({"windows": windows.model_dump()} if config.keep == "windows" and windows else {}),
    )
    return cache_dir() / "sensitivity" / key


def windows_for(job: SensitivityJob) -> WindowRequest | None:
    """What a job wants to be chosen while it measures."""
    if job.student is None:
        return None
    student = read_spec(resolve(job.student, weights=False))
    return WindowRequest.of(student, job.selectors)


def _format_key(format: Format) -> dict[str, str]:
    """Another prompt format is another computation; the paper's needs no mention."""
    return {} if format == "paper" else {"format": format}


def _deciding(config: SensitivityConfig) -> dict[str, Any]:
    """What decides a map's numbers: streaming and checkpointing change no bit of them."""
    same = {"method", "checkpoint"} | ({"processes"} if config.processes == 1 else set())
    return config.model_dump(mode="json", exclude=same)


def find_map(
    job: SensitivityJob, samples: Sequence[Sample], config: SensitivityConfig
) -> SensitivityMap | None:
    """The cached map; one that keeps everything also answers for one that keeps less.

    Args:
        job: model, format and windows.
        samples: the job's seed samples.
        config: the job's, with `auto` spelled out.
    """
    windows = windows_for(job)
    for keep in dict.fromkeys((config.keep, "full")):
        wanted = config.model_copy(update={"keep": keep})
        folder = map_folder(job.model, samples, wanted, job.data.format, windows)
        if (found := _load(SensitivityMap.load, folder)) is not None:
            return found
    return None


def _load(load: Callable[[Path], T], folder: Path) -> T | None:
    """Reads a cache entry; a damaged one is deleted, since it is worth no more than none."""
    if not folder.is_dir():
        return None
    try:
        return load(folder)
    except Damaged:
        remove_folder(folder)
        return None


def with_dtype(config: SensitivityConfig, device: str) -> SensitivityConfig:
    """`auto` spelled out: bfloat16 on a GPU, float32 elsewhere. Maps differ between the two."""
    if config.dtype != "auto":
        return config
    return config.model_copy(update={"dtype": "bfloat16" if "cuda" in device else "float32"})


def alignment_folder(job: AlignJob) -> Path:
    """Where the alignment of a job is, or will be."""
    fit, test = align_samples(job)
    samples = [samples_digest([*fit[skill], *test[skill]]) for skill in fit]
    key = digest_of(
        teacher=digest_model(job.teacher),
        student=digest_model(job.student),
        samples=samples,
        **_format_key("paper" if job.data is None else job.data.format),
        **({} if job.stitch else {"stitch": "no"}),
    )
    return cache_dir() / "alignment" / key


def find_alignment(folder: Path) -> AlignmentReport | None:
    """The cached alignment, if it was measured."""
    return _load(AlignmentReport.load, folder)

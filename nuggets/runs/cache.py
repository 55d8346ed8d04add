"""Sensitivity maps and alignments, cached by the digest of everything that went in. Torch-free.

A cache folder appears by one rename when it is complete, so its presence is enough; hashing
tens of gigabytes at every look would not be.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nuggets.builtin.resolve import resolve
from nuggets.core.alignment import AlignmentReport
from nuggets.core.data import samples_digest
from nuggets.core.maps import SensitivityMap
from nuggets.core.models import model_digest
from nuggets.core.samples import Sample
from nuggets.recipe import AlignJob, SensitivityConfig
from nuggets.runs.home import cache_dir
from nuggets.runs.inputs import align_samples


def digest_of(**parts: Any) -> str:
    """Names a computation by its inputs."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def digest_model(model: str) -> str:
    """Names the content of a model that is on this machine."""
    return model_digest(resolve(model), cache_dir())


def map_folder(model: str, samples: Sequence[Sample], config: SensitivityConfig) -> Path:
    """Where the map of these inputs is, or will be."""
    key = digest_of(
        model=digest_model(model),
        samples=samples_digest(samples),
        config=config.model_dump(mode="json"),
    )
    return cache_dir() / "sensitivity" / key


def find_map(
    model: str, samples: Sequence[Sample], config: SensitivityConfig
) -> SensitivityMap | None:
    """The cached map; one that keeps everything also answers for one that keeps sums."""
    for keep in dict.fromkeys((config.keep, "full")):
        folder = map_folder(model, samples, config.model_copy(update={"keep": keep}))
        if folder.is_dir():
            return SensitivityMap.load(folder)
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
        teacher=digest_model(job.teacher), student=digest_model(job.student), samples=samples
    )
    return cache_dir() / "alignment" / key


def find_alignment(folder: Path) -> AlignmentReport | None:
    """The cached alignment, if it was measured."""
    return AlignmentReport.load(folder) if folder.is_dir() else None

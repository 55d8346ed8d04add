"""Sensitivity maps and alignments, cached by the digest of everything that went in.

A cache folder appears by one rename when it is complete, so its presence is enough; hashing
tens of gigabytes at every look would not be.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nuggets.alignment.report import AlignmentReport
from nuggets.builtin.pairs import measured_root
from nuggets.builtin.resolve import model_named
from nuggets.data.jsonl import samples_digest
from nuggets.data.samples import Format, Sample
from nuggets.disk.commit import remove_folder
from nuggets.disk.home import cache_dir
from nuggets.disk.untrusted import is_file, is_folder, sha256_file
from nuggets.errors import Damaged
from nuggets.extraction.window_request import WindowRequest
from nuggets.models.pair import Model, ModelPair
from nuggets.models.references import model_digest
from nuggets.planning.datasets import (
    align_samples,
    on_hub,
    reference_data,
    samples_from,
    seed_samples,
)
from nuggets.planning.machine import resolve_device_name
from nuggets.recipe import AlignJob, SensitivityConfig, SensitivityJob, TransferRecipe
from nuggets.recipe_tree import REFERENCE_PATHS, SOURCE_PATHS, named_values
from nuggets.runs.schema import ALL_FILES
from nuggets.sensitivity.maps import SensitivityMap
from nuggets.sensitivity.scores import ThetaGrad

T = TypeVar("T")

OTHER = "other skill "
"""How the digests of samples of other skills begin."""


def digest_of(**parts: Any) -> str:
    """Names a computation by its inputs."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def digest_model(model: Model) -> str:
    """Names the content of a model that is on this machine: every file that it is read from.

    Asked again after the work, it says whether that was all done on the same model.

    Raises:
        Damaged: if a file changed since this `Model` was first asked.
    """
    digest = ALL_FILES + digest_of(weights=model_digest(model.ref, cache_dir()))
    if vars(model).setdefault("digest", digest) != digest:
        raise Damaged(
            f"The files of {model.ref.source} changed while they were in use, so nobody can tell "
            "what was measured. Nothing of it is kept; start again."
        )
    return digest


def digest_pair(pair: ModelPair) -> dict[str, str]:
    """As `digest_model`, of `teacher` and `student`."""
    return {"teacher": digest_model(pair.teacher), "student": digest_model(pair.student)}


def digest_files(recipe: TransferRecipe) -> dict[str, str]:
    """Names the content of the user's samples; keys are fields, such as `data.train`.

    Those of other skills, which locate or compare, have the keys `OTHER` and their source.
    """
    tree = recipe.model_dump(mode="json", include={"data", "sensitivity", "arms"})
    found = {}
    for place, source in named_values(tree):
        if place in SOURCE_PATHS or place in REFERENCE_PATHS:
            name = place if place in SOURCE_PATHS else OTHER + source
            found[name] = _source_digest(source)
    return {name: digest for name, digest in found.items() if digest is not None}


def _source_digest(source: str) -> str | None:
    """Of a data set on this machine every file counts, of one on the hub every sample.

    A branch of the hub moves. None if there is no such source.
    """
    if is_file(source):
        return sha256_file(Path(source), cache_dir())
    if is_folder(folder := Path(source.rpartition(":")[0] or "/dev/null")):
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        parts = [[str(f.relative_to(folder)), sha256_file(f, cache_dir())] for f in files]
        return digest_of(files=parts)
    return samples_digest(samples_from(source)) if on_hub(source) else None


@dataclass(frozen=True)
class MapRequest:
    """A sensitivity job with everything that decides its map, found once.

    Attributes:
        job: what is asked for.
        model: what is measured.
        device: where, by its name here.
        config: the job's, with the number format `auto` spelled out.
        samples: the job's seed samples.
        windows: what is to be chosen while measuring; decides the map with `keep: windows` alone.
        compared: |θ · g| of the skill and of each of the reference set, for scores that compare.
    """

    job: SensitivityJob
    model: Model
    device: str
    config: SensitivityConfig
    samples: list[Sample]
    windows: WindowRequest | None
    compared: tuple[MapRequest, ...] = ()

    @classmethod
    def of(
        cls, job: SensitivityJob, model: Model | None = None, student: Model | None = None
    ) -> MapRequest:
        """Finds what a job names, apart from the models that were found already.

        Raises:
            BadInput: for models, samples or a device that are not there.
        """
        device, windows = resolve_device_name(job.device), None
        if job.student is not None:
            student = student or model_named(job.student, weights=False)
            windows = WindowRequest.of(student.spec, job.selectors)
        config = _with_dtype(job.sensitivity, device)
        model = model or model_named(job.model)
        data = reference_data(config.score, job.data)
        plain = config.model_copy(update={"score": ThetaGrad(), "keep": "full"})
        compared = tuple(
            cls(
                SensitivityJob(model=job.model, data=each, sensitivity=plain, device=job.device),
                model, device, plain, seed_samples(each), None,
            )
            for each in ([job.data, *data.values()] if data else ())
        )  # fmt: skip
        return cls(job, model, device, config, seed_samples(job.data), windows, compared)

    @property
    def folder(self) -> Path:
        """Where the map is, or will be."""
        return self._folder(self.config)

    def find(self) -> SensitivityMap | None:
        """The cached map; one that keeps everything also answers for one that keeps less."""
        for keep in dict.fromkeys((self.config.keep, "full")):
            folder = self._folder(self.config.model_copy(update={"keep": keep}))
            if (found := load_kept(SensitivityMap.load, folder)) is not None:
                return found
        return None

    def shipped(self) -> SensitivityMap | None:
        """The map that comes with a built-in model: its sums, and the windows of the students.

        It is for looking: work that needs every entry measures, on any device, as without it.
        """
        usual = self.job.sensitivity.dtype == "auto"
        config = self.config.model_copy(update={"dtype": "float32"}) if usual else self.config
        folder = measured_root() / "sensitivity" / self._folder(config).name
        return SensitivityMap.load(folder) if self.model.ref.shipped and folder.is_dir() else None

    def _folder(self, config: SensitivityConfig) -> Path:
        windows = self.windows if config.keep == "windows" else None
        key = digest_of(
            model=digest_model(self.model),
            samples=samples_digest(self.samples),
            config=_deciding(config),
            **self._reference_key(),
            **_format_key(self.job.data.format),
            **({} if windows is None else {"windows": windows.model_dump()}),
        )
        return cache_dir() / "sensitivity" / key

    def _reference_key(self) -> dict[str, list[str]]:
        """A reference set is its samples, whatever they are called and in whichever order."""
        others = sorted(samples_digest(each.samples) for each in self.compared[1:])
        return {"against": others} if others else {}


def _format_key(format: Format) -> dict[str, str]:
    """Another prompt format is another computation; the paper's needs no mention."""
    return {} if format == "paper" else {"format": format}


def _deciding(config: SensitivityConfig) -> dict[str, Any]:
    """What decides a map's numbers: streaming and checkpointing change no bit of them."""
    same = {"method", "checkpoint"} | ({"processes"} if config.processes == 1 else set())
    return config.model_dump(
        mode="json", exclude={"score": {"against"}, **dict.fromkeys(same, True)}
    )


def load_kept(load: Callable[[Path], T], folder: Path) -> T | None:
    """Reads a cache entry; a damaged one is deleted, since it is worth no more than none."""
    if not folder.is_dir():
        return None
    try:
        return load(folder)
    except Damaged:
        remove_folder(folder)
        return None


def _with_dtype(config: SensitivityConfig, device: str) -> SensitivityConfig:
    """`auto` spelled out: bfloat16 on a GPU, float32 elsewhere. Maps differ between the two."""
    if config.dtype != "auto":
        return config
    return config.model_copy(update={"dtype": "bfloat16" if "cuda" in device else "float32"})


def alignment_folder(job: AlignJob, pair: ModelPair) -> Path:
    """Where the alignment of a job is, or will be."""
    fit, test = align_samples(job)
    samples = [samples_digest([*fit[skill], *test[skill]]) for skill in fit]
    key = digest_of(
        **digest_pair(pair),
        samples=samples,
        **_format_key("paper" if job.data is None else job.data.format),
        **({} if job.stitch else {"stitch": "no"}),
    )
    return cache_dir() / "alignment" / key


def find_alignment(folder: Path) -> AlignmentReport | None:
    """The cached alignment, if it was measured here or before the models were shipped."""
    if (found := load_kept(AlignmentReport.load, folder)) is not None:
        return found
    shipped = measured_root() / "alignment" / folder.name
    return AlignmentReport.load(shipped) if shipped.is_dir() else None

"""An erasure with everything that decides its result, found before a model is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nuggets.builtin.pairs import MODELS, measured_root, model_card
from nuggets.builtin.resolve import model_named
from nuggets.builtin.skills import SKILLS
from nuggets.data.jsonl import check_leakage, samples_digest
from nuggets.data.samples import Sample
from nuggets.disk.home import cache_dir
from nuggets.erasure.report import OTHERS, ErasureReport
from nuggets.errors import BadInput
from nuggets.models.pair import Model
from nuggets.planning.cache import MapRequest, digest_model, digest_of, load_kept
from nuggets.planning.datasets import named_data, source_label, target_of, test_samples
from nuggets.recipe import DataConfig, EraseJob, SensitivityConfig, SensitivityJob
from nuggets.sensitivity.scores import Compared, Score, ThetaGrad

KNOWN = 0.5
"""Exact match from which a built-in model is said to know a skill."""


@dataclass(frozen=True)
class EraseRequest:
    """An erasure job with its model and samples.

    Attributes:
        job: what is asked for.
        model: what is measured.
        maps: |θ · g| of each skill, the own one first.
        items: skill → what it is measured on.
    """

    job: EraseJob
    model: Model
    maps: tuple[MapRequest, ...]
    items: dict[str, list[Sample]]

    @classmethod
    def of(cls, job: EraseJob) -> EraseRequest:
        """Finds what a job names.

        Raises:
            BadInput: for a model, samples or a device that are not there, too few items, or a score
                that compares with a skill whose map is not measured.
        """
        model = model_named(job.model)
        others = named_data(job.against or usual_others(job), job.data, "Erasing")
        _check_compared(job, others)
        data = _labelled([job.data, *others.values()])
        maps = [MapRequest.of(map_job(job, each), model) for each in data.values()]
        items = {name: test_samples(each, job.n_items) for name, each in data.items()}
        for request, own in zip(maps, items.values(), strict=True):
            check_leakage(request.samples, own)
        return cls(job, model, tuple(maps), items)

    def map_by(self, score: Score) -> MapRequest:
        """The own map by a score that is a sum over samples."""
        return MapRequest.of(map_job(self.job, self.job.data, score), self.model)

    def compared(self, score: Score) -> list[int]:
        """Which of `maps` a score looks at: its reference set, if it compares, after the own."""
        if not isinstance(score, Compared) or not score.against:
            return list(range(len(self.maps) if isinstance(score, Compared) else 1))
        names = named_data(score.against, self.job.data, f"The score {score.kind}")
        there = [each.job.data for each in self.maps]
        return [0, *(there.index(data) for data in names.values())]

    @property
    def folder(self) -> Path:
        """Where the report is, or will be."""
        return self._folder(self.maps[0].config.dtype)

    def _folder(self, dtype: str) -> Path:
        settings = self.job.model_dump(mode="json", exclude=_NAMES)
        if settings["ablation"] == "zero":  # as it was before there was another
            del settings["ablation"]
        key = digest_of(
            model=digest_model(self.model),
            seeds=[samples_digest(each.samples) for each in self.maps],
            items=[samples_digest(each) for each in self.items.values()],
            names=list(self.items),
            format=self.job.data.format,
            dtype=dtype,
            settings=settings,
        )
        return cache_dir() / "erasure" / key

    def find(self) -> ErasureReport | None:
        """The report, if it was measured before."""
        return load_kept(ErasureReport.load, self.folder)

    def shipped(self) -> ErasureReport | None:
        """The report that comes with a built-in model. It is for looking, like a shipped map."""
        dtype = "float32" if self.job.dtype == "auto" else self.job.dtype
        folder = measured_root() / "erasure" / self._folder(dtype).name
        return ErasureReport.load(folder) if self.model.ref.shipped and folder.is_dir() else None


_NAMES = {"job", "name", "model", "data", "against", "dtype", "device"}
"""What a job calls its models and samples, which are known by their content."""


def _check_compared(job: EraseJob, others: Mapping[str, DataConfig]) -> None:
    """Refuses a score with a reference set of which a part is not measured."""
    for score in job.scores:
        if not isinstance(score, Compared) or not score.against:
            continue
        named = named_data(score.against, job.data, f"The score {score.kind}")
        if missing := [name for name in named if name not in others]:
            raise BadInput(
                f"The score {score.kind} compares with {', '.join(missing)}, but erasing measures "
                f"only {', '.join(others)} beside the skill. Name {', '.join(missing)} there too "
                "(--against), or leave out the score's own against."
            )


def _labelled(skills: Sequence[DataConfig]) -> dict[str, DataConfig]:
    """Skills by what a report calls them: their source in full where two would be called the same.

    Two files may be called `train.jsonl`, and one like the mean of all others.
    """
    labels = [each.task or source_label(target_of(each)) for each in skills]
    taken = Counter([*labels, OTHERS])
    return {
        label if taken[label] == 1 else target_of(each): each
        for label, each in zip(labels, skills, strict=True)
    }


def usual_others(job: EraseJob) -> Sequence[str]:
    """One other built-in task of each kind, of those that a built-in model knows.

    It follows from the job alone, never from what else was measured.
    """
    if job.data.task is None:
        return ()
    scores = model_card(job.model).scores if job.model in MODELS else {}
    known = [name for name in SKILLS if scores.get(name, 1.0) >= KNOWN and name != job.data.task]
    return tuple({SKILLS[name].kind: name for name in reversed(known)}.values())[::-1]


def map_job(job: EraseJob, data: DataConfig, score: Score | None = None) -> SensitivityJob:
    """The measurement of one skill's map, the same as that of the Sensitivity page."""
    config = SensitivityConfig(
        score=score or ThetaGrad(), dtype=job.dtype, max_length=job.max_length
    )
    return SensitivityJob(model=job.model, data=data, sensitivity=config, device=job.device)

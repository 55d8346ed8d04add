"""Sensitivity, alignment, plan and extraction, from the cache or computed here and now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuggets.alignment.report import AlignmentReport
from nuggets.builtin.pairs import MODELS, PAIRS
from nuggets.builtin.resolve import pair_named
from nuggets.builtin.skills import SKILLS
from nuggets.disk.outputs import output_folder, refuse_existing
from nuggets.erasure.report import ErasureReport
from nuggets.errors import BadInput
from nuggets.extraction.plan import ExtractionPlan
from nuggets.planning import cache
from nuggets.planning.erasing import EraseRequest
from nuggets.planning.jobs import pair_to_plan
from nuggets.progress import Progress
from nuggets.recipe import (
    AlignJob,
    CutJob,
    DataConfig,
    EraseJob,
    SensitivityJob,
    TransferRecipe,
    validated,
)
from nuggets.sensitivity.maps import SensitivityMap

if TYPE_CHECKING:
    from nuggets.alignment.readability import Readability


def find_map(job: SensitivityJob) -> SensitivityMap | None:
    """The map of a job, if it was measured before: here, or of a built-in model as it ships."""
    request = cache.MapRequest.of(job)
    return request.find() or request.shipped()


def measure(job: SensitivityJob, progress: Progress | None = None) -> SensitivityMap:
    """Measures sensitivity here and now, or returns the cached map. Imports torch."""
    from nuggets.stages.measuring import measure_map

    return measure_map(cache.MapRequest.of(job), progress)


def find_alignment(job: AlignJob) -> AlignmentReport | None:
    """The alignment of a job, if it was measured before."""
    pair = pair_named(job.teacher, job.student)
    return cache.find_alignment(cache.alignment_folder(job, pair))


def align(job: AlignJob, progress: Progress | None = None) -> AlignmentReport:
    """Measures the alignment here and now, or returns the cached one. Imports torch."""
    from nuggets.stages.measuring import measure_alignment

    return measure_alignment(job, pair_named(job.teacher, job.student), progress)


def probe(
    teacher: str,
    student: str,
    data: Mapping[str, Any],
    device: str = "auto",
    progress: Progress | None = None,
) -> Readability:
    """What can be read off single words of two models, here and now. Imports torch.

    Args:
        teacher: the model whose words may carry answers.
        student: the one that may get them.
        data: fields of `DataConfig`.
        device: where both are.
        progress: told of downloads.

    Raises:
        BadInput: if a field does not fit, or no answer of the training samples comes again in the
            test.
    """
    from nuggets.stages.probing import probe_words

    wanted = validated("choice of samples", DataConfig.model_validate, data, 0)
    return probe_words(pair_named(teacher, student), wanted, device, progress)


def find_erasure(job: EraseJob) -> ErasureReport | None:
    """What erasing showed, if it was measured before, here or before the models were shipped."""
    request = EraseRequest.of(job)
    return request.find() or request.shipped()


def erase(
    job: EraseJob, out: Path | None = None, save: bool = False, progress: Progress | None = None
) -> ErasureReport:
    """Sets weights to 0 in memory and measures what is left, or returns the cached report.

    Imports torch. The user's model is never written to.

    Args:
        job: what is asked for.
        out: a new folder for the report.
        save: write the erased model there too: by the first score, at the largest fraction.
        progress: ticks per curve and part; can cancel.

    Raises:
        BadInput: if the model, a skill or a device is not there, the model does not know a skill,
            or `out` exists.
    """
    from nuggets.stages.erasing import erase_to, measure_erasure

    if out is not None:
        refuse_existing(out)
    elif save:
        raise BadInput("An erased model is saved in a folder (--save); name a new one (--out).")
    request = EraseRequest.of(job)
    if out is None:
        return measure_erasure(request, progress)
    return erase_to(request, out, save, progress)


def measure_builtin(progress: Progress | None = None) -> None:
    """Measures the built-in models for the app: every skill's map, every pair's alignment."""
    for model in MODELS:
        for skill in SKILLS:
            measure(SensitivityJob(model=model, data=DataConfig(task=skill)), progress)
    for pair in PAIRS.values():
        align(AlignJob(teacher=pair.teacher, student=pair.student), progress)


def save_map(map: SensitivityMap, out: Path) -> None:
    """Writes a map into a new folder, whole or not at all."""
    with output_folder(out) as folder:
        map.save(folder)


def save_alignment(report: AlignmentReport, out: Path) -> None:
    """Writes an alignment into a new folder, whole or not at all."""
    with output_folder(out) as folder:
        report.save(folder)


def measured_plan(recipe: TransferRecipe, progress: Progress | None = None) -> ExtractionPlan:
    """As `plan`, but measures first what is not cached yet. Imports torch."""
    from nuggets.stages.measuring import plan_recipe

    return plan_recipe(recipe, pair_to_plan(recipe), progress)[0]


def cut(job: CutJob, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Makes a student from a teacher by one consistent choice, heals it, writes it.

    Imports torch.

    Raises:
        BadInput: if the sizes do not fit the teacher, or `out` exists.
    """
    from nuggets.stages.cutting import cut_to

    return cut_to(job, out, progress)


def extract(recipe: TransferRecipe, out: Path, progress: Progress | None = None) -> ExtractionPlan:
    """Writes `plan.json` and the initial factors as a rank-r PEFT adapter into a new folder.

    Everything is computed before the folder appears. Imports torch.

    Raises:
        BadInput: if the pair, the samples or the recipe cannot work, or `out` exists.
    """
    from nuggets.stages.measuring import extract_to

    return extract_to(recipe, out, progress)

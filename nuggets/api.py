"""The façade: everything that pages, the command line and notebooks call.

Importing this module is light: nothing here imports torch. Functions that compute with models
either run in a worker process (`start`, `resume`) or say that they import torch and run here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nuggets.bench.calibration import Calibration
from nuggets.bench.outcomes import BenchmarkTable
from nuggets.bench.power import DetectableEffect, detectable_effect
from nuggets.bench.report import BenchmarkReport, CellOutcome
from nuggets.bench.verdict import RULES
from nuggets.builtin.pairs import MODELS, PAIRS, ModelCard, model_card
from nuggets.builtin.resolve import resolve
from nuggets.builtin.skills import SKILLS, Skill
from nuggets.core import views
from nuggets.core.alignment import AlignmentReport
from nuggets.core.architecture import ROLES, ArchSpec
from nuggets.core.maps import SensitivityMap
from nuggets.core.models import read_spec
from nuggets.core.plan import ExtractionPlan
from nuggets.core.preflight import Preflight
from nuggets.core.progress import Progress
from nuggets.recipe import (
    AlignJob,
    CutJob,
    DataConfig,
    EvaluateJob,
    SensitivityJob,
    TransferRecipe,
    dump_job,
    load_job,
    load_recipe,
    parse_cut,
    parse_job,
    shipped_recipes,
)
from nuggets.runs import bundles, cache, launch, playground, tour
from nuggets.runs.checks import detectable, preflight_models
from nuggets.runs.commands import as_command, as_python
from nuggets.runs.converting import convert
from nuggets.runs.creating import create
from nuggets.runs.doctor import Doctor, diagnose, diagnose_soon, resolve_device_name
from nuggets.runs.exporting import export_benchmarks as save_benchmarks
from nuggets.runs.factors import Factors, window_factors
from nuggets.runs.home import exports_dir, runs_dir
from nuggets.runs.inputs import seed_samples
from nuggets.runs.outputs import output_folder, refuse_existing
from nuggets.runs.own_data import name_of, own_data, remember, save_upload
from nuggets.runs.planning import alignment_job, map_job, plan_from_cache
from nuggets.runs.prompts import Rendered, rendered, rendered_apart
from nuggets.runs.results import (
    answers,
    benchmark_tables,
    cells,
    compare,
    map_of,
    plan_of,
    report,
)
from nuggets.runs.schema import LIVE, RESUMABLE, RunEvent, RunStatus
from nuggets.runs.store import Run, RunStore
from nuggets.studies import lessons
from nuggets.studies.calibrating import calibration, save_calibration
from nuggets.studies.documents import (
    published_report,
    save_study,
    study_html,
    study_markdown,
    study_report,
    study_svg,
)
from nuggets.studies.making import calibration_run, run_study, start_study
from nuggets.studies.report import StudyReport
from nuggets.studies.schema import Study
from nuggets.studies.shipped import open_study, studies, study_recipes
from nuggets.worker import run_job as run

__all__ = [
    "LIVE",
    "MODELS",
    "PAIRS",
    "RESUMABLE",
    "ROLES",
    "RULES",
    "AlignJob",
    "AlignmentReport",
    "ArchSpec",
    "BenchmarkReport",
    "BenchmarkTable",
    "Calibration",
    "CellOutcome",
    "CutJob",
    "DataConfig",
    "DetectableEffect",
    "Doctor",
    "EvaluateJob",
    "ExtractionPlan",
    "Factors",
    "ModelCard",
    "Preflight",
    "Rendered",
    "Run",
    "RunEvent",
    "RunStatus",
    "SensitivityJob",
    "SensitivityMap",
    "Skill",
    "Study",
    "StudyReport",
    "TransferRecipe",
    "align",
    "alignment_job",
    "answers",
    "as_command",
    "as_python",
    "benchmark_tables",
    "bundles",
    "calibration",
    "calibration_run",
    "cancel",
    "cells",
    "compare",
    "convert",
    "create",
    "cut",
    "delete",
    "detectable",
    "detectable_effect",
    "diagnose_soon",
    "doctor",
    "dump_job",
    "export",
    "exports_dir",
    "extract",
    "find_alignment",
    "find_map",
    "job_of",
    "lessons",
    "load_job",
    "load_recipe",
    "map_job",
    "map_of",
    "measure",
    "measure_builtin",
    "measured_plan",
    "model_card",
    "name_of",
    "open_run",
    "open_study",
    "own_data",
    "parse_cut",
    "parse_job",
    "plan",
    "plan_of",
    "playground",
    "preflight",
    "published_report",
    "refuse_existing",
    "remember",
    "rendered",
    "rendered_apart",
    "report",
    "resume",
    "run",
    "run_study",
    "runs",
    "save_alignment",
    "save_benchmarks",
    "save_calibration",
    "save_map",
    "save_study",
    "save_upload",
    "shipped_recipes",
    "skills",
    "spec",
    "start",
    "start_study",
    "studies",
    "study_html",
    "study_markdown",
    "study_recipes",
    "study_report",
    "study_svg",
    "tour",
    "views",
    "window_factors",
]

AnyJob = TransferRecipe | SensitivityJob | AlignJob | EvaluateJob


# Models and tasks


def skills() -> dict[str, Skill]:
    """The built-in skills by name, in the order in which they are shown."""
    return SKILLS


def spec(model: str) -> ArchSpec:
    """A model's dimensions, from its configuration alone."""
    return read_spec(resolve(model))


def preflight(
    teacher: str,
    student: str,
    roles: Iterable[str] = (),
    *,
    device: str = "auto",
    recipe: TransferRecipe | None = None,
) -> Preflight:
    """What can be known of a pair from configurations and headers alone, and what it will need.

    Args:
        teacher: built-in name, folder, GGUF file or `org/name@revision`.
        student: likewise.
        roles: matrices that are to be extracted, such as `("q", "embed")`.
        device: where it is to run; its memory and measured speed are counted with.
        recipe: how much is to be done; a usual transfer when not given.

    Raises:
        BadInput: if one of the two is not a model at all.
    """
    return preflight_models(teacher, student, tuple(roles), device, recipe)


def doctor(refresh: bool = False) -> Doctor:
    """Versions and devices of this machine, measured in a child process and remembered.

    Args:
        refresh: look again instead of returning what was found before.
    """
    return diagnose(refresh)


# Sensitivity, alignment, plan


def find_map(job: SensitivityJob) -> SensitivityMap | None:
    """The map of a job, if it was measured before."""
    config = cache.with_dtype(job.sensitivity, resolve_device_name(job.device))
    return cache.find_map(job.model, seed_samples(job.data), config, job.data.format)


def measure(job: SensitivityJob, progress: Progress | None = None) -> SensitivityMap:
    """Measures sensitivity here and now, or returns the cached map. Imports torch."""
    from nuggets.runs.compute import measure_map

    return measure_map(job, progress)


def find_alignment(job: AlignJob) -> AlignmentReport | None:
    """The alignment of a job, if it was measured before."""
    return cache.find_alignment(cache.alignment_folder(job))


def align(job: AlignJob, progress: Progress | None = None) -> AlignmentReport:
    """Measures the alignment here and now, or returns the cached one. Imports torch."""
    from nuggets.runs.compute import measure_alignment

    return measure_alignment(job, progress)


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


def plan(recipe: TransferRecipe) -> ExtractionPlan:
    """What a recipe would extract, from cached maps alone; no model is touched.

    Raises:
        BadInput: if the teacher's map was not measured yet, or the recipe cannot work.
    """
    return plan_from_cache(recipe)


def measured_plan(recipe: TransferRecipe, progress: Progress | None = None) -> ExtractionPlan:
    """As `plan`, but measures first what is not cached yet. Imports torch."""
    from nuggets.runs.compute import plan_recipe

    return plan_recipe(recipe, progress)[0]


def cut(job: CutJob, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Makes a student from a teacher by one consistent choice, heals it, writes it.

    Imports torch.

    Raises:
        BadInput: if the sizes do not fit the teacher, or `out` exists.
    """
    from nuggets.runs.cutting import cut_to

    return cut_to(job, out, progress)


def extract(recipe: TransferRecipe, out: Path, progress: Progress | None = None) -> ExtractionPlan:
    """Writes `plan.json` and the initial factors as a rank-r PEFT adapter into a new folder.

    Everything is computed before the folder appears. Imports torch.

    Raises:
        BadInput: if the pair, the samples or the recipe cannot work, or `out` exists.
    """
    from nuggets.runs.compute import extract_to

    return extract_to(recipe, out, progress)


# Runs


def start(job: AnyJob) -> Run:
    """Starts a job in a worker process of its own; it outlives this one."""
    run = create(job)
    launch.start(run)
    return run


def runs() -> list[Run]:
    """All runs, newest first."""
    return RunStore(runs_dir()).list()


def open_run(run_id: str) -> Run:
    """The run with this id or unique beginning of an id.

    Raises:
        BadInput: if there is none or more than one.
    """
    return RunStore(runs_dir()).open(run_id)


def resume(run_id: str) -> Run:
    """Continues an interrupted, failed or cancelled run in a worker process."""
    found = open_run(run_id)
    launch.resume(found)
    return found


def cancel(run_id: str, wait: float = 0.0) -> RunStatus:
    """Asks a run to stop and returns its status after at most `wait` seconds."""
    return launch.cancel(open_run(run_id), wait)


def delete(run_id: str) -> None:
    """Deletes a run for good; refused while it is running."""
    RunStore(runs_dir()).delete(open_run(run_id).id)


def job_of(run: Run) -> AnyJob:
    """The job a run was made for."""
    return load_job(run.recipe_text())


def export(
    run: Run, out: Path, arm: str, seed: int | None = None, merged: bool = False
) -> dict[str, Any]:
    """Writes an arm's adapter for the untouched student, or the merged model (imports torch).

    Args:
        run: a transfer with that arm finished.
        out: a new folder.
        arm: the arm's name.
        seed: which seed; the first that is finished when not given.
        merged: write the whole model instead of an adapter.

    Raises:
        BadInput: if the run has no such adapter, or `out` exists.
    """
    from nuggets.runs.exporting import export_arm

    return export_arm(run, out, arm, seed, merged)

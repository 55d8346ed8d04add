"""The façade: everything that pages, the command line and notebooks call.

Importing this module is light: nothing here imports torch. Functions that compute with models
either run in a worker process (`start`, `resume`) or say that they run here (`run`, `measure`,
`extract`) and import what they need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

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
from nuggets.errors import BadInput
from nuggets.recipe import (
    AlignJob,
    CutJob,
    DataConfig,
    SensitivityJob,
    TransferRecipe,
    anchored,
    dump_job,
    load_job,
    load_recipe,
    parse_cut,
    parse_job,
    shipped_recipes,
)
from nuggets.runs import cache, launch, playground
from nuggets.runs.checks import check_job, preflight_models, transfer_samples
from nuggets.runs.commands import as_command, as_python
from nuggets.runs.converting import convert
from nuggets.runs.doctor import Doctor, diagnose, diagnose_soon, resolve_device_name
from nuggets.runs.home import runs_dir
from nuggets.runs.inputs import seed_samples
from nuggets.runs.outputs import output_folder, refuse_existing
from nuggets.runs.own_data import name_of, own_data, remember, save_upload
from nuggets.runs.planning import alignment_job, map_job, plan_from_cache
from nuggets.runs.results import answers, cells, compare, map_of, plan_of, report
from nuggets.runs.schema import LIVE, RESUMABLE, RunEvent, RunStatus
from nuggets.runs.store import Run, RunStore

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
    "CellOutcome",
    "CutJob",
    "DataConfig",
    "DetectableEffect",
    "Doctor",
    "ExtractionPlan",
    "ModelCard",
    "Preflight",
    "Run",
    "RunEvent",
    "RunStatus",
    "SensitivityJob",
    "SensitivityMap",
    "Skill",
    "TransferRecipe",
    "align",
    "alignment_job",
    "answers",
    "as_command",
    "as_python",
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
    "extract",
    "find_alignment",
    "find_map",
    "job_of",
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
    "own_data",
    "parse_cut",
    "parse_job",
    "plan",
    "plan_of",
    "playground",
    "preflight",
    "refuse_existing",
    "remember",
    "report",
    "resume",
    "run",
    "runs",
    "save_alignment",
    "save_map",
    "save_upload",
    "shipped_recipes",
    "skills",
    "spec",
    "start",
    "views",
]

AnyJob = TransferRecipe | SensitivityJob | AlignJob


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


def detectable(recipe: TransferRecipe) -> DetectableEffect:
    """What a transfer can show before it is run: its smallest difference that would be seen.

    Counted with the test items that there really are and with Holm over the treatment's baseline
    and controls. It assumes 0/1 outcomes and the usual spread of seeds (see
    `nuggets.bench.power`).

    Raises:
        BadInput: if the samples cannot be read.
    """
    n_items = len(transfer_samples(recipe).test)
    against = sum(arm.role in ("baseline", "control") for arm in recipe.arms)
    return detectable_effect(len(recipe.seeds), n_items, max(against, 1))


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


def create(job: AnyJob) -> Run:
    """Writes a run folder for a job that can work, without starting it.

    Relative paths are made absolute, as seen from here.

    Raises:
        BadInput: if configurations, headers or samples say that the job cannot work; no folder
            is made then.
    """
    device = resolve_device_name(job.device)
    job = anchored(job)
    check_job(job.model_copy(update={"device": device}))
    data = getattr(job, "data", None)
    if data is not None:
        remember(data)
    return RunStore(runs_dir()).create(job.job, dump_job(job), job.name, device=device)


def start(job: AnyJob) -> Run:
    """Starts a job in a worker process of its own; it outlives this one."""
    run = create(job)
    launch.start(run)
    return run


def run(job: AnyJob, on_event: Callable[[RunEvent], None] = lambda event: None) -> Run:
    """Runs a job here, reporting events as they happen. Imports torch.

    Raises:
        BadInput: if the job cannot work. When that shows before anything was kept, no run is
            left behind.
        NuggetsError: as the job does.
    """
    from nuggets.worker import run_in_foreground

    made = create(job)
    try:
        run_in_foreground(made, on_event)
    except BadInput:
        if not any((made.folder / "artifacts").glob("*")):
            delete(made.id)
        raise
    return made


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

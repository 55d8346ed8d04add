"""The façade: everything that pages, the command line and notebooks call.

Importing this module is light: nothing here imports torch. Functions that compute with models
either run in a worker process (`start`, `resume`) or say that they run here (`run`, `measure`,
`extract`) and import what they need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from nuggets.bench.report import BenchmarkReport, CellOutcome
from nuggets.builtin.pairs import builtin_models, builtin_pairs
from nuggets.builtin.resolve import resolve
from nuggets.builtin.skills import SKILLS, Skill
from nuggets.core import views
from nuggets.core.alignment import AlignmentReport
from nuggets.core.maps import SensitivityMap
from nuggets.core.plan import ExtractionPlan
from nuggets.core.preflight import Preflight
from nuggets.core.preflight import preflight as check_models
from nuggets.core.progress import Progress
from nuggets.recipe import (
    AlignJob,
    AskJob,
    SensitivityJob,
    TransferRecipe,
    dump_job,
    load_job,
    load_recipe,
    shipped_recipes,
)
from nuggets.runs import cache, launch, results
from nuggets.runs.doctor import Doctor, diagnose, resolve_device_name
from nuggets.runs.home import runs_dir
from nuggets.runs.inputs import seed_samples
from nuggets.runs.planning import alignment_job, map_job, plan_from_cache
from nuggets.runs.schema import RunEvent, RunStatus
from nuggets.runs.store import Run, RunStore

AnyJob = TransferRecipe | SensitivityJob | AlignJob | AskJob


# Models and tasks


def skills() -> dict[str, Skill]:
    """The built-in skills by name, in the order in which they are shown."""
    return SKILLS


def preflight(teacher: str, student: str, roles: Iterable[str] = ()) -> Preflight:
    """What can be known of a pair from configurations and headers alone.

    Args:
        teacher: built-in name, folder, GGUF file or `org/name@revision`.
        student: likewise.
        roles: matrices that are to be extracted, such as `("q", "embed")`.

    Raises:
        BadInput: if one of the two is not a model at all.
    """
    return check_models(resolve(teacher), resolve(student), roles=tuple(roles))


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
    return cache.find_map(job.model, seed_samples(job.data), config)


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


def plan(recipe: TransferRecipe) -> ExtractionPlan:
    """What a recipe would extract, from cached maps alone; no model is touched.

    Raises:
        BadInput: if the teacher's map was not measured yet, or the recipe cannot work.
    """
    return plan_from_cache(recipe)


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
    """Writes a run folder for a job, without starting it."""
    device = resolve_device_name(job.device)
    return RunStore(runs_dir()).create(job.job, dump_job(job), job.name, device=device)


def start(job: AnyJob) -> Run:
    """Starts a job in a worker process of its own; it outlives this one."""
    run = create(job)
    launch.start(run)
    return run


def run(job: AnyJob, on_event: Callable[[RunEvent], None] = lambda event: None) -> Run:
    """Runs a job here, reporting events as they happen. Imports torch."""
    from nuggets.worker import run_in_foreground

    made = create(job)
    run_in_foreground(made, on_event)
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

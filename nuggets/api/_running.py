"""Runs: started, looked at, continued, stopped, deleted, exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuggets import demo
from nuggets.disk.home import runs_dir
from nuggets.evaluation import permits
from nuggets.runs import launch
from nuggets.runs.schema import RunEvent, RunStatus
from nuggets.runs.store import Run, RunStore

if TYPE_CHECKING:  # what a job may hold takes a third of a second, and a list of runs needs none
    from nuggets.recipe import AnyJob


def start(job: AnyJob) -> Run:
    """Starts a job in a worker process of its own; it outlives this one."""
    from nuggets.stages.creating import create

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
    from nuggets.worker import run_job

    return run_job(job, on_event)


def runs() -> list[Run]:
    """All runs, newest first."""
    return RunStore(runs_dir()).list()


def open_run(run_id: str) -> Run:
    """The run with this id or unique beginning of an id.

    Raises:
        BadInput: if there is none or more than one.
    """
    return RunStore(runs_dir()).open(run_id)


@demo.refuses("runs cannot be resumed")
def resume(run_id: str) -> Run:
    """Continues an interrupted, failed or cancelled run, or starts one that never was.

    Raises:
        BadInput: if it cannot be continued, was made elsewhere and wants what nobody allowed, or
            would ask a judge that this machine does not allow.
    """
    from nuggets.workspace import strangers

    found = open_run(run_id)
    permits.check_permits(getattr(strangers.job_of(found), "benchmarks", ()))
    launch.resume(found)
    return found


@demo.refuses("runs cannot be stopped")
def cancel(run_id: str, wait: float = 0.0) -> RunStatus:
    """Asks a run to stop and returns its status after at most `wait` seconds."""
    return launch.cancel(open_run(run_id), wait)


@demo.refuses("runs cannot be deleted")
def delete(run_id: str) -> None:
    """Deletes a run for good; refused while it is running."""
    RunStore(runs_dir()).delete(open_run(run_id).id)


def job_of(run: Run) -> AnyJob:
    """The job a run was made for."""
    from nuggets.recipe import load_job

    return load_job(run.recipe_text())


@demo.refuses("nothing is written to the server's disk")
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
    from nuggets.stages.exporting import export_arm

    return export_arm(run, out, arm, seed, merged)

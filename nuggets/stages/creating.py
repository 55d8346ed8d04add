"""Making the folder of a job that can work."""

from __future__ import annotations

from typing import Any

from nuggets.disk.home import runs_dir
from nuggets.planning.checks import check_job
from nuggets.planning.machine import resolve_device_name
from nuggets.recipe import anchored, dump_job
from nuggets.runs.engines.settings import chosen
from nuggets.runs.store import Run, RunStore
from nuggets.workspace.samples import remember


def create(job: Any) -> Run:
    """Writes a run folder for a job that can work, without starting it.

    Relative paths are made absolute, as seen from here.

    Raises:
        BadInput: if configurations, headers or samples say that the job cannot work; no folder
            is made then.
    """
    device = check_can_work(job)
    job = anchored(job)
    data = getattr(job, "data", None)
    if data is not None:
        remember(data)
    return RunStore(runs_dir()).create(job.job, dump_job(job), job.name, device=device)


def check_can_work(job: Any) -> str:
    """Refuses a job that cannot work here, as `create` does; nothing is made.

    Returns:
        The device that it gets.

    Raises:
        BadInput: as `create` does.
    """
    engine = chosen()
    device = engine.place(job.device) or resolve_device_name(job.device)
    check_job(anchored(job).model_copy(update={"device": device}))
    engine.check(device)
    return device

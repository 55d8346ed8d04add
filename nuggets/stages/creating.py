"""Making the folder of a job that can work."""

from __future__ import annotations

from typing import Any

from nuggets import demo
from nuggets.disk.home import runs_dir
from nuggets.errors import BadInput
from nuggets.planning.checks import check_job
from nuggets.planning.machine import resolve_device_name
from nuggets.recipe import anchored, dump_job
from nuggets.runs.engines.settings import chosen
from nuggets.runs.schema import LIVE
from nuggets.runs.store import Run, RunStore
from nuggets.workspace.samples import remember


def create(job: Any) -> Run:
    """Writes a run folder for a job that can work, without starting it.

    Relative paths are made absolute, as seen from here.

    Raises:
        BadInput: if configurations, headers or samples say that the job cannot work; no folder
            is made then.
    """
    if demo.on():
        _admit(job)
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


def _admit(job: Any) -> None:
    """Lets a visitor of a demo start a run, and makes room for it.

    Raises:
        BadInput: if a demo has nothing of the kind, or enough to do.
    """
    if job.job == "evaluate" or getattr(job, "benchmarks", ()):
        raise demo.refused("there are no benchmarks")
    store = RunStore(runs_dir())
    ended = [run for run in store.list() if run.status() not in LIVE]
    if (live := len(store.list()) - len(ended)) >= demo.MOST_LIVE:
        raise BadInput(
            f"{live} runs compute or wait on this demo server, which is all that it takes. Start "
            "yours when one of them has ended."
        )
    for old in ended[demo.MOST_KEPT - 1 :]:
        store.delete(old.id)

"""What a worker does with a run: one function per kind of job. Imports torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from nuggets.builtin.resolve import pair_named
from nuggets.errors import BadInput
from nuggets.evaluation.permits import check_permits
from nuggets.planning import cache
from nuggets.planning.erasing import EraseRequest
from nuggets.recipe import AlignJob, EraseJob, SensitivityJob
from nuggets.runs.context import RunContext
from nuggets.runs.results import ERASURE
from nuggets.runs.store import Run
from nuggets.stages.erasing import measure_erasure
from nuggets.stages.evaluating import run_evaluate
from nuggets.stages.measuring import keep_map, measure_alignment, measure_map
from nuggets.stages.transfer import run_transfer
from nuggets.workspace import strangers


def execute(run: Run, ctx: RunContext) -> None:
    """Does a run's job, or continues it; everything kept is committed through `ctx`.

    Raises:
        NuggetsError: as the job does.
    """
    job = strangers.job_of(run)
    steps: dict[str, Callable[[Any, RunContext], None]] = {
        "transfer": run_transfer,
        "sensitivity": _sensitivity,
        "align": _align,
        "erase": _erase,
        "evaluate": run_evaluate,
    }
    if job.job not in steps:
        raise BadInput(f"A run cannot do a {job.job!r} job.")
    check_permits(getattr(job, "benchmarks", ()))
    ctx.provenance(recipe=hashlib.sha256(run.recipe_text().encode()).hexdigest())
    steps[job.job](job.model_copy(update={"device": run.device()}), ctx)


def _sensitivity(job: SensitivityJob, ctx: RunContext) -> None:
    ctx.plan(("sensitivity",))
    ctx.stage("sensitivity")
    request = cache.MapRequest.of(job)
    ctx.provenance(
        model=cache.digest_model(request.model), samples=cache.samples_digest(request.samples)
    )
    keep_map(measure_map(request, ctx), ctx)


def _erase(job: EraseJob, ctx: RunContext) -> None:
    ctx.plan(("erasure",))
    ctx.stage("erasure")
    request = EraseRequest.of(job)
    ctx.provenance(model=cache.digest_model(request.model))
    report = measure_erasure(request, ctx)
    if not ctx.done(ERASURE):
        with ctx.commit(ERASURE) as folder:
            report.save(folder)


def _align(job: AlignJob, ctx: RunContext) -> None:
    ctx.plan(("alignment",))
    ctx.stage("alignment")
    pair = pair_named(job.teacher, job.student)
    ctx.provenance(**cache.digest_pair(pair))
    report = measure_alignment(job, pair, ctx)
    if not ctx.done("alignment"):
        with ctx.commit("alignment") as folder:
            report.save(folder)

"""What a worker does with a run: one function per kind of job. Imports torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from nuggets.errors import BadInput
from nuggets.recipe import AlignJob, AskJob, SensitivityJob, load_job
from nuggets.runs import cache
from nuggets.runs.asking import ask
from nuggets.runs.compute import Loaded, keep_map, measure_alignment, measure_map
from nuggets.runs.context import RunContext
from nuggets.runs.inputs import seed_samples
from nuggets.runs.store import Run
from nuggets.runs.transfer import run_transfer


def execute(run: Run, ctx: RunContext) -> None:
    """Does a run's job, or continues it; everything kept is committed through `ctx`.

    Raises:
        NuggetsError: as the job does.
    """
    job = load_job(run.recipe_text())
    steps: dict[str, Callable[[Any, RunContext], None]] = {
        "transfer": run_transfer,
        "sensitivity": _sensitivity,
        "align": _align,
        "ask": _ask,
    }
    if job.job not in steps:
        raise BadInput(f"A run cannot do a {job.job!r} job.")
    ctx.provenance(recipe=hashlib.sha256(run.recipe_text().encode()).hexdigest())
    steps[job.job](job.model_copy(update={"device": run.device()}), ctx)


def _sensitivity(job: SensitivityJob, ctx: RunContext) -> None:
    ctx.plan(("sensitivity",))
    ctx.stage("sensitivity")
    ctx.provenance(
        model=cache.digest_model(job.model), samples=cache.samples_digest(seed_samples(job.data))
    )
    keep_map(measure_map(job, ctx), ctx)


def _align(job: AlignJob, ctx: RunContext) -> None:
    ctx.plan(("alignment",))
    ctx.stage("alignment")
    ctx.provenance(teacher=cache.digest_model(job.teacher), student=cache.digest_model(job.student))
    report = measure_alignment(job, ctx)
    if not ctx.done("alignment"):
        with ctx.commit("alignment") as folder:
            report.save(folder)


def _ask(job: AskJob, ctx: RunContext) -> None:
    """Greedy answers of several models to one question, one model in memory at a time."""
    ctx.plan(("ask",))
    ctx.stage("ask")
    if ctx.done("asked"):
        return
    found = []
    for index, name in enumerate(job.models):
        ctx.check_cancelled()
        model = Loaded(name, job.device)
        tokens = ask(model.model, model.tokenizer, job.prompt, job.max_new_tokens, job.device)
        text = model.tokenizer.decode([t.id for t in tokens], skip_special_tokens=True)
        pairs = [(token.text, token.probability) for token in tokens]
        found.append({"model": name, "text": text.strip(), "tokens": pairs})
        ctx.progress(index + 1, len(job.models), name)
    with ctx.commit("asked") as folder:
        (folder / "answers.json").write_text(json.dumps(found, indent=1))

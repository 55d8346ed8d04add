"""What is refused before anything is loaded, written or started. Torch-free."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np

from nuggets.bench.judges import TeacherJudge
from nuggets.bench.tasks import Benchmark, Dialogue
from nuggets.builtin.pairs import MODELS, model_card
from nuggets.builtin.resolve import resolve
from nuggets.core.consistent import check_consistent
from nuggets.core.data import check_leakage
from nuggets.core.headers import check_keys
from nuggets.core.models import (
    ModelPair,
    check_pair,
    check_vocabularies,
    read_pair,
    read_spec,
)
from nuggets.core.preflight import preflight
from nuggets.core.samples import Sample
from nuggets.errors import BadInput
from nuggets.recipe import AlignJob, EvaluateJob, SensitivityJob, TransferRecipe, load_job
from nuggets.runs.doctor import diagnose
from nuggets.runs.home import nuggets_home, runs_dir
from nuggets.runs.inputs import Datasets, align_samples, load_datasets, seed_samples
from nuggets.runs.store import RunStore

RUN_PREFIX = "run:"
"""Before a run's id where a model could stand too."""


def check_job(job: Any) -> None:
    """Refuses a job of which configurations, headers and samples already say that it cannot work.

    Raises:
        BadInput: in one sentence.
    """
    if isinstance(job, TransferRecipe):
        check_transfer(job)
    elif isinstance(job, SensitivityJob):
        check_model(job.model)
        seed_samples(job.data)
    elif isinstance(job, AlignJob):
        for model in (job.teacher, job.student):
            check_model(model)
        check_alignment(job)
        align_samples(job)
    elif isinstance(job, EvaluateJob):
        for model in job.models:
            _check_evaluated(model)
        check_benchmarks(job.benchmarks)


def _check_evaluated(model: str) -> None:
    """Refuses a model that cannot be loaded, or a run without finished arms."""
    if not model.startswith(RUN_PREFIX):
        return check_model(model)
    run = RunStore(runs_dir()).open(model.removeprefix(RUN_PREFIX))
    if run.record().kind != "transfer" or run.status() != "done":
        raise BadInput(
            f"Run {run.id} is a {run.record().kind} and {run.status()}; only arms of a finished "
            "transfer can be measured."
        )
    return check_model(load_job(run.recipe_text()).student)


def check_benchmarks(benchmarks: Sequence[Benchmark], learned: Sequence[Sample] = ()) -> None:
    """Refuses benchmarks whose items cannot be read, or were learned from.

    Args:
        benchmarks: what is to be measured.
        learned: seed and training samples.
    """
    if benchmarks and importlib.util.find_spec("lm_eval") is None:
        raise BadInput(
            "Benchmarks need lm-eval, which is not installed: pip install 'nuggets[eval]'."
        )
    for task in benchmarks:
        task.items()
        check_leakage(learned, task.test_samples())
        if isinstance(task, Dialogue) and isinstance(task.judge, TeacherJudge):
            check_model(task.judge.teacher)


def check_model(model: str) -> None:
    """Refuses a model whose headers do not hold exactly what its config describes."""
    ref = resolve(model)
    check_keys(ref, read_spec(ref))


def check_alignment(job: AlignJob) -> None:
    """Refuses models whose states on the same token ids mean nothing to each other."""
    check_vocabularies(read_pair(resolve(job.teacher), resolve(job.student)))


def check_extraction(recipe: TransferRecipe) -> None:
    """Refuses pairs, ranks and samples that cannot be extracted from or for.

    Of the student only its configuration is read.
    """
    pair = read_pair(resolve(recipe.teacher), resolve(recipe.student, weights=False))
    embed = not {"embed", "head"}.isdisjoint(recipe.extraction.roles)
    check_pair(pair.teacher_spec, pair.student_spec, embed=embed)
    check_vocabularies(pair)
    for role in recipe.extraction.roles:
        recipe.lora.rank(role, pair.student_spec.shape(role))
    _check_selectors(recipe, pair)
    seed_samples(recipe.data)


def _check_selectors(recipe: TransferRecipe, pair: ModelPair) -> None:
    """Asks the selectors what they would refuse, before they have anything to look at."""
    teacher, student = pair.teacher_spec, pair.student_spec
    n = teacher.n_layers, student.n_layers
    recipe.extraction.layers.select(np.zeros(n[0]), n[1], np.zeros(n))
    kind = recipe.extraction.matrices.kind
    if kind == "consistent" or any(arm.kind == "graft" for arm in recipe.arms):
        check_consistent(teacher, student)
    if kind in ("window", "weights") and recipe.sensitivity.keep == "sums":
        raise BadInput(
            f"The selector {kind} looks at every entry, but sensitivity.keep is sums. Set it to "
            "full, or choose the selector rows_cols or consistent."
        )


def check_transfer(recipe: TransferRecipe) -> Datasets:
    """Refuses transfers that cannot work; returns their samples."""
    check_extraction(recipe)
    found = preflight(
        resolve(recipe.teacher),
        resolve(recipe.student),
        roles=recipe.extraction.roles,
        batch_size=recipe.train.batch_size,
        memory_available=_device_memory(recipe.device),
        folder=_existing_home(),
    )
    if found.problems:
        raise BadInput(found.problems[0])
    data = transfer_samples(recipe)
    _check_arms(recipe, data)
    if recipe.benchmarks:
        learned = [sample for seed in recipe.seeds for sample in data.train(seed)]
        check_benchmarks(recipe.benchmarks, [*data.seeds, *learned])
    return data


def transfer_samples(recipe: TransferRecipe) -> Datasets:
    """All samples of a transfer, with those that show what its student forgets."""
    if recipe.student not in MODELS:
        return load_datasets(recipe.data, (), ())
    card = model_card(recipe.student)
    taught = [skill for skill in card.scores if skill not in card.lacks]
    return load_datasets(recipe.data, taught, card.lacks)


def _check_arms(recipe: TransferRecipe, data: Datasets) -> None:
    kinds = {arm.kind for arm in recipe.arms}
    if recipe.data.metric == "choice" and not all(sample.choices for sample in data.test):
        raise BadInput(
            "The metric choice needs test samples with choices, and some have none. Give every "
            "test sample a question, choices and an answer, or choose the metric exact_match."
        )
    if "pissa" in kinds and "embed" in recipe.extraction.roles:
        raise BadInput(
            "PEFT has no PiSSA for embeddings. Leave the role embed out of the extraction, or "
            "leave the arm pissa out."
        )
    if "teacher_labels" in kinds:
        for seed in recipe.seeds:
            data.extra(1, seed)  # noqa: S610 - not Django's


def _device_memory(device: str) -> int | None:
    """The memory of a GPU; None for the machine's own."""
    if "cuda" not in device:
        return None
    return next((d.memory_total for d in diagnose().devices if d.name == device), None)


def _existing_home() -> Any:
    """The folder of all runs, or the first above it that exists."""
    home = nuggets_home()
    return next(folder for folder in (home, *home.parents) if folder.is_dir())

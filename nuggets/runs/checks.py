"""What is refused before anything is loaded, written or started. Torch-free."""

from __future__ import annotations

from typing import Any

import numpy as np

from nuggets.bench.power import DetectableEffect, detectable_effect
from nuggets.builtin.pairs import MODELS, model_card
from nuggets.builtin.resolve import resolve
from nuggets.builtin.skills import skill_samples
from nuggets.core.consistent import check_consistent
from nuggets.core.headers import check_keys
from nuggets.core.models import (
    ModelPair,
    check_pair,
    check_vocabularies,
    read_pair,
    read_spec,
)
from nuggets.core.preflight import preflight
from nuggets.errors import BadInput
from nuggets.recipe import AlignJob, SensitivityJob, TransferRecipe
from nuggets.runs.doctor import diagnose
from nuggets.runs.home import nuggets_home
from nuggets.runs.inputs import Datasets, align_samples, load_datasets, seed_samples
from nuggets.train.arms import Paper
from nuggets.train.initialisers import Initialiser


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
    if kind in ("window", "weights", "neurons") and recipe.sensitivity.keep == "sums":
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
    return data


def transfer_samples(recipe: TransferRecipe) -> Datasets:
    """All samples of a transfer, with those that show what its student forgets."""
    if recipe.student not in MODELS:
        return load_datasets(recipe.data, (), ())
    card = model_card(recipe.student)
    taught = [skill for skill in card.scores if skill not in card.lacks]
    return load_datasets(recipe.data, taught, card.lacks)


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


def _check_arms(recipe: TransferRecipe, data: Datasets) -> None:
    kinds = {arm.kind for arm in recipe.arms}
    if recipe.data.metric == "choice" and not all(sample.choices for sample in data.test):
        raise BadInput(
            "The metric choice needs test samples with choices, and some have none. Give every "
            "test sample a question, choices and an answer, or choose the metric exact_match."
        )
    for arm in recipe.arms:
        if isinstance(arm, Initialiser):
            arm.check_roles(recipe.extraction.roles)
        if isinstance(arm, Paper) and arm.task is not None:
            skill_samples(arm.task, "seed", 1)
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

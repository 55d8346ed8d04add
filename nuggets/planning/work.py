"""How much work a recipe is, for estimates of memory and time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from nuggets.data.samples import Sample
from nuggets.errors import BadInput
from nuggets.models.pair import Model
from nuggets.models.tried import count_tokens
from nuggets.planning.datasets import seed_samples, transfer_samples
from nuggets.preflight.resources import Work
from nuggets.recipe import TransferRecipe

USUAL_LENGTH = 512
"""Tokens per sample where they cannot be counted."""
_FRAME = 4
"""Tokens that a prompt format adds: roles and the end."""


def work_of(recipe: TransferRecipe | None, teacher: Model, device: str) -> Work:
    """The amount of work of a recipe, or a usual one; epochs count the samples that there are."""
    if recipe is None:
        return Work(dtype=_dtype("auto", device))
    train, data = recipe.train, recipe.data
    n_train, n_test = _n_samples(recipe)
    steps = train.steps
    if train.epochs is not None:
        steps = math.ceil(train.epochs * math.ceil(n_train / train.batch_size))
    seeds = seed_samples(data)
    lengths = _lengths(seeds, teacher)
    trained = [arm for arm in recipe.arms if arm.trains]
    whole = [arm for arm in trained if arm.stacks in ("whole", "whole_but_words")]
    times = len(recipe.seeds) * len(train.rates)
    return Work(
        n_seed_samples=len(seeds),
        max_tokens=min(max(lengths), recipe.sensitivity.max_length),
        mean_tokens=math.ceil(sum(lengths) / len(lengths)),
        rank=recipe.lora.r,
        batch_size=train.batch_size,
        steps=steps,
        trainings=len(trained) * times,
        whole_trainings=len(whole) * times,
        trains_all=any(arm.trains_all for arm in trained),
        n_test=n_test,
        checkpointed=train.activation_checkpointing,
        dtype=_dtype(recipe.sensitivity.dtype, device),
        train_dtype=train.dtype,
        runs_teacher=any(arm.runs_teacher for arm in recipe.arms),
        keeps_map=recipe.sensitivity.keep == "full",
    )


def _n_samples(recipe: TransferRecipe) -> tuple[int, int]:
    """Training samples and test items; as many as are asked for where they cannot be read."""
    try:
        found = transfer_samples(recipe)
    except BadInput:  # which is told where samples are checked
        return recipe.data.n_train, recipe.data.n_test
    return len(found.train(recipe.seeds[0])), len(found.test)


def _lengths(samples: Sequence[Sample], teacher: Model) -> list[int]:
    """Tokens of every sample, roles included; a typical length if it cannot be determined."""
    texts = ["\n".join(m.content for m in s.messages) for s in samples]
    found = count_tokens(teacher.ref, texts)
    return [n + _FRAME for n in found] if found else [USUAL_LENGTH]


def _dtype(asked: str, device: str) -> Any:
    """Sensitivity's number format; it is the widest stage, so others are judged by it."""
    if asked != "auto":
        return asked
    return "bfloat16" if device.startswith("cuda") else "float32"

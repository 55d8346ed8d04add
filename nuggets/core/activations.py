"""Aligning two models: every measure of `nuggets.core.alignment`, taken on the same tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import nn

from nuggets.core.alignment import (
    STITCHING,
    AlignmentReport,
    cka_matrix,
    profile_correlation,
    subspace_matrix,
)
from nuggets.core.architecture import LAYER_ROLES, ArchSpec
from nuggets.core.linear_maps import PENALTY, r2_matrix, ridge_map
from nuggets.core.maps import SensitivityMap
from nuggets.core.progress import InMemoryProgress, Progress
from nuggets.core.states import Encoded, Positions, collect_reads, collect_states
from nuggets.core.stitching import exact_match, stitching_accuracy
from nuggets.errors import BadInput

__all__ = [
    "Encoded",
    "Positions",
    "align_models",
    "collect_reads",
    "collect_states",
    "exact_match",
    "r2_matrix",
    "ridge_map",
    "stitching_accuracy",
]

MAX_TOKENS = 2048
"""Tokens that CKA and subspaces look at, spread evenly over the skills' samples."""
MAX_STITCHED_LAYERS = 8
"""Layers per model that are stitched: every cell runs the teacher's upper part."""
DIRECTIONS = 8
"""Read-outs per matrix (k) of the subspace similarity, fewer where a matrix is smaller."""

Maps = Mapping[str, tuple[SensitivityMap, SensitivityMap]]
"""Skill → sensitivity maps of teacher and student."""


def align_models(
    teacher: nn.Module,
    teacher_spec: ArchSpec,
    student: nn.Module,
    student_spec: ArchSpec,
    fit: Mapping[str, Sequence[Encoded]],
    test: Mapping[str, Sequence[Encoded]],
    maps: Maps | None = None,
    progress: Progress | None = None,
) -> AlignmentReport:
    """Compares every layer of a teacher with every layer of a student.

    CKA, subspaces and R² pool the answer tokens of all skills; stitching is measured per skill,
    with maps fitted on that skill alone.

    Args:
        teacher: the larger model; both are left as they were.
        teacher_spec: its dimensions.
        student: the smaller model, on the same device and with the same tokenizer.
        student_spec: its dimensions.
        fit: skill → encoded samples that maps are fitted on and similarities measured on.
        test: the same skills → other samples, for R² and stitching.
        maps: sensitivity maps of both models, for the correlation of profiles.
        progress: one tick per skill and stage; can cancel.

    Raises:
        BadInput: if there are no skills, or `fit` and `test` name different ones.
        NonFinite: if a model computes NaN or infinite states.
    """
    if not fit or set(fit) != set(test):
        raise BadInput(
            f"Alignment needs the same skills to fit and to test, at least one: {list(fit)} "
            f"against {list(test)}."
        )
    told = progress or InMemoryProgress()
    pair = (teacher, teacher_spec, student, student_spec)
    stages = len(fit) + 1
    told.progress(0, stages, "comparing states")
    matrices, meta, n_tokens = _similarities(pair, fit, test, told)
    scores: dict[str, dict[str, float]] = {}
    layers = [_spread(spec.n_layers, MAX_STITCHED_LAYERS) for spec in (teacher_spec, student_spec)]
    for done, skill in enumerate(fit, start=1):
        told.progress(done, stages, f"stitching {skill}")
        matrices[STITCHING + skill] = stitching_accuracy(
            student, student_spec, teacher, teacher_spec, fit[skill], test[skill],
            teacher_layers=layers[0], student_layers=layers[1], progress=told,
        )  # fmt: skip
        scores[skill] = {
            "teacher": exact_match(teacher, teacher_spec, test[skill]),
            "student": exact_match(student, student_spec, test[skill]),
        }
    if maps:
        matrices["profile"] = profile_correlation(
            _profiles([of_teacher for of_teacher, _ in maps.values()]),
            _profiles([of_student for _, of_student in maps.values()]),
        )
    told.progress(stages, stages, "aligned")
    return AlignmentReport(matrices, n_tokens, tuple(fit), {**meta, "scores": scores})


def _similarities(
    pair: tuple[nn.Module, ArchSpec, nn.Module, ArchSpec],
    fit: Mapping[str, Sequence[Encoded]],
    test: Mapping[str, Sequence[Encoded]],
    progress: Progress,
) -> tuple[dict[str, ndarray], dict[str, Any], int]:
    """CKA, R² and subspaces over all skills' answer tokens, and what chance would give."""
    teacher, teacher_spec, student, student_spec = pair
    pooled = [sample for samples in fit.values() for sample in samples]
    held_out = [sample for skill in fit for sample in test[skill]]
    states = []
    for model, spec in ((teacher, teacher_spec), (student, student_spec)):
        for samples in (pooled, held_out):
            progress.check_cancelled()
            states.append(collect_states(model, spec, samples)[1:])  # what leaves each block
    teacher_fit, teacher_test, student_fit, student_test = states
    tokens = _spread(teacher_fit.shape[1], MAX_TOKENS)
    k = _directions(teacher_spec, student_spec, len(tokens))
    reads = []
    for model, spec in ((teacher, teacher_spec), (student, student_spec)):
        progress.check_cancelled()
        reads.append(collect_reads(model, spec, pooled, k)[:, :, tokens])
    x, y = teacher_fit[:, tokens], student_fit[:, tokens]
    shuffled = np.random.default_rng(0).permutation(len(tokens))
    progress.check_cancelled()
    matrices = {
        "cka": cka_matrix(x, y),
        "subspace": subspace_matrix(*reads),
        "r2": r2_matrix(teacher_fit, student_fit, teacher_test, student_test),
    }
    baselines = {
        "cka": float(cka_matrix(x, y[:, shuffled]).mean()),
        "subspace": k / max(len(tokens) - 1, k),
        "r2": 0.0,
    }
    return matrices, {"baselines": baselines, "k": k, "penalty": PENALTY}, len(tokens)


def _spread(n: int, most: int) -> list[int]:
    """At most `most` of `n` indices at equal distances, first and last included."""
    return sorted({int(i) for i in np.linspace(0, n - 1, min(n, most)).round()})


def _directions(teacher: ArchSpec, student: ArchSpec, n_tokens: int) -> int:
    """k: few enough for every matrix, and for subspaces of so few tokens to be able to differ."""
    sides = [min(spec.shape(role)) for spec in (teacher, student) for role in LAYER_ROLES]
    return max(1, min(DIRECTIONS, *sides, n_tokens // 4))


def _profiles(maps: Sequence[SensitivityMap]) -> Float[ndarray, "n_layers profile"]:
    """Share of each map's sensitivity per layer, in columns of skill × role."""
    columns = []
    for map in maps:
        spec = map.spec
        totals = np.array(
            [[map.total(spec.module(role, layer)) for role in LAYER_ROLES]
             for layer in range(spec.n_layers)]
        )  # fmt: skip
        columns.append(totals / max(totals.sum(), np.finfo(float).tiny))
    return np.concatenate(columns, axis=1)

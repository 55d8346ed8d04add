"""Aligning two models: every similarity of their layers, measured on the same tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from torch import nn

from nuggets.alignment.linear_maps import PENALTY, r2_matrix
from nuggets.alignment.readability import readability
from nuggets.alignment.report import AlignmentReport
from nuggets.alignment.similarity import cka_matrix, profile_correlation, subspace_matrix
from nuggets.alignment.states import collect_states, record, strongest_directions
from nuggets.alignment.stitching import exact_match, fit_maps, stitching_accuracy
from nuggets.data.samples import IGNORED, Encoded
from nuggets.errors import BadInput
from nuggets.models.architecture import ArchSpec
from nuggets.progress import InMemoryProgress, Progress
from nuggets.sensitivity.maps import SensitivityMap

MAX_TOKENS = 2048
"""Tokens that CKA and subspaces look at, spread evenly over the skills' samples."""
MAX_STITCHED_LAYERS = 8
"""Layers per model that are stitched: every cell runs the teacher's upper part."""
MIN_STITCHED_LAYERS = 2
STITCH_FLOPS = {"cpu": 3e12}
"""Arithmetic that stitching one skill may take on a device, about a minute of one CPU core;
fewer layers are stitched where more would be needed."""
DIRECTIONS = 8
"""Read-outs per matrix (k) of the subspace similarity, fewer where a matrix is smaller."""

Samples = Mapping[str, Sequence[Encoded]]
"""Skill → encoded samples."""
Maps = Mapping[str, tuple[SensitivityMap, SensitivityMap]]
"""Skill → sensitivity maps of teacher and student."""
States = Float[ndarray, "_ _ _"]
"""`[n_layers, n_tokens, hidden]`."""


@dataclass(frozen=True, eq=False)
class _Side:
    """One model, its states after every block per skill, and what its matrices read in all."""

    model: nn.Module
    spec: ArchSpec
    fit: dict[str, States]
    test: dict[str, States]
    reads: Float[ndarray, "n_layers roles n_tokens k"]


def align_models(
    teacher: nn.Module,
    teacher_spec: ArchSpec,
    student: nn.Module,
    student_spec: ArchSpec,
    fit: Samples,
    test: Samples,
    maps: Maps | None = None,
    progress: Progress | None = None,
    stitch: bool = True,
) -> AlignmentReport:
    """Compares every layer of a teacher with every layer of a student.

    CKA, subspaces and R² look at the answer tokens of all skills; CKA, R² and stitching are also
    measured per skill, with linear maps fitted on that skill alone.

    Args:
        teacher: the larger model; both are left as they were.
        teacher_spec: its dimensions.
        student: the smaller model, on the same device and with the same tokenizer.
        student_spec: its dimensions.
        fit: skill → encoded samples that maps are fitted on and similarities measured on.
        test: the same skills → other samples, for R² and stitching.
        maps: sensitivity maps of both models, for the correlation of profiles.
        progress: one tick per skill and stage; can cancel.
        stitch: False leaves stitching out, which takes most of the time on large models.

    Raises:
        BadInput: if there are no skills, or `fit` and `test` name different ones.
        NonFinite: if a model computes NaN or infinite states.
    """
    _check_skills(fit, test)
    told = progress or InMemoryProgress()
    told.progress(0, len(fit) + 1, "comparing states")
    asked, fit, test = fit, _by_length(fit), _by_length(test)
    places = {skill: _places(samples) for skill, samples in asked.items()}
    n_tokens = min(sum(map(len, places.values())), MAX_TOKENS)
    k = _directions(teacher_spec, student_spec, n_tokens)
    roles = _shared_roles(teacher_spec, student_spec)
    sides = [
        _look(model, spec, fit, test, k, roles, told)
        for model, spec in ((teacher, teacher_spec), (student, student_spec))
    ]
    matrices, facts = _similarities(sides[0], sides[1], places, told)
    if maps:
        matrices["profile"] = profile_correlation(
            _profiles([of_teacher for of_teacher, _ in maps.values()], roles),
            _profiles([of_student for _, of_student in maps.values()], roles),
        )
    models = {"teacher": (teacher, teacher_spec), "student": (student, student_spec)}
    words = {skill: readability(models, asked[skill], test[skill]) for skill in fit}
    facts["words"] = {skill: w.model_dump(mode="json") for skill, w in words.items() if w}
    if stitch:
        facts |= _stitching(sides[0], sides[1], test, matrices, told)
    told.progress(len(fit) + 1, len(fit) + 1, "aligned")
    return AlignmentReport(
        matrices, facts.pop("n_tokens"), tuple(fit), facts | {"penalty": PENALTY}
    )


def _check_skills(fit: Samples, test: Samples) -> None:
    if not fit or set(fit) != set(test):
        raise BadInput(
            "Alignment needs at least one skill, and the same skills for fitting and testing: "
            f"{list(fit)} against {list(test)}."
        )


def _stitching(
    teacher: _Side,
    student: _Side,
    test: Samples,
    matrices: dict[str, ndarray],
    progress: Progress,
) -> dict[str, Any]:
    """Adds stitching accuracy per skill; returns the models' own and which layers were stitched."""
    sides = (teacher, student)
    scores: dict[str, dict[str, float]] = {}
    most = 0
    for done, skill in enumerate(test, start=1):
        progress.progress(done, len(test) + 1, f"stitching {skill}")
        n = _stitched_layers(teacher.model, test[skill])
        most = max(most, n)
        rows, columns = (_spread(side.spec.n_layers, n) for side in sides)
        maps = fit_maps(teacher.fit[skill], student.fit[skill], rows, columns)
        matrices[f"stitching.{skill}"] = stitching_accuracy(
            student.model, student.spec, teacher.model, teacher.spec, maps, test[skill], progress
        )
        scores[skill] = {
            name: exact_match(side.model, side.spec, test[skill], side.test[skill][-1])
            for name, side in zip(("teacher", "student"), sides, strict=True)
        }
    return {"scores": scores, "stitched_layers": most}


def _stitched_layers(teacher: nn.Module, test: Sequence[Encoded]) -> int:
    """Layers per model for which stitching stays within its budget.

    A cell runs half of the teacher on average over every token of the test, at 2 operations per
    weight and token.
    """
    parameters = sum(p.numel() for p in teacher.parameters())
    per_cell = float(parameters) * sum(len(ids) for ids, _ in test)
    budget = STITCH_FLOPS.get(next(teacher.parameters()).device.type)
    if budget is None:
        return MAX_STITCHED_LAYERS
    return min(MAX_STITCHED_LAYERS, max(MIN_STITCHED_LAYERS, int((budget / per_cell) ** 0.5)))


def _look(
    model: nn.Module,
    spec: ArchSpec,
    fit: Samples,
    test: Samples,
    k: int,
    roles: Sequence[str],
    progress: Progress,
) -> _Side:
    directions = strongest_directions(model, spec, k, roles)
    shown = {s: record(model, spec, fit[s], "answer", directions, progress=progress) for s in fit}
    held_out = {s: collect_states(model, spec, test[s], progress=progress) for s in test}
    # Without what enters the first block: a cell compares what leaves blocks.
    return _Side(
        model,
        spec,
        {skill: recorded.states[1:] for skill, recorded in shown.items()},
        {skill: states[1:] for skill, states in held_out.items()},
        np.concatenate([recorded.reads for recorded in shown.values()], axis=2),
    )


def _similarities(
    teacher: _Side,
    student: _Side,
    places: Mapping[str, ndarray],
    progress: Progress,
) -> tuple[dict[str, ndarray], dict[str, Any]]:
    """CKA, R² and subspaces of all skills together, CKA and R² of each, and what chance gives."""
    x, y = (np.concatenate(list(side.fit.values()), axis=1) for side in (teacher, student))
    x_test, y_test = (np.concatenate(list(s.test.values()), axis=1) for s in (teacher, student))
    starts = np.cumsum([0, *map(len, places.values())])
    everywhere = np.concatenate([s + p for s, p in zip(starts, places.values(), strict=False)])
    tokens = everywhere[_spread(len(everywhere), MAX_TOKENS)]
    k = teacher.reads.shape[3]
    shuffled = np.random.default_rng(0).permutation(len(tokens))
    baselines = {
        "cka": float(cka_matrix(x[:, tokens], y[:, tokens][:, shuffled]).mean()),
        "subspace": k / max(len(tokens) - 1, k),
        "r2": 0.0,
    }
    matrices = {
        "cka": cka_matrix(x[:, tokens], y[:, tokens]),
        "subspace": subspace_matrix(teacher.reads[:, :, tokens], student.reads[:, :, tokens]),
        "r2": r2_matrix(x, y, x_test, y_test),
    }
    for skill, own in places.items():
        progress.check_cancelled()
        if len(places) == 1:  # which is then all there is
            matrices |= {f"{name}.{skill}": matrices[name] for name in ("cka", "r2")}
            break
        few = own[_spread(len(own), MAX_TOKENS)]
        mine = teacher.fit[skill], student.fit[skill]
        matrices[f"cka.{skill}"] = cka_matrix(mine[0][:, few], mine[1][:, few])
        matrices[f"r2.{skill}"] = r2_matrix(*mine, teacher.test[skill], student.test[skill])
    return matrices, {"baselines": baselines, "k": k, "n_tokens": len(tokens)}


def _by_length(samples: Samples) -> Samples:
    """Samples of like length beside each other, so that little of a batch is padding."""
    return {skill: sorted(own, key=lambda sample: len(sample[0])) for skill, own in samples.items()}


def _places(samples: Sequence[Encoded]) -> Int[ndarray, " n_tokens"]:
    """Where each answer token is once samples are sorted by length, in their given order."""
    order = sorted(range(len(samples)), key=lambda i: len(samples[i][0]))
    counts = [sum(label != IGNORED for label in samples[i][1][1:]) for i in order]
    tokens = np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1])
    return np.concatenate([own for _, own in sorted(zip(order, tokens, strict=True))])


def _spread(n: int, most: int) -> list[int]:
    """At most `most` of `n` indices at equal distances, first and last included."""
    return sorted({int(i) for i in np.linspace(0, n - 1, min(n, most)).round()})


def _shared_roles(teacher: ArchSpec, student: ArchSpec) -> tuple[str, ...]:
    return tuple(role for role in teacher.architecture.roles if student.has(role))


def _directions(teacher: ArchSpec, student: ArchSpec, n_tokens: int) -> int:
    """k: few enough for every matrix, and for subspaces of so few tokens to be able to differ."""
    roles = _shared_roles(teacher, student)
    sides = [min(spec.shape(role)) for spec in (teacher, student) for role in roles]
    return max(1, min(DIRECTIONS, *sides, n_tokens // 4))


def _profiles(
    maps: Sequence[SensitivityMap], roles: Sequence[str]
) -> Float[ndarray, "n_layers profile"]:
    """Share of each map's sensitivity per layer, in columns of skill × role."""
    columns = []
    for map in maps:
        spec = map.spec
        totals = np.array(
            [[map.total(spec.module(role, layer)) for role in roles]
             for layer in range(spec.n_layers)]
        )  # fmt: skip
        columns.append(totals / max(totals.sum(), np.finfo(float).tiny))
    return np.concatenate(columns, axis=1)

"""Which residual dimensions each extracted matrix speaks of, along the network.

A matrix reads from, or writes to, the residual stream. Where two neighbours were cut to different
dimensions, the one does not read what the other wrote: the circuit between them is broken.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from nuggets.errors import BadInput
from nuggets.extraction.plan import ExtractionPlan
from nuggets.models.architecture import ArchSpec


class Residual(NamedTuple):
    """The residual dimensions that a plan's matrices were cut to.

    Attributes:
        modules: the student's matrices, in network order.
        chosen: whether a matrix uses a dimension of the teacher's residual stream.
        agreement: for every two neighbours the share of dimensions that both chose, 0 to 1; its
            mean is the plan's `residual_agreement`.
        chance: the mean share that neighbours would have in common had every choice been made
            without looking, windows staying windows: two of half the width share 2/3, not 1/2.
    """

    modules: tuple[str, ...]
    chosen: Bool[ndarray, "n hidden"]
    agreement: Float[ndarray, " n_minus_1"]
    chance: float


def residual_dimensions(plan: ExtractionPlan, teacher: ArchSpec) -> Residual:
    """Looks up the residual dimensions of every matrix of a plan.

    Args:
        plan: what goes where.
        teacher: dimensions of the model it is taken from.

    Raises:
        BadInput: for the selector `weights`, whose entries belong to no dimension.
    """
    modules, found = [], []
    for item in plan.items:
        axes = teacher.axes(item.role)
        if item.rows is None or item.cols is None:
            raise BadInput(
                "The selector weights takes single weights, not dimensions, so there is nothing "
                "for adjacent matrices to share."
            )
        for axis, index in zip(axes, (item.rows, item.cols), strict=True):
            if axis == "resid":
                line = np.zeros(teacher.hidden_size, dtype=bool)
                line[list(index)] = True
                modules.append(item.student_module)
                found.append(line)
                break
    chosen = np.array(found, dtype=bool).reshape(len(found), teacher.hidden_size)
    sizes = chosen.sum(axis=1)
    both = np.array([(a & b).sum() for a, b in pairwise(chosen)], dtype=np.float64)
    least = np.maximum(np.minimum(sizes[:-1], sizes[1:]), 1)
    expected = [a @ b for a, b in pairwise(map(_blind, chosen))]
    chance = float(np.mean(expected / least)) if expected else float("nan")
    return Residual(tuple(modules), chosen, both / least, chance)


def dimension_shares(found: Residual, most: int = 256) -> Float[ndarray, "n bins"]:
    """The share of chosen dimensions in blocks of neighbouring ones, at most `most` blocks.

    With up to `most` dimensions every block is one of them, and its share 0 or 1.
    """
    width = found.chosen.shape[1]
    edges = np.linspace(0, width, min(most, width) + 1).round().astype(int)
    sums = np.add.reduceat(found.chosen.astype(np.float64), edges[:-1], axis=1)
    return sums / np.diff(edges)


def _blind(line: Bool[ndarray, " hidden"]) -> Float[ndarray, " hidden"]:
    """How probable it is that a choice of this size and kind, made blindly, holds each dimension.

    A window lies anywhere with the same probability, so it holds the middle more often.
    """
    width, size = len(line), int(line.sum())
    at = np.flatnonzero(line)
    if not size or at[-1] - at[0] + 1 > size:
        return np.full(width, size / width)
    places = width - size + 1
    k = np.arange(width)
    return np.minimum.reduce([k + 1, width - k, np.full(width, min(size, places))]) / places

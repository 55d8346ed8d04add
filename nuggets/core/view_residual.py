"""Which residual dimensions each extracted matrix speaks of, along the network. Torch-free.

A matrix reads from, or writes to, the residual stream. Where two neighbours were cut to different
dimensions, the one does not read what the other wrote: the circuit between them is broken.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from nuggets.core.architecture import ArchSpec
from nuggets.core.plan import ExtractionPlan
from nuggets.errors import BadInput


class Residual(NamedTuple):
    """The residual dimensions that a plan's matrices were cut to.

    Attributes:
        modules: the student's matrices, in network order.
        chosen: whether a matrix speaks of a dimension of the teacher's residual stream.
        agreement: for every two neighbours the share of dimensions that both chose, 0 to 1; its
            mean is the plan's `residual_agreement`.
        chance: the share that two choices made without looking have in common.
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
                "Single weights are taken from everywhere: with the selector weights there are no "
                "residual dimensions that neighbours could agree on."
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
    least = np.minimum(sizes[:-1], sizes[1:])
    chance = float(sizes.mean() / teacher.hidden_size) if len(found) else float("nan")
    return Residual(tuple(modules), chosen, both / np.maximum(least, 1), chance)

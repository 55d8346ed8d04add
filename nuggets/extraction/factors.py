"""From a plan to low-rank factors: cut the teacher's entries out and factorise them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from nuggets.compute.svd import LowRankFactors, truncated_svd
from nuggets.compute.threads import each_on_a_thread
from nuggets.extraction.plan import ExtractionPlan, PlanItem, picks_of
from nuggets.sensitivity.maps import SensitivityMap
from nuggets.sensitivity.selected_entries import Pick

Weights = Callable[[str], Tensor]
"""The teacher's weight of a module, as stored `[out, in]` (embedding: `[vocab, hidden]`)."""


def extract_factors(
    weights: Weights,
    plan: ExtractionPlan,
    map: SensitivityMap | None = None,
    seed: int = 0,
    ranks: Mapping[str, int] | None = None,
    device: torch.device | str | None = None,
) -> dict[str, LowRankFactors]:
    """Initial factors for every student matrix of a plan (section 3.3 and eq. 6 of the paper).

    Weights are asked for one at a time, so a teacher on disk is never held in memory whole
    (`nuggets.models.stored_weights.StoredWeights`), and only the student-shaped part goes to the
    device.
    On the CPU several matrices are factorised at once, a thread each.

    Args:
        weights: gives the teacher's weight of a module; it is not changed.
        plan: what goes where.
        map: the map the plan was made from; the selector `weights` and a ratio below 1 need it.
        seed: of the randomised SVD.
        ranks: student module → rank, instead of the plan's rank and energy.
        device: where the factors are computed; the weights' own when not given.

    Returns:
        Student module → factors, float32, on the device.
    """
    picks = picks_of(plan, map)
    energy = plan.lora.energy if ranks is None else None

    def factorise(item: PlanItem) -> LowRankFactors:
        matrix = cut_matrix(weights(item.teacher_module), item, picks[item.student_module])
        rank = item.rank if ranks is None else ranks[item.student_module]
        moved = matrix if device is None else matrix.to(device)
        return truncated_svd(moved, rank, plan.lora.svd, energy, seed)

    names = [item.student_module for item in plan.items]
    return dict(zip(names, each_on_a_thread(factorise, plan.items, device or "cpu"), strict=True))


def cut_matrix(weight: Float[Tensor, "_ _"], item: PlanItem, pick: Pick) -> Float[Tensor, "_ _"]:
    """The student-shaped matrix that a LoRA is to start from, `[out, in]` of its product.

    PEFT's LoRA of an embedding multiplies to `[hidden, vocab]`, the transpose of what is stored.
    """
    if pick.entries is not None:
        chosen = _index(pick.entries, weight)
        matrix = weight.reshape(-1).index_select(0, chosen).reshape(item.shape)
    else:
        assert pick.rows is not None
        assert pick.cols is not None
        matrix = _take(_take(weight, 0, pick.rows), 1, pick.cols)
    if pick.kept is not None:
        taken = _index(pick.kept, weight)
        mask = torch.zeros(matrix.numel(), dtype=matrix.dtype, device=matrix.device)
        matrix = matrix * mask.index_fill(0, taken, 1).reshape(matrix.shape)
    return matrix.T if item.role == "embed" else matrix


def _take(weight: Tensor, dim: int, chosen: Int[ndarray, " _"]) -> Tensor:
    """Rows or columns of a matrix; neighbours are a view, and nothing is copied or read."""
    first, count = int(chosen[0]), len(chosen)
    if np.array_equal(chosen, np.arange(first, first + count)):
        return weight.narrow(dim, first, count)
    return weight.index_select(dim, _index(chosen, weight))


def _index(chosen: Int[ndarray, " _"], weight: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(chosen)).to(weight.device)

"""Truncated SVD of the extracted matrices into low-rank factors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nuggets.errors import NonFinite

OVERSAMPLING = 16
"""Extra random directions beyond the rank (Halko, Martinsson & Tropp 2011, section 4.3)."""
POWER_ITERATIONS = 4
"""Passes that sharpen the randomised range; weights have slowly falling spectra."""


@dataclass(frozen=True, eq=False)
class LowRankFactors:
    """B·A ≈ W, float32: `B = U_r Σ_r` is `[out, r]`, `A = V_rᵀ` is `[r, in]` (eq. 6).

    Attributes:
        a: `[r, in]`, orthonormal rows.
        b: `[out, r]`.
        singular_values: `[r]`, descending.
        energy: share of ‖W‖² that B·A keeps, measured, 0 to 1.
    """

    a: Float[Tensor, "r in"]
    b: Float[Tensor, "out r"]
    singular_values: Float[Tensor, " r"]
    energy: float

    @property
    def rank(self) -> int:
        """Rank r of the product."""
        return self.a.shape[0]

    def product(self) -> Float[Tensor, "out in"]:
        """B·A."""
        return self.b @ self.a


def truncated_svd(
    weight: Float[Tensor, "out in"],
    rank: int,
    method: Literal["randomized", "exact"] = "randomized",
    energy: float | None = None,
    seed: int = 0,
) -> LowRankFactors:
    """The best (or nearly best) rank-r approximation of a matrix.

    Computed in float32 (float64 inputs stay float64 inside) and returned in float32, so that
    the product subtracted from the student's base is the one the adapter adds.

    Args:
        weight: `[out, in]`.
        rank: r, at most the smaller side.
        method: `exact` is LAPACK's thin SVD; `randomized` a seeded range finder whose error is
            measured and returned as `energy`.
        energy: keep the smallest rank that reaches this share of ‖W‖², never above `rank`.
        seed: of the randomised method.

    Raises:
        NonFinite: if the matrix has NaN or infinite entries.
    """
    matrix = weight if weight.dtype == torch.float64 else weight.float()
    whole = float(torch.linalg.vector_norm(matrix)) ** 2
    if not math.isfinite(whole):  # any NaN or infinity reaches the norm: one pass is enough
        raise NonFinite("A matrix to factorise has NaN or infinite entries.")
    # Near full rank the random range is the whole space and an exact SVD costs no more.
    if method == "exact" or rank + OVERSAMPLING >= min(matrix.shape):
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    else:
        u, s, vh = _randomized(matrix, rank, seed)
    if energy is not None:
        reached = s.double().square().cumsum(0) >= energy * whole
        rank = min(rank, int((~reached).sum()) + 1)
    u, s, vh = _fix_signs(u[:, :rank], s[:rank], vh[:rank])
    kept = float(s.double().square().sum()) / whole if whole else 1.0
    return LowRankFactors(vh.float().contiguous(), (u * s).float(), s.float(), min(kept, 1.0))


def _randomized(matrix: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Torch's randomised SVD draws from the global generator: fork it, so nothing else moves."""
    devices = [matrix.device] if matrix.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        u, s, v = torch.svd_lowrank(matrix, q=rank + OVERSAMPLING, niter=POWER_ITERATIONS)
    return u, s, v.T


def _fix_signs(u: Tensor, s: Tensor, vh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Makes the largest entry of each row of Vᵀ positive: singular vectors have no sign."""
    largest = vh.abs().argmax(dim=1, keepdim=True)
    signs = vh.gather(1, largest).sign()
    return u * signs.T, s, vh * signs

"""Truncated SVD of the extracted matrices into low-rank factors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nuggets.compute.products import product, stored_whole
from nuggets.errors import NonFinite

KRYLOV_STEPS = 5
"""Blocks of the Krylov space; each costs one pass over the matrix and one over its transpose."""
_WIDTH = 8
"""Products with so many vectors at once, or a multiple, use a CPU's vector units fully."""


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
    # By rows first: one float32 norm of a whole matrix is off by parts in a thousand.
    whole = float(torch.linalg.vector_norm(matrix, dim=1).double().square().sum())
    if not math.isfinite(whole):  # any NaN or infinity reaches the norm: one pass is enough
        raise NonFinite("A matrix to factorise has NaN or infinite entries.")
    # Where the Krylov space would be the whole space, an exact SVD costs no more.
    if method == "exact" or KRYLOV_STEPS * _width(rank) >= min(matrix.shape):
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    else:
        u, s, vh = _randomized(matrix, rank, seed)
    if energy is not None:
        # ‖W‖² is the sum of all σ², so the ranks that do not reach the share yet are counted.
        reached = s.double().square().cumsum(0) >= energy * whole
        rank = min(rank, int((~reached).sum()) + 1)
    u, s, vh = _fix_signs(u[:, :rank], s[:rank], vh[:rank])
    share = float(s.double().square().sum()) / whole if whole else 1.0
    # Σ goes to B alone (eq. 6), and not as √Σ to both: A keeps orthonormal rows.
    return LowRankFactors(vh.float().contiguous(), (u * s).float(), s.float(), min(share, 1.0))


def _width(rank: int) -> int:
    """Random vectors that the Krylov space starts from: the rank or a little more, 16 at least."""
    return max(2 * _WIDTH, -(-rank // _WIDTH) * _WIDTH)


def _randomized(matrix: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Singular triplets from a randomised block Krylov space (Musco & Musco 2015, algorithm 2).

    All blocks of the power iteration are kept and not the last alone, so that ten passes over
    the matrix give more of the energy than ten passes of the randomised SVD with four power
    iterations, although each multiplies half as many vectors. Blocks are kept as rows: products
    with a row-major matrix are then fastest.
    """
    matrix = stored_whole(matrix)  # a window is read ten times: one copy is cheaper
    rows, cols = matrix.shape
    # Drawn on the CPU: every device factorises from the same start.
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(_width(rank), cols, generator=generator, dtype=matrix.dtype)
    images = [start.to(matrix.device)]  # rows of the basis times the matrix, after the start
    basis = matrix.new_empty(0, rows)  # orthonormal rows that span the Krylov space
    for _ in range(KRYLOV_STEPS):
        block = product(images[-1], matrix)  # [width, rows]: the block before times W Wᵀ
        for _ in range(2):  # twice is enough to be orthogonal to the last digit
            block = block - (block @ basis.T) @ basis
            block = torch.linalg.qr(block.T).Q.T
        basis = torch.cat([basis, block])
        images.append(product(block, matrix.T))
    # With K = basis [k, rows] and K W = (Q R)ᵀ = Rᵀ Qᵀ, the best W in this space is Kᵀ Rᵀ Qᵀ: the
    # SVD of the small Rᵀ [k, k] gives that of all. The images are at hand: no pass more over W.
    q, r = torch.linalg.qr(torch.cat(images[1:]).T)
    u, s, vh = torch.linalg.svd(r.T)
    return basis.T @ u, s, vh @ q.T


def _fix_signs(u: Tensor, s: Tensor, vh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Makes the largest entry of each row of Vᵀ positive: singular vectors have no sign."""
    # Libraries choose signs by chance: without this, factors of two machines could not be compared,
    # and a LoRA would start from other numbers though its product is the same.
    largest = vh.abs().argmax(dim=1, keepdim=True)
    signs = vh.gather(1, largest).sign()
    return u * signs.T, s, vh * signs

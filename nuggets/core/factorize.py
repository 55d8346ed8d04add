"""Truncated SVD of the extracted matrices into low-rank factors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from nuggets.core.threads import each_on_a_thread
from nuggets.errors import NonFinite

T = TypeVar("T")

KRYLOV_STEPS = 5
"""Blocks of the Krylov space after the first; each reads the matrix once."""
_PART = 1024
"""Rows that one thread multiplies and sums; fixed, so that rounding is."""
_CACHED = 128
"""Rows that are read from memory once and multiplied from both sides."""
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
    # Where the Krylov space would be the whole space, an exact SVD costs no more.
    if method == "exact" or (KRYLOV_STEPS + 1) * _width(rank) >= min(weight.shape):
        matrix = weight.to(_dtype(weight))
        whole = _finite(_squares(matrix))
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        b = u * s
    else:
        b, s, vh, whole = _randomized(weight, rank, seed)
    if energy is not None:
        reached = s.double().square().cumsum(0) >= energy * whole
        rank = min(rank, int((~reached).sum()) + 1)
    b, s, vh = _fix_signs(b[:, :rank], s[:rank], vh[:rank])
    kept = float(s.double().square().sum()) / whole if whole else 1.0
    return LowRankFactors(vh.float().contiguous(), b.float(), s.float(), min(kept, 1.0))


def _dtype(weight: Tensor) -> torch.dtype:
    """The number format that a matrix is factorised in."""
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def _squares(matrix: Tensor) -> float:
    """The sum of squares: by rows first, since one float32 norm is off by parts in a thousand."""
    return float(torch.linalg.vector_norm(matrix, dim=1).double().square().sum())


def _finite(whole: float) -> float:
    """The sum of squares, which any NaN or infinity reaches: no pass of its own is needed."""
    if not math.isfinite(whole):
        raise NonFinite("A matrix to factorise has NaN or infinite entries.")
    return whole


def _width(rank: int) -> int:
    """Random vectors that the Krylov space starts from: the rank or a little more, 16 at least."""
    return max(2 * _WIDTH, -(-rank // _WIDTH) * _WIDTH)


def _randomized(weight: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor, Tensor, float]:
    """`(B, σ, Vᵀ, ‖W‖²)` from a randomised block Krylov space (Musco & Musco 2015, algorithm 2).

    All blocks of the power iteration are kept and not the last alone, so that it gives more of
    the energy than the randomised SVD with four power iterations, although each multiplies half
    as many vectors. A step needs q·Wᵀ and q·Wᵀ·W: both are made while a few rows of W are in the
    cache, so that W is read once. With orthonormal rows Q, B = W·Qᵀ·V and A = Vᵀ·Q, where V
    diagonalises the Gram matrix of W·Qᵀ: nothing as long as W is factorised again.
    """
    whole = _finite(sum(_each_part(weight, partial(_squares_of, weight))))
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(_width(rank), weight.shape[1], generator=generator, dtype=_dtype(weight))
    block = start.to(weight.device)
    basis, images = block.new_empty(0, weight.shape[1]), []
    for step in range(KRYLOV_STEPS + 1):
        for _ in range(2):  # twice is enough to be orthogonal to the last digit
            block = block - (block @ basis.T) @ basis
            block = torch.linalg.qr(block.T).Q.T
        basis = torch.cat([basis, block])
        found = _each_part(weight, partial(_step, weight, block, step < KRYLOV_STEPS))
        images.append(torch.cat([image for image, _ in found], dim=1))
        block = torch.stack([back for _, back in found]).sum(dim=0)
    image = torch.cat(images)  # rows of the basis, times the matrix
    values, vectors = torch.linalg.eigh(image.double() @ image.T.double())
    turn = vectors.flip(1)[:, :rank].to(image.dtype)
    s = values.flip(0)[:rank].clamp_min(0).sqrt().to(image.dtype)
    return image.T @ turn, s, turn.T @ basis, whole


def _each_part(weight: Tensor, work: Callable[[slice], T]) -> list[T]:
    """Works on every part of a matrix's rows; on the CPU several at once, on a thread each."""
    size = _PART if weight.device.type == "cpu" else len(weight)
    parts = [slice(at, min(at + size, len(weight))) for at in range(0, len(weight), size)]
    return each_on_a_thread(work, parts, weight.device)


def _cached(weight: Tensor, rows: slice) -> Iterator[Tensor]:
    """Rows few enough for a CPU's cache, in the number format of the factors."""
    size = _CACHED if weight.device.type == "cpu" else len(weight)
    for few in weight[rows].split(size):
        yield few.to(_dtype(weight))


def _squares_of(weight: Tensor, rows: slice) -> float:
    return sum(_squares(few) for few in _cached(weight, rows))


def _step(weight: Tensor, block: Tensor, back: bool, rows: slice) -> tuple[Tensor, Tensor]:
    """A block times some rows' transpose and, to go on, that times those rows."""
    total, images = torch.zeros_like(block), []
    for few in _cached(weight, rows):
        images.append(block @ few.T)
        if back:
            total.addmm_(images[-1], few)
    return torch.cat(images, dim=1), total


def _fix_signs(b: Tensor, s: Tensor, vh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Makes the largest entry of each row of Vᵀ positive: singular vectors have no sign."""
    largest = vh.abs().argmax(dim=1, keepdim=True)
    signs = vh.gather(1, largest).sign()
    return b * signs.T, s, vh * signs

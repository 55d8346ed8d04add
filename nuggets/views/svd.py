"""What the SVD of an extraction keeps, and what its injection changes.

Meant for looking, not for training: one small matrix at a time, in float32 as in a transfer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray


class Injection(NamedTuple):
    """How a low-rank product changes a weight.

    Attributes:
        size: ‖s·B·A‖ ÷ ‖W‖, what the student would suffer if the base kept its place.
        left: largest entry of |(W − s·B·A) + s·B·A − W| ÷ largest of |W|: rounding alone.
    """

    size: float
    left: float


def kept_energy(matrix: Float[ndarray, "rows cols"]) -> Float[ndarray, " n_ranks"]:
    """Share of the squared entries that the best product of rank 1, 2, … keeps (Eckart–Young).

    Squared singular values are the eigenvalues of the smaller Gram matrix; in float64 that is
    exact enough for shares, and many times faster than an SVD.
    """
    wide = matrix.shape[0] < matrix.shape[1]
    tall = (matrix.T if wide else matrix).astype(np.float64)
    energy = np.cumsum(np.linalg.eigvalsh(tall.T @ tall)[::-1].clip(min=0))
    return energy / energy[-1] if energy[-1] > 0 else np.ones_like(energy)


def rank_reaching(kept: Float[ndarray, " n_ranks"], share: float) -> int:
    """The smallest rank that keeps a share of the energy, as the extraction chooses it.

    Args:
        kept: what `kept_energy` gave.
        share: 0 to 1.
    """
    return int(np.count_nonzero(kept < share)) + 1


def shuffled(matrix: Float[ndarray, "rows cols"], seed: int = 0) -> Float[ndarray, "rows cols"]:
    """The same entries in another order: same size, no structure."""
    return np.random.default_rng(seed).permutation(matrix.ravel()).reshape(matrix.shape)


def low_rank(matrix: Float[ndarray, "rows cols"], rank: int) -> Float[ndarray, "rows cols"]:
    """The nearest matrix of a rank, which is the B·A of the extraction, in the matrix's dtype."""
    exact = matrix.astype(np.float64)
    directions = np.linalg.eigh(exact.T @ exact)[1][:, -rank:]
    return (exact @ directions @ directions.T).astype(matrix.dtype)


def injection(
    weight: Float[ndarray, "rows cols"], product: Float[ndarray, "rows cols"]
) -> Injection:
    """What adding s·B·A to a weight does, with and without subtracting it from the base first."""
    left = np.abs((weight - product) + product - weight).max()
    return Injection(
        size=float(np.linalg.norm(product) / np.linalg.norm(weight)),
        left=float(left / np.abs(weight).max()),
    )

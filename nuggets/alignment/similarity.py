"""How alike the layers of two models are: measures on arrays, summed in float64.

Rows of every result are the teacher's layers, columns the student's.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy  # which imports `stats` when it is first used, half a second
from jaxtyping import Float
from numpy import ndarray

from nuggets.compute.products import cross_product, precision_of

# A feature whose spread is below this share of its size is constant but for rounding: float32
# steps are 6e-8 and float64 sums err by 1e-15.
_CONSTANT = 1e-12

Matrix = Float[ndarray, "teacher_layers student_layers"]


def cka_matrix(
    teacher_states: Float[ndarray, "teacher_layers n p"],
    student_states: Float[ndarray, "student_layers n q"],
) -> Matrix:
    """Linear centred kernel alignment of every teacher layer with every student layer.

    `‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖)` with centred columns and Frobenius norms (Kornblith et al. 2019,
    eq. 3 with linear kernels), for features X [n, p] and Y [n, q] of the same n tokens. 0 to 1;
    0 if either side is constant; invariant to rotation and scaling of either side. With few
    tokens and many features it is near 1 for anything: compare with shuffled tokens.
    """
    x = np.stack([_centred(layer) for layer in teacher_states])
    y = np.stack([_centred(layer) for layer in student_states])
    if x.shape[1] <= max(x.shape[2], y.shape[2]):
        # ‖XᵀY‖² = tr(XXᵀYYᵀ), a scalar product of Gram matrices: each layer's is one vector of
        # n² numbers, and all pairs of layers are one product.
        x, y = _grams(x).reshape(len(x), -1), _grams(y).reshape(len(y), -1)
        products = x @ y.T
        norms = (np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1))
    else:
        # One product per teacher layer with all student layers side by side: [p, layers, q].
        precision = precision_of(x[0].size * y[0].size // len(x[0]) * len(y))
        student = np.concatenate(list(y), axis=1).astype(precision)
        blocks = (cross_product(layer.astype(precision), student) for layer in x)
        squares = (np.square(block).sum(axis=0, dtype=np.float64) for block in blocks)
        products = np.stack([own.reshape(len(y), -1).sum(axis=1) for own in squares])
        norms = tuple(np.array([np.linalg.norm(z.T @ z) for z in side]) for side in (x, y))
    return _ratio(products, np.outer(*norms))


def subspace_matrix(
    teacher_reads: Float[ndarray, "teacher_layers roles n k"],
    student_reads: Float[ndarray, "student_layers roles n k"],
) -> Matrix:
    """Mean squared cosine of the principal angles between what two weight matrices compute.

    Matrices of different width share no axis, but they share the tokens. With `W = UΣVᵀ` and the
    inputs X [n, in] that W sees for n tokens, `reads = X·V_k` are its k strongest read-outs.
    They span a k-dimensional subspace of token space, which is also the one spanned by its k
    strongest outputs (`X·Wᵀ·U_k = X·V_k·Σ_k`). The similarity is `‖QₜᵀQₛ‖² / k` with Q an
    orthonormal basis of the centred read-outs (angles: Björck & Golub 1973).

    0 to 1; 1 for a matrix with itself; invariant to any rotation of the space that W reads, and
    to the scale of W. Two unrelated subspaces give k / (n − 1). Its limit: all k directions
    count alike, however much or little they vary over the tokens.

    Returns:
        The similarity of every pair of layers, averaged over the matrix roles; missing dimensions
        of a degenerate side count as cosine 0.
    """
    teacher, student = _bases(teacher_reads), _bases(student_reads)
    # Cosines of all roles of two layers at once, [roles, k, k]; each is at most 1.
    overlaps = [[np.square(t.transpose(0, 2, 1) @ s).sum((1, 2)) for s in student] for t in teacher]
    return np.minimum(np.mean(overlaps, axis=2) / teacher_reads.shape[3], 1.0)


def profile_correlation(
    teacher_totals: Float[ndarray, "teacher_layers roles"],
    student_totals: Float[ndarray, "student_layers roles"],
    method: Literal["pearson", "spearman"] = "pearson",
) -> Matrix:
    """Correlation of the layers' log sensitivity profiles over matrix roles.

    Columns may be roles × tasks: the more there are, the more the number says. Raw profiles look
    alike everywhere, so a high value alone proves little.

    Args:
        teacher_totals: summed sensitivity per layer and role, all ≥ 0.
        student_totals: the same roles of the student.
        method: Pearson's r of the logs, or Spearman's rank correlation.

    Returns:
        −1 to 1; 0 where a profile is constant.
    """
    sides = []
    for totals in (teacher_totals, student_totals):
        positive = totals[totals > 0]
        # An unused matrix is as good as the least used one: log 0 would drown the others.
        logs = np.log(np.maximum(totals, positive.min() if positive.size else 1.0))
        ranked = scipy.stats.rankdata(logs, axis=1) if method == "spearman" else logs
        # Centred and of norm 1, so that a scalar product of two profiles is their correlation.
        sides.append(np.stack([_centred(row[:, None])[:, 0] for row in ranked]))
    return np.clip(sides[0] @ sides[1].T, -1.0, 1.0)


def _centred(x: Float[ndarray, "n p"]) -> Float[ndarray, "n p"]:
    """Features in float64 around their mean, scaled to Frobenius norm 1 (or 0 if constant)."""
    x = x.astype(np.float64)
    largest = np.abs(x).max(initial=0.0)
    x = x / largest if largest > 0 else x  # squares of extreme values would over- or underflow
    spread = x - x.mean(axis=0)
    constant = np.linalg.norm(spread, axis=0) <= _CONSTANT * np.linalg.norm(x, axis=0)
    spread[:, constant] = 0.0
    norm = np.linalg.norm(spread)
    return spread / norm if norm > 0 else spread


def _grams(x: Float[ndarray, "layers n p"]) -> Float[ndarray, "layers n n"]:
    return x @ x.transpose(0, 2, 1)


def _ratio(products: Matrix, norms: Matrix) -> Matrix:
    ratio = np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
    return np.clip(ratio, 0.0, 1.0)  # rounding can pass 1 by 1e-16


def _bases(reads: Float[ndarray, "layers roles n k"]) -> list[Float[ndarray, "roles n k"]]:
    """Orthonormal bases of the centred columns; zero columns where the rank is below k."""
    return [np.stack([_basis(role) for role in layer]) for layer in reads]


def _basis(reads: Float[ndarray, "n k"]) -> Float[ndarray, "n _"]:
    u, s, _ = np.linalg.svd(_centred(reads), full_matrices=False)
    # Values below float32's resolution are noise of the forward pass, not directions.
    return u * (s > 1e-6 * s.max(initial=0.0))

"""Linear maps from the states of one model to those of another, in float64."""

from __future__ import annotations

import numpy as np
import scipy  # which imports `linalg` when it is first used, a fifth of a second
from jaxtyping import Float
from numpy import ndarray

from nuggets.errors import BadInput

PENALTY = 1e-2
"""Default ridge penalty, as a share of the mean eigenvalue of the inputs' scatter matrix."""


def ridge_map(
    x: Float[ndarray, "n p"], y: Float[ndarray, "n q"], penalty: float = PENALTY
) -> tuple[Float[ndarray, "p q"], Float[ndarray, " q"]]:
    """The affine map `x·W + b ≈ y` of least squares with a ridge penalty (Hoerl & Kennard 1970).

    `W = (XᵀX + λI)⁻¹ XᵀY` on centred X and Y, `λ = penalty · trace(XᵀX) / p`: relative to the
    mean eigenvalue, so that it means the same at every layer however large its states are. With
    fewer tokens than features the equal form `Xᵀ (XXᵀ + λI)⁻¹ Y` is solved instead.

    Returns:
        `(W, b)` in float64.

    Raises:
        BadInput: if there is no token, or the penalty is too small for what the tokens determine.
    """
    n, p = x.shape
    if n == 0 or penalty < 0:
        raise BadInput(f"A linear map needs tokens and a penalty ≥ 0, not {n} and {penalty:g}.")
    # Forming XᵀX squares the condition number: in float32 a weak direction would be noise.
    x, y = x.astype(np.float64), y.astype(np.float64)
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    x, y = x - x_mean, y - y_mean
    ridge = penalty * float(np.square(x).sum()) / p
    if not x.any():
        return np.zeros((p, y.shape[1])), y_mean  # constant inputs explain nothing
    try:
        # Whichever scatter matrix is smaller is factorised: [n, n] with few tokens, else [p, p].
        weight = x.T @ _solve(x @ x.T, ridge, y) if n < p else _solve(x.T @ x, ridge, x.T @ y)
    except scipy.linalg.LinAlgError:
        raise BadInput(
            f"{n} tokens do not determine a linear map from {p} features with a ridge penalty of "
            f"{penalty:g}. Raise the penalty or give more samples."
        ) from None
    return weight, y_mean - x_mean @ weight  # (x − x̄)·W + ȳ, without the penalty on the offset


def _solve(scatter: ndarray, ridge: float, right: ndarray) -> ndarray:
    scatter.flat[:: len(scatter) + 1] += ridge  # the diagonal, in place
    # Cholesky: symmetric, positive definite by the penalty, half the work of a general solve.
    return scipy.linalg.cho_solve(scipy.linalg.cho_factor(scatter, overwrite_a=True), right)


def r2_matrix(
    teacher_fit: Float[ndarray, "teacher_layers n p"],
    student_fit: Float[ndarray, "student_layers n q"],
    teacher_test: Float[ndarray, "teacher_layers m p"],
    student_test: Float[ndarray, "student_layers m q"],
    penalty: float = PENALTY,
) -> Float[ndarray, "teacher_layers student_layers"]:
    """How much of each student layer a linear map from each teacher layer explains.

    `R² = 1 − Σ(y − ŷ)² / Σ(y − ȳ)²`, summed over features and held-out tokens: features with a
    large variance weigh more. At most 1; below 0 where the map is worse than the mean.

    Args:
        teacher_fit: states on which the maps are fitted.
        student_fit: the student's states of the same tokens.
        teacher_test: states of other tokens.
        student_test: the student's states of those.
        penalty: as in `ridge_map`.

    Returns:
        R² per pair of layers; 0 where the student's states are constant.
    """
    n_student, n, q = student_fit.shape
    # All student layers side by side are one target [n, n_student · q]: least squares solves its
    # columns independently, so one factorisation per teacher layer serves all of them.
    targets = student_fit.transpose(1, 0, 2).reshape(n, n_student * q)
    test = student_test.astype(np.float64)
    total = np.square(test - test.mean(axis=1, keepdims=True)).sum(axis=(1, 2))
    rows = []
    for fit, held_out in zip(teacher_fit, teacher_test, strict=True):
        weight, bias = ridge_map(fit, targets, penalty)
        mapped = (held_out.astype(np.float64) @ weight + bias).reshape(-1, n_student, q)
        error = np.square(test - mapped.transpose(1, 0, 2)).sum(axis=(1, 2))  # [n_student]
        rows.append(1.0 - np.divide(error, total, out=np.ones_like(total), where=total > 0))
    return np.stack(rows)

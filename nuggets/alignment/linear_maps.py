"""Linear maps from the states of one model to those of another, solved in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy  # which imports `linalg` when it is first used, a fifth of a second
from jaxtyping import Float
from numpy import ndarray

from nuggets.compute.products import cross_product, precision_of
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
    solve, x_mean = _ridge(x, penalty)
    y = y.astype(np.float64)
    y_mean = y.mean(axis=0)
    weight = solve(y - y_mean)
    return weight, y_mean - x_mean @ weight  # (x − x̄)·W + ȳ, without the penalty on the offset


def _ridge(
    x: Float[ndarray, "n p"], penalty: float
) -> tuple[Callable[[Float[ndarray, "n q"]], Float[ndarray, "p q"]], Float[ndarray, " p"]]:
    """What gives W for centred Y, and x̄: `ridge_map` in two steps, for Y in float32 or 64."""
    n, p = x.shape
    if n == 0 or penalty < 0:
        raise BadInput(f"A linear map needs tokens and a penalty ≥ 0, not {n} and {penalty:g}.")
    # Forming XᵀX squares the condition number: in float32 a weak direction would be noise.
    x = x.astype(np.float64)
    x_mean = x.mean(axis=0)
    x = x - x_mean
    if not x.any():
        return lambda y: np.zeros((p, y.shape[1])), x_mean  # constant inputs explain nothing
    # Whichever scatter matrix is smaller is factorised: [n, n] with few tokens, else [p, p].
    scatter = x @ x.T if n < p else x.T @ x
    # The diagonal, in place: λ, relative to the mean eigenvalue.
    scatter.flat[:: len(scatter) + 1] += penalty * float(np.square(x).sum()) / p
    try:
        # Cholesky: symmetric, positive definite by the penalty, half the work of a general solve.
        factor = scipy.linalg.cho_factor(scatter, overwrite_a=True)
    except scipy.linalg.LinAlgError:
        raise BadInput(
            f"{n} tokens do not determine a linear map from {p} features with a ridge penalty of "
            f"{penalty:g}. Raise the penalty or give more samples."
        ) from None
    if n < p:
        return lambda y: x.T @ scipy.linalg.cho_solve(factor, y), x_mean
    return lambda y: scipy.linalg.cho_solve(factor, cross_product(x.astype(y.dtype), y)), x_mean


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
    targets = student_fit.transpose(1, 0, 2).reshape(n, n_student * q).astype(np.float64)
    mean = targets.mean(axis=0)
    precision = precision_of(targets.size * teacher_fit.shape[2])
    targets = (targets - mean).astype(precision)
    # Around the means of the fit, as maps are: what they give is then one product.
    test = student_test.transpose(1, 0, 2).reshape(-1, n_student * q) - mean
    total = _by_layer(np.square(test - test.mean(axis=0)), n_student)
    test = test.astype(precision)
    rows = []
    for fit, held_out in zip(teacher_fit, teacher_test, strict=True):
        solve, x_mean = _ridge(fit, penalty)
        weight = solve(targets).astype(precision)
        missed = test - cross_product((held_out - x_mean).T.astype(precision), weight)
        error = _by_layer(np.square(missed, out=missed), n_student)
        rows.append(1.0 - np.divide(error, total, out=np.ones_like(total), where=total > 0))
    return np.stack(rows)


def _by_layer(squares: Float[ndarray, "m _"], n_layers: int) -> Float[ndarray, " n_layers"]:
    """Sums of columns that belong to the same layer, in float64."""
    return squares.sum(axis=0, dtype=np.float64).reshape(n_layers, -1).sum(axis=1)

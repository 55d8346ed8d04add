"""The contiguous window of largest sum, exactly. Torch-free."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

TIE = 1e-12
"""Sums closer than this share of the matrix's total are ties; the lowest index wins."""


class Window(NamedTuple):
    """A window's top-left corner and the sum inside it."""

    row: int
    col: int
    mass: float


def window_sums(
    values: Float[ndarray, "rows cols"], height: int, width: int
) -> Float[ndarray, "_ _"]:
    """Sums of every `height` × `width` window, float64, indexed by the top-left corner.

    A strip of `height` rows is summed once and then moved down: each step adds the row that
    enters and takes off the one that leaves, so the matrix is read once and rounding grows with
    one side of it and not with its area. The strips are then treated likewise along the columns.
    """
    return _slide(_slide(values, height).T, width).T


def _slide(values: Float[ndarray, "n _"], size: int) -> Float[ndarray, "_ _"]:
    """Sums of `size` consecutive rows, starting at every row, float64."""
    sums = np.empty((len(values) - size + 1, values.shape[1]))
    np.sum(values[:size], axis=0, dtype=np.float64, out=sums[0])
    np.subtract(values[size:], values[:-size], dtype=np.float64, out=sums[1:])
    return np.cumsum(sums, axis=0, out=sums)


def find_window(
    values: Float[ndarray, "rows cols"], height: int, width: int
) -> tuple[Window, Window | None]:
    """The window of largest sum, and the best one that mostly lies elsewhere.

    Replaces the published loop over all windows (1–3 million per matrix of Llama-2-13B) by one
    pass over the matrix.

    Args:
        values: non-negative scores, any float dtype; sums are float64.
        height: rows of the window.
        width: columns of the window.

    Returns:
        The best window and the runner-up: the best among those whose corner is at least half
        a window away in one direction; None where the matrix has no room for one.
    """
    sums = window_sums(values, height, width)
    slack = TIE * float(values.sum(dtype=np.float64))
    best = _first_of_largest(sums, slack)
    rows, cols = np.ogrid[: sums.shape[0], : sums.shape[1]]
    near = (np.abs(rows - best.row) < -(-height // 2)) & (np.abs(cols - best.col) < -(-width // 2))
    if near.all():
        return best, None
    sums[near] = -np.inf
    return best, _first_of_largest(sums, slack)


def _first_of_largest(sums: Float[ndarray, "_ _"], slack: float) -> Window:
    flat = int(np.argmax(sums >= sums.max() - slack))
    row, col = divmod(flat, sums.shape[1])
    return Window(row, col, float(sums[row, col]))

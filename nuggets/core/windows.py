"""The contiguous window of largest sum, exactly, at the speed of memory. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from nuggets.core.threads import cpu_threads

TIE = 1e-12
"""Sums closer than this share of the matrix's total are ties; the lowest index wins."""
_BLOCK = 32
"""Rows that are widened to float64 at once: they stay in the cache until they are summed."""
_PART = 512
"""Rows of the first strip whose sum one thread makes; fixed, so that rounding is."""
_PER_THREAD = 1_000_000
"""Entries that are worth a thread of their own."""


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
    The result does not depend on the number of threads.
    """
    return _slid_right(_strips(values, height), width)


def _slid_right(strips: Float[ndarray, "_ m"], width: int) -> Float[ndarray, "_ _"]:
    """Sums of `width` consecutive columns of every strip."""
    sums = np.empty((len(strips), strips.shape[1] - width + 1))

    def slide_right(rows: slice) -> None:
        np.sum(strips[rows, :width], axis=1, out=sums[rows, 0])
        np.subtract(strips[rows, width:], strips[rows, :-width], out=sums[rows, 1:])
        np.cumsum(sums[rows], axis=1, out=sums[rows])

    _share_out(slide_right, len(sums), strips.size)
    return sums


def _strips(values: Float[ndarray, "n m"], height: int) -> Float[ndarray, "_ m"]:
    """Sums of `height` consecutive rows, starting at every row, float64."""
    strips = np.empty((len(values) - height + 1, values.shape[1]))
    parts = np.zeros((-(-height // _PART), values.shape[1]))

    def sum_first(chosen: slice) -> None:
        wide = np.empty((_BLOCK, values.shape[1]))
        for part in range(chosen.start, chosen.stop):
            for start in range(part * _PART, min((part + 1) * _PART, height), _BLOCK):
                block = wide[: min(_BLOCK, height - start)]
                block[:] = values[start : start + len(block)]
                parts[part] += block.sum(axis=0)

    def exchange_rows(rows: slice) -> None:
        leaving = np.empty((_BLOCK, values.shape[1]))
        for start in range(rows.start, rows.stop, _BLOCK):
            stop = min(start + _BLOCK, rows.stop)
            change, left = strips[start + 1 : stop + 1], leaving[: stop - start]
            change[:] = values[start + height : stop + height]
            left[:] = values[start:stop]
            change -= left

    def slide_down(cols: slice) -> None:
        for row in range(len(strips) - 1):
            strips[row + 1, cols] += strips[row, cols]

    _share_out(sum_first, len(parts), height * values.shape[1])
    parts.sum(axis=0, out=strips[0])
    _share_out(exchange_rows, len(strips) - 1, strips.size)
    _share_out(slide_down, values.shape[1], strips.size)
    return strips


def _share_out(work: Callable[[slice], None], n: int, entries: int) -> None:
    """Runs `work` on slices of 0…n, on as many threads as `entries` are worth."""
    parts = max(1, min(cpu_threads(), n, entries // _PER_THREAD))
    slices = [slice(n * part // parts, n * (part + 1) // parts) for part in range(parts)]
    if parts == 1:
        work(slices[0])
        return
    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(work, slices))


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
    strips = _strips(values, height)
    # The total gives the slack of ties alone: the first strip is summed, float32 does for the rest.
    rest = values[height:].sum(dtype=np.result_type(values, np.float32))
    slack = TIE * (float(strips[0].sum()) + float(rest))
    sums = _slid_right(strips, width)
    best = _first_of_largest(sums, slack)
    near = sums[_near(best.row, height), _near(best.col, width)]
    if near.shape == sums.shape:
        return best, None
    near[:] = -np.inf
    return best, _first_of_largest(sums, slack)


def _near(corner: int, size: int) -> slice:
    """Corners less than half a window away."""
    half = -(-size // 2)
    return slice(max(corner - half + 1, 0), corner + half)


def _first_of_largest(sums: Float[ndarray, "_ _"], slack: float) -> Window:
    flat = int(np.argmax(sums >= sums.max() - slack))
    row, col = divmod(flat, sums.shape[1])
    return Window(row, col, float(sums[row, col]))

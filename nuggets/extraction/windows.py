"""The contiguous window of largest sum, exactly, at the speed of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from nuggets.compute.threads import cpu_threads

TIE = 1e-12
"""Sums closer than this share of the matrix's total are ties; the lowest index wins."""
_BLOCK = 32
"""Rows that are widened to float64 at once: they stay in the cache until they are summed."""
_PART = 512
"""Rows of the first strip whose sum one thread makes; fixed, so that rounding is."""
_STRIPS = 256
"""Strips in memory at once: all of them would be a float64 copy of most of the matrix."""
_PER_THREAD = 1_000_000
"""Entries that are worth a thread of their own."""
ShareOut = Callable[[Callable[[slice], None], int], None]


class Window(NamedTuple):
    """A window's top-left corner and the sum inside it."""

    row: int
    col: int
    mass: float


def window_sums(
    values: Float[ndarray, "rows cols"], height: int, width: int
) -> tuple[Float[ndarray, "_ _"], float]:
    """Sums of every `height` × `width` window, float64, by top-left corner; and of the matrix.

    A strip of `height` rows is summed once and then moved down: each step adds the row that
    enters and takes off the one that leaves, so the matrix is read once and rounding grows with
    one side of it and not with its area. The strips are then treated likewise along the columns,
    a few of them at a time. The result does not depend on the number of threads. The sum of the
    matrix is good to float32 only.
    """
    # Float64, since a sum over 4,096 × 4,096 float32 scores has more digits than float32: with the
    # published table in the dtype of the weights, rounding can choose another window.
    sums = np.empty((len(values) - height + 1, values.shape[1] - width + 1))
    with _threads(values.size) as share_out:
        strip = _first_strip(values, height, share_out)
        # The total only scales the slack for ties: float32 is enough, and needs no wide copy.
        rest = values[height:].sum(dtype=np.result_type(values, np.float32))
        total = float(strip.sum()) + float(rest)
        _slide_right(strip[None], width, sums[:1], slice(0, 1))
        buffer = np.empty((min(_STRIPS, len(sums)), len(strip)))  # [strips, columns], used again
        for first in range(1, len(sums), _STRIPS):
            part = sums[first : first + _STRIPS]
            strips = buffer[: len(part)]
            # Down: columns are independent of each other, right: rows are. Shared out that way,
            # every sum is added up by one thread in one order, however many threads there are.
            share_out(partial(_slide_down, values, height, first, strip, strips), len(strip))
            share_out(partial(_slide_right, strips, width, part), len(part))
    return sums, total


def _first_strip(
    values: Float[ndarray, "n m"], height: int, share_out: ShareOut
) -> Float[ndarray, " m"]:
    """The sum of the first `height` rows, float64."""
    parts = np.zeros((-(-height // _PART), values.shape[1]))  # [⌈height / _PART⌉, columns]

    def sum_parts(mine: slice) -> None:
        wide = np.empty((_BLOCK, values.shape[1]))
        for part in range(mine.start, mine.stop):
            for start in range(part * _PART, min((part + 1) * _PART, height), _BLOCK):
                block = wide[: min(_BLOCK, height - start)]
                block[:] = values[start : start + len(block)]
                parts[part] += block.sum(axis=0)

    share_out(sum_parts, len(parts))
    return parts.sum(axis=0)


def _slide_down(
    values: Float[ndarray, "n m"],
    height: int,
    first: int,
    strip: Float[ndarray, " m"],
    strips: Float[ndarray, "k m"],
    cols: slice,
) -> None:
    """Fills some columns of `strips`, which start at row `first`; `strip` is the one before.

    `strip[i + 1] = strip[i] + values[i + height] − values[i]`. Afterwards `strip` is the last.
    """
    buffer = np.empty((_BLOCK, cols.stop - cols.start))
    above = strip[cols]
    for start in range(0, len(strips), _BLOCK):
        change = strips[start : start + _BLOCK, cols]
        leaving, row = buffer[: len(change)], first - 1 + start
        # Assigning widens float32 to float64 without a temporary; only then are two rows of
        # about the same size subtracted, so that no digit of the difference is lost.
        change[:] = values[row + height : row + height + len(change), cols]
        leaving[:] = values[row : row + len(change), cols]
        change -= leaving
        for strip_below in change:  # still holds the change; added to the strip above it
            strip_below += above
            above = strip_below
    strip[cols] = above


def _slide_right(
    strips: Float[ndarray, "k m"], width: int, sums: Float[ndarray, "k _"], rows: slice
) -> None:
    """Fills rows of `sums`: those of `width` consecutive columns of each strip."""
    # The same recurrence along the columns: the first window, then its changes, then their sum.
    np.sum(strips[rows, :width], axis=1, out=sums[rows, 0])
    np.subtract(strips[rows, width:], strips[rows, :-width], out=sums[rows, 1:])
    np.cumsum(sums[rows], axis=1, out=sums[rows])


@contextmanager
def _threads(entries: int) -> Iterator[ShareOut]:
    """A function that runs work on slices of 0…n, on as many threads as `entries` are worth."""
    parts = max(1, min(cpu_threads(), entries // _PER_THREAD))
    if parts == 1:
        yield lambda work, n: work(slice(0, n))
        return
    with ThreadPoolExecutor(parts) as pool:

        def share_out(work: Callable[[slice], None], n: int) -> None:
            slices = (slice(n * part // parts, n * (part + 1) // parts) for part in range(parts))
            list(pool.map(work, slices))

        yield share_out


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
    sums, total = window_sums(values, height, width)
    slack = TIE * total
    best = _first_of_largest(sums, slack)
    # The neighbours of the best window hold nearly the same entries: they say nothing about
    # whether there was a second place to choose.
    near = sums[_near(best.row, height), _near(best.col, width)]
    if near.shape == sums.shape:
        return best, None
    near[:] = -np.inf  # a view: this takes them out of `sums`
    return best, _first_of_largest(sums, slack)


def _near(corner: int, size: int) -> slice:
    """Corners less than half a window away."""
    half = -(-size // 2)
    return slice(max(corner - half + 1, 0), corner + half)


def _first_of_largest(sums: Float[ndarray, "_ _"], slack: float) -> Window:
    # Windows of the same mass differ in the last digits here: the first within the slack wins,
    # row by row, as it would in exact arithmetic.
    row_best = sums.max(axis=1)
    least = row_best.max() - slack
    row = int(np.argmax(row_best >= least))  # argmax of booleans: the first that is true
    col = int(np.argmax(sums[row] >= least))
    return Window(row, col, float(sums[row, col]))

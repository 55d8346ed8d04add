"""What the views show of one matrix: bins, profiles, windows, its neurons and heads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from nuggets.errors import BadInput
from nuggets.extraction.windows import find_window
from nuggets.models.architecture import ArchSpec, Axis
from nuggets.sensitivity.maps import SensitivityMap

MAX_SIDE = 256
"""A browser draws at most 512² cells smoothly; 256² leaves room for two maps."""

AXIS_NAMES: dict[Axis, str] = {
    "resid": "residual dimension",
    "q_heads": "query dimension",
    "kv_heads": "key/value dimension",
    "ffn": "FFN neuron",
    "vocab": "word",
    "head_dim": "head dimension",
}
Units = Literal["neurons", "heads"]


class Binned(NamedTuple):
    """A matrix in at most `MAX_SIDE`² blocks; `rows` and `cols` are the blocks' edges."""

    mean: Float[ndarray, "n_rows n_cols"]
    max: Float[ndarray, "n_rows n_cols"]
    rows: Int[ndarray, " n_rows_plus_1"]
    cols: Int[ndarray, " n_cols_plus_1"]


class Placed(NamedTuple):
    """A window on a matrix: where it starts, its size, and its share of the matrix's sum."""

    row: int
    col: int
    height: int
    width: int
    share: float


class Overlap(NamedTuple):
    """How many of the top units two tasks share, and how many would be shared by chance."""

    share: float
    chance: float
    k: int


def bin_matrix(
    matrix: Float[ndarray, "rows cols"],
    max_side: int = MAX_SIDE,
    rows: tuple[int, int] | None = None,
    cols: tuple[int, int] | None = None,
) -> Binned:
    """Mean (summed in float64) and max of blocks that are as equal as can be.

    Args:
        matrix: any size.
        max_side: most blocks in one direction.
        rows: only rows from the first to before the second, to look closer.
        cols: likewise.

    Raises:
        BadInput: if the part asked for is empty or outside.
    """
    top, bottom = rows or (0, matrix.shape[0])
    left, right = cols or (0, matrix.shape[1])
    if not (0 <= top < bottom <= matrix.shape[0] and 0 <= left < right <= matrix.shape[1]):
        raise BadInput(
            f"Rows {top}–{bottom} and columns {left}–{right} are not within a matrix of "
            f"{matrix.shape[0]} × {matrix.shape[1]}."
        )
    part = matrix[top:bottom, left:right]
    down, across = _edges(bottom - top, max_side), _edges(right - left, max_side)
    # Rows first, strip by strip: one pass over memory, and float64 only for one strip at a time.
    sums = np.empty((len(down) - 1, part.shape[1]))
    peaks = np.empty((len(down) - 1, part.shape[1]), part.dtype)
    for index, (start, stop) in enumerate(pairwise(down)):
        part[start:stop].sum(axis=0, dtype=np.float64, out=sums[index])
        part[start:stop].max(axis=0, out=peaks[index])
    blocks = np.add.reduceat(sums, across[:-1], axis=1)
    areas = np.outer(np.diff(down), np.diff(across))
    largest = np.maximum.reduceat(peaks, across[:-1], axis=1)
    return Binned(blocks / areas, largest, down + top, across + left)


def _edges(length: int, most: int) -> Int[ndarray, " _"]:
    count = min(length, most)
    return np.arange(count + 1) * length // count


def chosen_windows(
    matrix: Float[ndarray, "rows cols"], height: int, width: int
) -> tuple[Placed, Placed | None]:
    """The window of largest sum and the runner-up, with their shares of the matrix.

    Raises:
        BadInput: if the window is larger than the matrix.
    """
    if height > matrix.shape[0] or width > matrix.shape[1]:
        raise BadInput(
            f"A window of {height} × {width} does not fit into {matrix.shape[0]} × "
            f"{matrix.shape[1]}: the student's matrix is larger than the teacher's."
        )
    best, second = find_window(matrix, height, width)
    total = float(matrix.sum(dtype=np.float64))
    placed = [
        Placed(w.row, w.col, height, width, w.mass / total if total else 0.0)
        for w in (best, second)
        if w is not None
    ]
    return placed[0], placed[1] if len(placed) > 1 else None


def axis_name(spec: ArchSpec, role: str) -> tuple[str, str]:
    """What the rows and the columns of a role's weight index, in words."""
    out, into = spec.axes(role)
    return AXIS_NAMES[out], AXIS_NAMES[into]


def profile(values: Float[ndarray, " n"], most: int = 512) -> tuple[ndarray, ndarray]:
    """Positions and means of a row or column profile, at most `most` points.

    Means of equal blocks, so that the line keeps the profile's scale.
    """
    edges = _edges(len(values), most)
    means = np.add.reduceat(values, edges[:-1]) / np.diff(edges)
    return (edges[:-1] + edges[1:] - 1) / 2, means


def units_of(role: str) -> Units:
    """The units that a role belongs to: FFN matrices to neurons, attention to heads."""
    return "neurons" if role in ("gate", "up", "down") else "heads"


def unit_scores(map: SensitivityMap, units: Units) -> Float[ndarray, "n_layers n_units"]:
    """Sensitivity of every FFN neuron or attention head.

    A neuron is its row of gate and up and its column of down; a head is its rows of q and its
    columns of o. Keys and values are left out: with grouped queries several heads share them.
    """
    spec = map.spec
    if units == "neurons":
        return np.stack([_axis_sums(map, layer, "ffn") for layer in range(spec.n_layers)])
    sums = np.stack([_axis_sums(map, layer, "q_heads") for layer in range(spec.n_layers)])
    return sums.reshape(spec.n_layers, spec.n_heads, spec.head_dim).sum(axis=2)


def _axis_sums(map: SensitivityMap, layer: int, axis: Axis) -> Float[ndarray, " _"]:
    """Sums over everything in a layer that is indexed by an axis, per index."""
    sums = np.zeros(map.spec.size(axis))
    for matrix in map.spec.architecture.matrices:
        module = map.spec.module(matrix.role, layer)
        if matrix.out == axis:
            sums += map.rows[module]
        if matrix.into == axis:
            sums += map.cols[module]
    return sums


def top_units(scores: Float[ndarray, "n_layers n_units"], k: int) -> list[tuple[int, int, float]]:
    """The `k` most sensitive units as (layer, unit, share of the sum over all units).

    Ties go to the lowest layer, then the lowest unit.
    """
    flat = scores.reshape(-1)
    total = float(flat.sum()) or 1.0
    order = np.argsort(-flat, kind="stable")[:k]
    width = scores.shape[1]
    return [(int(i) // width, int(i) % width, float(flat[i]) / total) for i in order]


def overlap(all_scores: Sequence[Float[ndarray, "_ _"]], k: int) -> list[list[Overlap]]:
    """Share of the top `k` units that every two tasks have in common, beside chance.

    Chance is k / number of units: the mean share of two random choices.
    """
    n_units = all_scores[0].size if all_scores else 1
    k = max(1, min(k, n_units))
    tops = [{unit[:2] for unit in top_units(scores, k)} for scores in all_scores]
    return [[Overlap(len(a & b) / k, k / n_units, k) for b in tops] for a in tops]


def held_by_top(map: SensitivityMap, share: float) -> float:
    """How much of the sensitivity of all matrices the most sensitive `share` of entries holds.

    Raises:
        BadInput: if the map keeps only row and column sums.
    """
    entries = np.concatenate([map.matrix(module).ravel() for module in map.rows])
    k = max(1, round(share * entries.size))
    top = np.partition(entries, entries.size - k)[-k:]
    total = float(entries.sum(dtype=np.float64))
    return float(top.sum(dtype=np.float64)) / total if total else 0.0

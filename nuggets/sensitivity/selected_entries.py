"""What a matrix selector chose in one matrix, and how choices are kept with a map."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

Index = Int[ndarray, " _"]


@dataclass(frozen=True, eq=False)
class Pick:
    """The chosen entries of one teacher matrix.

    Attributes:
        rows: chosen row indices of the weight as stored `[out, in]`; None for `weights`.
        cols: chosen column indices; None for `weights`.
        entries: for `weights` only, flat indices of the chosen entries, ascending.
        mass: summed sensitivity of what was chosen.
        total: summed sensitivity of the whole matrix.
        runner_up: for windows, the next best corner `(row, col, mass)` that mostly lies elsewhere.
        kept: flat positions in the student-shaped choice of the entries that are taken, ascending;
            None takes all of them.
    """

    rows: Index | None
    cols: Index | None
    mass: float
    total: float
    entries: Index | None = None
    runner_up: tuple[int, int, float] | None = None
    kept: Index | None = None

    @property
    def shape(self) -> tuple[int, int] | None:
        """Rows and columns chosen; None for single entries."""
        if self.rows is None or self.cols is None:
            return None
        return len(self.rows), len(self.cols)


Picks = Mapping[str, Mapping[str, Pick]]
"""Kind of a selector → module → the rows and columns that it chose there."""


def top(scores: Float[ndarray, " n"], k: int) -> Index:
    """Indices of the `k` largest scores, ascending; ties go to the lowest index."""
    if k >= len(scores):
        return np.arange(len(scores))
    # Sorting all would take ten times as long on matrices of millions of entries.
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    above = np.flatnonzero(scores > least)
    ties = np.flatnonzero(scores == least)[: k - len(above)]
    return np.sort(np.concatenate([above, ties]))


def top_entries(
    matrices: Iterable[tuple[str, Float[ndarray, "_ _"]]], k: int
) -> tuple[Float[ndarray, " k"], Index]:
    """The `k` largest entries of several matrices, one of which is in memory at a time.

    Returns:
        Their values, largest first, and their places in all matrices laid end to end; ties go to
        the lowest place. Fewer than `k` where there are no more.
    """
    values, places = np.zeros(0, np.float32), np.zeros(0, np.int64)
    start = 0
    for _, matrix in matrices:
        entries = matrix.reshape(-1)
        # Most entries of later matrices are below the least that is kept, and need no sorting.
        able = (
            np.flatnonzero(entries > values.min()) if len(values) == k else np.arange(len(entries))
        )
        able = able[top(entries[able], k)]
        values = np.concatenate([values, entries[able]])
        places = np.concatenate([places, start + able])
        kept = top(values, k)
        values, places = values[kept], places[kept]
        start += len(entries)
    order = np.argsort(-values, kind="stable")
    return values[order], places[order]


def keep_share(pick: Pick, scores: Float[ndarray, "_ _"], ratio: float) -> Pick:
    """The same choice with only its most sensitive entries taken; the others become 0.

    Args:
        pick: what a selector chose.
        scores: the teacher matrix's sensitivity, entry by entry.
        ratio: share of the chosen entries that are taken, above 0; at least one is.
    """
    if ratio >= 1:
        return pick
    if pick.entries is not None:
        chosen = scores.reshape(-1)[pick.entries]
    else:
        assert pick.rows is not None
        assert pick.cols is not None
        chosen = scores[pick.rows][:, pick.cols].reshape(-1)
    kept = top(chosen, max(1, math.ceil(ratio * chosen.size)))
    return replace(pick, kept=kept, mass=float(chosen[kept].sum(dtype=np.float64)))


def pick_tensors(picks: Picks) -> dict[str, ndarray]:
    """The indices of choices, under the names that a saved map gives them."""
    found = {}
    for kind, chosen in picks.items():
        for module, pick in chosen.items():
            found[f"{kind}.rows.{module}"] = np.asarray(pick.rows, np.int64)
            found[f"{kind}.cols.{module}"] = np.asarray(pick.cols, np.int64)
    return found


def pick_head(picks: Picks) -> dict[str, Any]:
    """The sums of choices, as JSON holds them: every float comes back bit for bit."""
    return {
        kind: {module: [p.mass, p.total, p.runner_up] for module, p in chosen.items()}
        for kind, chosen in picks.items()
    }


def read_picks(head: Mapping[str, Any], tensor: Callable[[str], ndarray]) -> Picks:
    """Choices from what `pick_head` and `pick_tensors` made."""
    return {
        kind: {
            module: Pick(
                tensor(f"{kind}.rows.{module}"),
                tensor(f"{kind}.cols.{module}"),
                mass,
                total,
                runner_up=None if corner is None else tuple(corner),
            )
            for module, (mass, total, corner) in chosen.items()
        }
        for kind, chosen in head.items()
    }

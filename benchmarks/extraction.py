"""Window search and truncated SVD on matrices of Llama-2-13B → 7B, against the published ones."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks import published
from benchmarks.rows import Row, timed
from nuggets.compute.svd import truncated_svd
from nuggets.extraction.windows import find_window

SHAPES = {
    "q_proj 13B → 7B": ((5120, 5120), (4096, 4096)),
    "up_proj 13B → 7B": ((13824, 5120), (11008, 4096)),
}
RANK = 16
ROUNDS = 5
"""Of ours, the fastest of so many: they take tenths of a second. The published ones run once."""


def measure(scale: int = 1) -> list[Row]:
    """One row per matrix; `scale` divides every side, for a quick look."""
    rows = []
    for name, shapes in SHAPES.items():
        large, small = (tuple(side // scale for side in shape) for shape in shapes)
        rows.append(_row(name, large, small))
    return rows


def _row(name: str, large: tuple[int, ...], small: tuple[int, ...]) -> Row:
    weight, scores = random_matrix(large)
    ours_search, found = timed(lambda: find_window(scores.numpy(), *small), ROUNDS)
    corner = (found[0].row, found[0].col)
    window = weight[corner[0] : corner[0] + small[0], corner[1] : corner[1] + small[1]]
    ours_svd, factors = timed(lambda: truncated_svd(window, RANK), ROUNDS)
    theirs_search, theirs = timed(lambda: published.window(scores.double(), *small))
    theirs_svd, (b, a) = timed(lambda: published.factors(window, RANK))
    best = float((b @ a).double().square().sum() / window.double().square().sum())
    return Row(
        f"{name}: window search + SVD, r {RANK}",
        f"{theirs_search:.1f} + {theirs_svd:.1f} s",
        f"{ours_search:.3f} + {ours_svd:.3f} s",
        f"{(theirs_search + theirs_svd) / (ours_search + ours_svd):.0f}×",
        "≥ 200×",
        ("same window" if corner == theirs else f"other window: {corner}, {theirs}")
        + f"; energy {factors.energy / best:.3f} of exact",
    )


def random_matrix(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Weights, and scores with row and column profiles, so that the best window is no tie.

    Random weights are the worst case of the randomised SVD: their spectrum hardly falls.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator) * 0.02
    rows, cols = (torch.rand(n, generator=generator) for n in shape)
    return weight, weight.abs() * rows[:, None] * cols

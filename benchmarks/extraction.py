"""Window search and truncated SVD on matrices of Llama-2-13B → 7B."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import published
from nuggets.core.factorize import truncated_svd
from nuggets.core.windows import find_window

TITLE = "Extraction of one matrix, rank 16: the published procedure / nuggets"
SHAPES = {
    "q_proj, 13B → 7B": ((5120, 5120), (4096, 4096)),
    "up_proj, 13B → 7B": ((13824, 5120), (11008, 4096)),
}
RANK = 16


def measure() -> list[dict[str, str]]:
    """One row per matrix: seconds of both procedures and their ratio, in one run."""
    return [_row(name, *shapes) for name, shapes in SHAPES.items()]


def _row(name: str, large: tuple[int, int], small: tuple[int, int]) -> dict[str, str]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(large, generator=generator) * 0.02
    # Row and column profiles as real maps have them, so that the best window is not a tie.
    rows, cols = (torch.rand(n, generator=generator) for n in large)
    scores = weight.abs() * rows[:, None] * cols
    ours_search, ours = _timed(lambda: find_window(scores.numpy(), *small))
    corner = (ours[0].row, ours[0].col)
    window = weight[corner[0] : corner[0] + small[0], corner[1] : corner[1] + small[1]]
    ours_svd, factors = _timed(lambda: truncated_svd(window, RANK))
    theirs_search, theirs = _timed(lambda: published.window(scores.double(), *small))
    theirs_svd, (b, a) = _timed(lambda: published.factors(window, RANK))
    best = float((b @ a).square().sum() / window.square().sum())
    return {
        "matrix": name,
        "same window": str(corner == theirs),
        "energy kept / best": f"{factors.energy / best:.4f}",
        "search": f"{theirs_search:.1f} / {ours_search:.2f} s",
        "SVD": f"{theirs_svd:.1f} / {ours_svd:.2f} s",
        "ratio": f"{(theirs_search + theirs_svd) / (ours_search + ours_svd):.0f}×",
    }


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result

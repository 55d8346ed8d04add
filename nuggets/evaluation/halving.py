"""Batches of an evaluation that find no memory, computed in halves. Imports torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from nuggets.compute.memory import is_out_of_memory, memory_reported
from nuggets.progress import Progress

T = TypeVar("T")
R = TypeVar("R")


FULL = 2048
"""Tokens of a forward pass from which on its time follows from them and not from the calls."""
ALIKE = 0.8
"""Of the longest row: shorter ones go into the next batch once this one is full."""


class Halving:
    """Works on batches; the first that finds no memory is halved, and so is every later one.

    As in training there is one retry: what fails after it is one sentence. No item's outcome
    depends on its batch, so halves give what the whole would have given.
    """

    def __init__(self, size: int, progress: Progress | None = None) -> None:
        self.size = size
        self._progress = progress
        self._halved = False

    def work(self, rows: Sequence[T], on: Callable[[Sequence[T]], list[R]]) -> list[R]:
        """One result per row of a batch, in their order.

        Args:
            rows: of one batch, `size` at most.
            on: computes some of them at once.

        Raises:
            OutOfMemory: if half a batch finds no memory either.
        """
        if not self._halved:
            try:
                return on(rows)
            except Exception as problem:
                if len(rows) == 1 or not is_out_of_memory(problem):
                    raise
            self._halve(len(rows))
        half = -(-self.size // 2)
        found: list[R] = []
        with memory_reported("Half an evaluation batch", "lower batch_size or max_length"):
            for start in range(0, len(rows), half):
                found += on(rows[start : start + half])
        return found

    def lanes(
        self,
        lengths: Sequence[int],
        n_lanes: int,
        on: Callable[[Sequence[int]], list[R]],
        doing: str = "",
        padded: bool = True,
    ) -> list[list[R]]:
        """One result per row and lane, the long rows first.

        Padded batches have the size of the first at most: memory runs out at once or never.

        Args:
            lengths: of the rows.
            n_lanes: results per row.
            on: computes the rows at some places for all lanes, a lane after the other.
            doing: what progress is told; nothing when not given.
            padded: whether rows share a batch whatever their lengths; otherwise one that is
                large enough takes no row that would be mostly padding.
        """
        order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
        found: list[dict[int, R]] = [{} for _ in range(n_lanes)]

        def per_row(places: Sequence[int]) -> list[list[R]]:
            rows = on(places)
            return [rows[i :: len(places)] for i in range(len(places))]

        full = sys.maxsize if padded else -(-FULL // n_lanes)
        for places in _batches(order, lengths, self.size, full):
            if self._progress is not None:
                self._progress.check_cancelled()
            for place, of_lanes in zip(places, self.work(places, per_row), strict=True):
                for lane, result in zip(found, of_lanes, strict=True):
                    lane[place] = result
            if self._progress is not None and doing:
                self._progress.progress(len(found[0]), len(order), doing)
        return [[lane[place] for place in range(len(lengths))] for lane in found]

    def _halve(self, rows: int) -> None:
        self._halved = True
        self.size = min(self.size, rows)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self._progress is not None:
            self._progress.log(
                f"An evaluation batch of {rows} did not fit into memory. It and all later batches "
                "are split in half, which does not change the outcomes."
            )


def _batches(
    order: Sequence[int], lengths: Sequence[int], size: int, full: int
) -> Iterator[Sequence[int]]:
    """Places of rows, long rows first: `size` at once, fewer where the rest is much shorter."""
    start = 0
    while start < len(order):
        longest, end = lengths[order[start]], start + 1
        while end < min(start + size, len(order)) and (
            (end - start) * longest < full or lengths[order[end]] >= ALIKE * longest
        ):
            end += 1
        yield order[start:end]
        start = end

"""Several small computations at the same time, one processor each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


class Threads:
    """Maps functions over items, in the calling thread or by a pool of threads."""

    def __init__(self, pool: ThreadPoolExecutor | None) -> None:
        """Uses a pool, or none."""
        self._pool = pool

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Results in the order of the items; the first error is raised when all have ended."""
        if self._pool is None:
            return [function(item) for item in items]
        futures = [self._pool.submit(function, item) for item in items]
        # `exception` waits: nothing is raised while another thread still changes its model.
        problems = [problem for future in futures if (problem := future.exception()) is not None]
        if problems:
            raise problems[0]
        return [future.result() for future in futures]


@contextmanager
def one_processor_each(n: int, device: torch.device | str = "cpu") -> Iterator[Threads]:
    """Yields `n` threads of which each computes alone; torch's own threads rest meanwhile.

    On other devices than the processor there is one, since the device itself is parallel.
    """
    if torch.device(device).type != "cpu":
        yield Threads(None)
        return
    # torch lets go of Python's lock inside its operations, so Python threads do run at once.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if n == 1:
            yield Threads(None)
        else:
            # A new thread starts with the process's number of threads, not with ours.
            with ThreadPoolExecutor(n, initializer=lambda: torch.set_num_threads(1)) as pool:
                yield Threads(pool)
    finally:
        torch.set_num_threads(before)

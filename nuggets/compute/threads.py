"""How many threads compute: all that the process may use, one for small models."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

SMALL = 20_000_000
"""Below so many weights, threads cost more in waiting than they bring in computing."""


def cpu_threads() -> int:
    """Threads that this process may compute with: its CPUs, or fewer by OMP_NUM_THREADS."""
    there = hasattr(os, "sched_getaffinity")  # Linux: what a container or taskset leaves
    cpus = len(os.sched_getaffinity(0)) if there else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(cpus, int(asked)) if asked.isdigit() and int(asked) > 0 else cpus


@contextmanager
def threads_for(parameters: int, device: object) -> Iterator[None]:
    """Lets a small model compute on one CPU thread, a large one by the faster matrix products.

    The one rule for all that runs a model; afterwards all is as it was. The number of threads
    decides the last bits, and so do the products, so the same work must always go through it.

    Args:
        parameters: of the largest model at work.
        device: where it computes.
    """
    import torch

    from nuggets.compute.products import fast_products

    before = torch.get_num_threads()
    if parameters < SMALL and str(device) == "cpu":
        torch.set_num_threads(1)
    try:
        with fast_products(parameters >= SMALL and str(device) == "cpu"):
            yield
    finally:
        torch.set_num_threads(before)


def threads_of(model: Any, device: object) -> AbstractContextManager[None]:
    """`threads_for` a PyTorch model, by the number of its weights."""
    return threads_for(sum(each.numel() for each in model.parameters()), device)


def each_on_a_thread(work: Callable[[T], R], items: Sequence[T], device: object) -> list[R]:
    """`work` on every item, in their order; on the CPU many at once, each on one thread.

    Linear algebra on one matrix uses few threads well, and many matrices wait. One thread per
    matrix also makes each result independent of the number of threads.
    """
    import torch

    threads = torch.get_num_threads()
    if str(device) != "cpu":
        return [work(item) for item in items]
    torch.set_num_threads(1)
    try:
        if threads == 1:
            return [work(item) for item in items]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(threads)

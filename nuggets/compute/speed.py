"""What a device does per second, by a benchmark of a fraction of a second.

Matrix products of a transformer's shape, an elementwise pass over 64 MB (more than caches hold),
and products too small to be anything but overhead; always the best of several rounds, since others
use the machine too.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import Field

from nuggets.frozen import Frozen

_FILE = 2**25
CPU_CALL = 4e-6
"""Seconds that PyTorch's smallest operation takes on a CPU; NumPy's are faster."""


def measure_cpu() -> Speed:
    """The CPU's speed, with NumPy: PyTorch's matrix products take about as long (0.1 s)."""
    a, b = np.ones((256, 1024), np.float32), np.ones((1024, 1024), np.float32)
    values = np.ones(2**24, np.float32)

    def moved() -> object:
        return np.multiply(values, np.float32(1.0), out=values)

    return Speed(
        device="cpu",
        flops={"float32": 2 * a.shape[0] * b.size / _best(lambda: a @ b)},
        bandwidth=2 * values.nbytes / _best(moved),
        call=CPU_CALL,
    )


def measure_reads(folder: Path) -> float | None:
    """Bytes per second from disk: of a file that was written there and is no longer in memory.

    None where that cannot be measured: nothing can be written, or the system keeps files in memory.
    """
    if not hasattr(os, "posix_fadvise"):
        return None
    try:
        with tempfile.NamedTemporaryFile(dir=folder, buffering=0) as file:
            file.write(os.urandom(_FILE))
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            start = time.perf_counter()
            read = sum(len(part) for part in iter(partial(file.read, 2**20), b""))
            return read / max(time.perf_counter() - start, 1e-9)
    except OSError:
        return None


def measure_device(name: str) -> Speed:
    """The speed of any device that PyTorch knows, such as `cuda:0`."""
    import torch

    device = torch.device(name)
    module = getattr(torch, device.type)
    kinds = ("float32", "bfloat16") if device.type == "cuda" else ("float32",)

    def product(dtype: str, rows: int, width: int) -> Callable[[], object]:
        a = torch.ones(rows, width, dtype=getattr(torch, dtype), device=device)
        b = torch.ones(width, width, dtype=getattr(torch, dtype), device=device)
        return lambda: a @ b

    def best(run: Callable[[], object]) -> float:
        return _best(run, getattr(module, "synchronize", lambda: None))

    values = torch.ones(2**24, device=device)
    flops = {kind: 2 * 512 * 4096 * 4096 / best(product(kind, 512, 4096)) for kind in kinds}
    moved = 2 * values.numel() * values.element_size() / best(lambda: values.mul_(1.0))
    return Speed(device=name, flops=flops, bandwidth=moved, call=best(product("float32", 1, 8)))


def _best(run: Callable[[], object], finish: Callable[[], object] = lambda: None) -> float:
    """Seconds of one call: the best of three rounds of about 10 ms, after a warm-up."""

    def timed(calls: int) -> float:
        finish()
        start = time.perf_counter()
        for _ in range(calls):
            run()
        finish()
        return max((time.perf_counter() - start) / calls, 1e-9)

    timed(1)
    calls = max(1, min(1_000, int(0.01 / timed(2))))
    return min(timed(calls) for _ in range(3))


class Speed(Frozen):
    """What one device was measured to do, by a benchmark of a fraction of a second.

    Attributes:
        device: its name, such as `cpu` or `cuda:0`.
        flops: multiplications and additions per second of a matrix product, per number format.
        bandwidth: bytes per second that an elementwise operation reads and writes.
        call: seconds that the smallest operation takes.
    """

    device: str
    flops: dict[str, float]
    bandwidth: float = Field(gt=0)
    call: float = Field(ge=0)

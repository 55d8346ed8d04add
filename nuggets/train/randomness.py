"""Random numbers that follow from a seed and disturb nobody else's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seeds Python, NumPy and torch inside the block; afterwards all three go on as before."""
    device = torch.device(device)
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def generator(seed: int, name: str = "") -> torch.Generator:
    """A CPU generator of its own for each seed and name: adding one never moves another."""
    words = [seed % 2**32, *name.encode()]
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state % 2**63))

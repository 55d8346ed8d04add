"""What stands between the blocks of a streamed model, in memory or in a file."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Hashable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from nuggets.disk.commit import disk_errors


class Boundaries(Protocol):
    """Tensors by name, in the machine's memory or on its disk."""

    def put(self, key: Hashable, tensor: Tensor) -> None:
        """Keeps a tensor, in the place of what was kept under this name."""

    def take(self, key: Hashable, device: torch.device) -> Tensor:
        """What is kept under a name, on a device; a leaf of its own for autograd."""
        ...

    def drop(self, key: Hashable) -> None:
        """Forgets a name, or nothing if it is not known."""


class InMemory:
    """Tensors in the machine's memory."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Tensor] = {}

    def put(self, key: Hashable, tensor: Tensor) -> None:
        """Keeps a tensor."""
        self._kept[key] = tensor.detach().cpu()

    def take(self, key: Hashable, device: torch.device) -> Tensor:
        """The tensor, of which a copy is made only for another device."""
        return self._kept[key].to(device).detach()

    def drop(self, key: Hashable) -> None:
        """Forgets a name."""
        self._kept.pop(key, None)


class OnDisk:
    """Tensors in one file without a name, which ends with the process however that ends.

    Plain reads and writes: the pages of a mapped file would count as the process's memory.
    """

    def __init__(self, folder: Path) -> None:
        """Makes the file.

        Args:
            folder: an existing one, on a disk with room for all tensors.

        Raises:
            NuggetsError: as do `put` and `take`, if the disk is full or refuses.
        """
        self._folder = folder
        with disk_errors(folder):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - see close
        self._places: dict[Hashable, tuple[int, torch.Size, torch.dtype]] = {}
        self._free: dict[int, list[int]] = {}
        self._end = 0

    def put(self, key: Hashable, tensor: Tensor) -> None:
        """Writes a tensor, into the place of one that was dropped where it fits exactly."""
        stored = tensor.detach().cpu().contiguous()
        self.drop(key)
        size = _bytes(stored.shape, stored.dtype)
        free = self._free.get(size)
        start = free.pop() if free else self._end
        self._end = max(self._end, start + size)
        self._places[key] = start, stored.shape, stored.dtype
        with disk_errors(self._folder):
            self._file.seek(start)
            self._file.write(memoryview(stored.reshape(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]

    def take(self, key: Hashable, device: torch.device) -> Tensor:
        """Reads a tensor."""
        start, shape, dtype = self._places[key]
        tensor = torch.empty(shape, dtype=dtype)
        with disk_errors(self._folder):  # what is still to be written is, before anything is read
            self._file.seek(start)
            self._file.readinto(tensor.view(-1).view(torch.uint8).numpy())  # type: ignore[attr-defined]
        return tensor.to(device)

    def close(self) -> None:
        """Gives the disk back."""
        with contextlib.suppress(OSError):  # what is not written yet will not be asked for
            self._file.close()

    def drop(self, key: Hashable) -> None:
        """Gives a tensor's place to the next of its size."""
        if (place := self._places.pop(key, None)) is not None:
            start, shape, dtype = place
            self._free.setdefault(_bytes(shape, dtype), []).append(start)


def _bytes(shape: torch.Size, dtype: torch.dtype) -> int:
    return math.prod(shape) * dtype.itemsize

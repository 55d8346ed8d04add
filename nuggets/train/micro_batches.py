"""How many samples of a batch are computed at once; the gradient is that of the whole batch."""

from __future__ import annotations

from typing import Any

import torch

from nuggets.compute.device import free_memory
from nuggets.models.architecture import ArchSpec
from nuggets.sensitivity.footprint import row_bytes, rows_at_once
from nuggets.train.config import TrainConfig


class MicroBatches:
    """What memory allows for one training: on a GPU by what is free when it begins."""

    def __init__(self, model: Any, config: TrainConfig, device: torch.device) -> None:
        """Looks at the free memory.

        Args:
            model: what is trained, on the device.
            config: whether activations are kept.
            device: where it is.
        """
        self.spec = ArchSpec.from_config(model.config.to_dict())
        self.width = next(model.parameters()).element_size()
        self.checkpointed = config.activation_checkpointing
        self.device, self.free = str(device), free_memory(str(device))

    def rows(self, n: int, tokens: int) -> int:
        """Rows of a batch `[n, tokens]` that are computed at once; parts are of like size."""
        row = row_bytes(self.spec, tokens, self.width, self.checkpointed)
        parts = -(-n // min(n, rows_at_once(row, self.free, self.device)))
        return -(-n // parts)

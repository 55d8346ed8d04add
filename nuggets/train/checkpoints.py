"""What training keeps on disk while it runs, and how it is found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file

from nuggets.disk.commit import remove_folder
from nuggets.errors import Damaged
from nuggets.frozen import Frozen

PREFIX = "checkpoint-"
WEIGHTS = "weights.safetensors"
LOG = "log.json"
KEPT = 2
"""Checkpoints that stay: should the newest not verify, the one before it is there."""


class TrainLog(Frozen):
    """What happened in training.

    Attributes:
        losses: of every step, before its update.
        curve: (step, value) of the learning curve; step 0 is before training.
        seconds: training time, interrupted attempts included as far as they were saved.
    """

    losses: list[float] = Field(default_factory=list)
    curve: list[tuple[int, float]] = Field(default_factory=list)
    seconds: float = 0.0


def trainable(model: Any) -> dict[str, torch.nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def save_weights(model: Any, folder: Path) -> None:
    """Writes what training changes: an adapter, or all weights."""
    tensors = {name: p.detach().cpu().contiguous() for name, p in trainable(model).items()}
    save_file(tensors, folder / WEIGHTS)


def load_weights(model: Any, folder: Path) -> None:
    """Reads back what `save_weights` wrote, strictly.

    Raises:
        Damaged: if names or shapes differ from the model's.
    """
    stored, wanted = load_file(folder / WEIGHTS), trainable(model)
    for name in sorted({*stored, *wanted}):
        if name not in stored or name not in wanted or stored[name].shape != wanted[name].shape:
            raise Damaged(
                f"The checkpoint {folder} belongs to another model: {name} differs. Delete the "
                "checkpoints and start again."
            )
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(stored[name])


def step_of(checkpoint: Path) -> int:
    """The step at which a checkpoint was taken."""
    return int(checkpoint.name.removeprefix(PREFIX))


def drop_old(folder: Path) -> None:
    """Removes all but the newest `KEPT` checkpoints."""
    found = [path for path in folder.glob(f"{PREFIX}*") if path.name[len(PREFIX) :].isdecimal()]
    for path in sorted(found, key=step_of)[:-KEPT]:
        remove_folder(path)

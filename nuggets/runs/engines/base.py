"""What every engine is asked: all of them start the same command, `python -m nuggets.worker`."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from nuggets.errors import BadInput
from nuggets.frozen import Frozen
from nuggets.runs.store import Run

CPU = "cpu"
GPU = "cuda"
"""The device of a run that computes on whichever GPU its engine gives it."""
HERE = "{kind: local}"
"""What a cluster's worker uses: its first GPU is the one that it was given, not one chosen here."""


class EngineBase(Frozen):
    """How runs get their worker; its fields are this machine's settings, never a recipe's."""

    elsewhere: ClassVar[bool] = False
    """Whether other machines compute."""

    def at_once(self, device: str) -> int:
        """How many runs of a device it is given together where somebody waits for many."""
        return 1

    def unavailable(self) -> str:
        """Why it cannot be used on this machine, in one sentence; empty where it can."""
        return ""

    def words(self) -> str:
        """Where runs compute, as one sentence."""
        raise NotImplementedError

    def place(self, device: str) -> str | None:
        """The device of a run that asks for `device`; None where this machine's own decides."""
        raise NotImplementedError

    def places_here(self, device: str) -> tuple[str, ...]:
        """The places of this machine among which a run of a device takes a free one."""
        return ("cuda:0",) if device == GPU else (device,)

    def memory(self, device: str) -> int | None:
        """Bytes that a run has on a device; None where this machine's own memory counts."""
        raise NotImplementedError

    def check(self, device: str) -> None:
        """Refuses what can never start.

        Raises:
            BadInput: saying what there is instead.
        """
        raise NotImplementedError

    def start(self, run: Run) -> None:
        """Starts a run's worker, or puts it into a queue that will.

        Raises:
            BadInput: if it can never start.
            NuggetsError: if the worker died at once, or the queue refused it.
        """
        raise NotImplementedError


class ClusterEngine(EngineBase):
    """Machines that share this one's home; each run asks for a part of one of them."""

    elsewhere: ClassVar[bool] = True
    name: ClassVar[str]
    gpus: int = Field(default=1, ge=0, le=64, title="GPUs of a run")
    gpu_memory_gb: float = Field(default=80.0, gt=0, title="GB of one GPU, for the preflight")

    def place(self, device: str) -> str | None:
        """A GPU that the cluster gives it, or the CPUs.

        Raises:
            BadInput: A run gets no GPU, but the device asks for one.
        """
        if device == CPU or (device == "auto" and not self.gpus):
            return CPU
        if self.gpus and (device == "auto" or device.startswith(GPU)):
            return GPU
        raise BadInput(
            f"The device {device!r} cannot be asked of {self.name} with {self.gpus} GPUs a run. "
            "Choose auto or cpu, or: nuggets engines --set gpus=1."
        )

    def gpus_of(self, device: str) -> int:
        """How many GPUs a run of a device asks for; `sweep_cuda` is that of a sweep."""
        return self.gpus if GPU in device else 0

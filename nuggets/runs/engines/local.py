"""Workers on this machine: detached processes, one run per device at a time."""

from __future__ import annotations

import os
import subprocess
import time
from typing import Literal

from pydantic import Field

from nuggets.errors import NuggetsError
from nuggets.runs.engines.base import CPU, GPU, EngineBase
from nuggets.runs.processes import spawn
from nuggets.runs.store import Run

LAUNCH_TIMEOUT_S = 60.0
_POLL_S = 0.02


class LocalEngine(EngineBase):
    """Detached processes on this machine."""

    kind: Literal["local"] = "local"
    gpus: tuple[int, ...] = Field(
        default=(),
        title="GPUs among which runs choose; empty: the first alone",
    )

    cpu: int = Field(default=1, ge=1, le=256, title="Runs on the CPU at a time, which share it")

    def at_once(self, device: str) -> int:
        """One run per GPU, and as many on the CPU as are allowed."""
        return len(self.places_here(device))

    def words(self) -> str:
        """Where runs compute."""
        cpu = f" and {self.cpu} on the CPU" if self.cpu > 1 else ""
        if len(self.gpus) < 2:
            device = "GPU" if cpu else "device"
            return f"Runs compute on this machine, one per {device}{cpu} at a time."
        names = ", ".join(self.places_here(GPU))
        return f"Runs compute on this machine, one per GPU{cpu} at a time, on {names}."

    def place(self, device: str) -> str | None:
        """Any of several GPUs, unless one is named."""
        return GPU if self.gpus and device in ("auto", GPU) else None

    def places_here(self, device: str) -> tuple[str, ...]:
        """The GPUs of the setting, else the first; of the CPU as many shares as are allowed."""
        if device == CPU:
            return (CPU, *(f"{CPU}:{share}" for share in range(1, self.cpu)))
        if device == GPU and self.gpus:
            return tuple(f"cuda:{number}" for number in self.gpus)
        return super().places_here(device)

    def memory(self, device: str) -> int | None:
        """This machine's own."""
        return None

    def check(self, device: str) -> None:
        """Devices were looked up when the run was made."""

    def start(self, run: Run) -> None:
        """Starts a worker that outlives this process; returns once it has taken the run."""
        attempts, threads = run.record().attempts, {}
        if run.device() == CPU and self.cpu > 1 and "OMP_NUM_THREADS" not in os.environ:
            threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self.cpu))}
        child = spawn("nuggets.worker", run.folder, run.log_path, threads)
        _wait_for_worker(run, child, attempts)


def _wait_for_worker(run: Run, child: subprocess.Popen[bytes], attempts: int) -> None:
    deadline = time.monotonic() + LAUNCH_TIMEOUT_S
    while time.monotonic() < deadline:
        code = child.poll()
        if run.record().attempts > attempts:
            return
        if code is not None:
            raise NuggetsError(
                f"The worker of run {run.id} ended with exit code {code} before it started the "
                f"run. Its last output: {run.log_tail(5) or 'none'}"
            )
        time.sleep(_POLL_S)
    raise NuggetsError(
        f"The worker of run {run.id} did not start within {LAUNCH_TIMEOUT_S:.0f} s. The machine "
        f"may be overloaded; check {run.log_path} and the run's status."
    )

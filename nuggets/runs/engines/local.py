"""Workers on this machine: detached processes, one run per device at a time."""

from __future__ import annotations

import subprocess
import time
from typing import Literal

from pydantic import Field

from nuggets.errors import NuggetsError
from nuggets.runs.engines.base import GPU, EngineBase
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

    def at_once(self) -> int:
        """One run per GPU."""
        return max(1, len(self.gpus))

    def words(self) -> str:
        """Where runs compute."""
        if len(self.gpus) < 2:
            return "Runs compute on this machine, one per device at a time."
        names = ", ".join(self.gpus_here())
        return f"Runs compute on this machine, one per GPU at a time, on {names}."

    def place(self, device: str) -> str | None:
        """Any of several GPUs, unless one is named."""
        return GPU if self.gpus and device in ("auto", GPU) else None

    def gpus_here(self) -> tuple[str, ...]:
        """Those of the setting, else the first."""
        return tuple(f"cuda:{number}" for number in self.gpus) or super().gpus_here()

    def memory(self, device: str) -> int | None:
        """This machine's own."""
        return None

    def check(self, device: str) -> None:
        """Devices were looked up when the run was made."""

    def start(self, run: Run) -> None:
        """Starts a worker that outlives this process; returns once it has taken the run."""
        attempts = run.record().attempts
        _wait_for_worker(run, spawn("nuggets.worker", run.folder, run.log_path), attempts)


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

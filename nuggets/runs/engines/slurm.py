"""Workers on the nodes of a Slurm cluster, submitted by submitit."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from nuggets import amounts
from nuggets.errors import BadInput, NuggetsError
from nuggets.runs import leases
from nuggets.runs.engines.base import GPU, HERE, ClusterEngine
from nuggets.runs.processes import command, environment
from nuggets.runs.queues import ask
from nuggets.runs.store import Run

MAX_TIMEOUTS = 20
"""So often a run whose time is up goes back into the queue, to continue from its last commit."""


@dataclass(frozen=True)
class Nodes:
    """Equal nodes of one partition, as `sinfo` tells of them; `minutes` is the longest job."""

    partition: str
    default: bool
    count: int
    cpus: int
    memory_gb: float
    gpus: int
    minutes: float

    def fits(self, engine: SlurmEngine, gpus: int) -> bool:
        """Whether one of them can hold a run."""
        named = self.partition == engine.partition if engine.partition else self.default
        return (
            named
            and self.cpus >= engine.cpus
            and self.memory_gb >= engine.memory_gb
            and self.gpus >= gpus
            and self.minutes >= math.ceil(engine.hours * 60)
        )

    def __str__(self) -> str:
        gpus = f", {self.gpus} GPUs" if self.gpus else ""
        most = "" if self.minutes == math.inf else f", up to {amounts.duration(self.minutes * 60)}"
        node = f"{self.cpus} CPUs, {self.memory_gb:.0f} GB{gpus}"
        return f"{self.partition}: {self.count} × {node}{most}"


class SlurmEngine(ClusterEngine):
    """Jobs of a Slurm cluster that shares this machine's home and environment."""

    kind: Literal["slurm"] = "slurm"
    name: ClassVar[str] = "Slurm"
    partition: str | None = Field(default=None, title="Partition")
    account: str | None = Field(default=None, title="Account")
    hours: float = Field(default=24.0, gt=0, title="Hours until a job goes back into the queue")
    memory_gb: float = Field(default=32.0, gt=0, title="GB of memory of a run")
    cpus: int = Field(default=8, ge=1, le=1024, title="CPUs of a run")
    setup: tuple[str, ...] = Field(default=(), title="Shell lines before the worker")

    def unavailable(self) -> str:
        """Without submitit, or away from the cluster."""
        if importlib.util.find_spec("submitit") is None:
            return "Slurm needs submitit, which is not installed: pip install 'nuggets[slurm]'."
        missing = [name for name in ("sbatch", "squeue", "srun") if shutil.which(name) is None]
        if missing:
            return f"There is no {missing[0]} here; use a machine from which jobs are submitted."
        return ""

    def words(self) -> str:
        """Where runs compute."""
        partition = f" in partition {self.partition}" if self.partition else ""
        return f"Runs compute on the cluster, as Slurm jobs{partition} with {self._request(GPU)}."

    def memory(self, device: str) -> int | None:
        """As requested."""
        return int((self.gpu_memory_gb if device.startswith(GPU) else self.memory_gb) * 1e9)

    def at_once(self, device: str) -> int:
        """The queue holds back what does not fit; clusters limit how long it may be."""
        return 200

    def check(self, device: str) -> None:
        """Compares the request with the nodes that `sinfo` lists.

        Raises:
            BadInput: The cluster has no such node; the sentence lists what it has.
        """
        if missing := self.unavailable():
            raise BadInput(missing)
        nodes = _nodes()
        if nodes and not any(node.fits(self, self.gpus_of(device)) for node in nodes):
            where = f"partition {self.partition}" if self.partition else "the default partition"
            raise BadInput(f"No node of {where} has {self._request(device)}. {_offer(nodes)}")

    def start(self, run: Run) -> None:
        """Puts a run into the queue; its lease waits there for the worker."""
        self.check(run.device())
        ticket = leases.claim(run.folder, waiting=True)
        try:
            ticket.note_job(f"slurm:{self._submit(run, ticket)}")
        except BaseException:
            ticket.release()
            raise

    def _submit(self, run: Run, ticket: leases.Held) -> str:
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        # A job unpickles what it finds there: a name that no copied run folder can foresee.
        place = run.folder / "slurm" / ticket.lease.token
        executor = SlurmExecutor(place, max_num_timeout=MAX_TIMEOUTS)
        asked: dict[str, Any] = {
            "job_name": f"nuggets-{run.record().name}",
            "partition": self.partition,
            "account": self.account,
            "time": math.ceil(self.hours * 60),
            "cpus_per_task": self.cpus,
            "gpus_per_node": self.gpus_of(run.device()) or None,
            "mem": f"{math.ceil(self.memory_gb * 1e9 / 2**20)}M",
            "setup": list(self.setup) or None,
            "stderr_to_stdout": True,
            # srun does not inherit this from sbatch since Slurm 22.05.
            "srun_args": [f"--cpus-per-task={self.cpus}"],
        }
        executor.update_parameters(**{k: v for k, v in asked.items() if v is not None})
        own = environment() | {leases.TICKET: ticket.lease.token}
        try:
            return executor.submit(Work(run.folder, own)).job_id
        except (FailedJobError, FailedSubmissionError) as no:
            said = " ".join(str(no).split())[-300:].rstrip(".")
            raise NuggetsError(f"Slurm refused run {run.id}: {said}. {_offer(_nodes())}") from None

    def _request(self, device: str) -> str:
        gpus = self.gpus_of(device)
        return (
            f"{gpus} GPU{'' if gpus == 1 else 's'}, {self.cpus} CPUs, {self.memory_gb:g} GB of "
            f"memory for {self.hours:g} h"
        )


class Work:
    """What a job does: it runs the worker, and goes back into the queue when its time is up."""

    def __init__(self, folder: Path, own: dict[str, str]) -> None:
        self.folder = folder
        self.own = own
        self._worker: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """The worker's exit code."""
        given = os.environ
        job = {leases.JOB: f"slurm:{given['SLURM_JOB_ID']}", "NUGGETS_ENGINE": HERE}
        if cpus := given.get("SLURM_CPUS_PER_TASK"):
            job["OMP_NUM_THREADS"] = given.get("OMP_NUM_THREADS", cpus)
        if "NUGGETS_HOST" in self.own:  # that of the machine where it was submitted
            job["NUGGETS_HOST"] = given.get("SLURMD_NODENAME", "")
        self._worker = subprocess.Popen(  # noqa: S603 - our own module with our own folder
            command("nuggets.worker", self.folder),
            cwd=self.folder,
            env=given | self.own | job,
            preexec_fn=_leave_time_signal,
        )
        return self._worker.wait()

    def checkpoint(self) -> Any:
        """Stops the worker when the job's time is up; it continues from its last commit."""
        from submitit.core.utils import DelayedSubmission

        if self._worker is not None:
            self._worker.kill()  # the call above, which this interrupted, waits for it
        return DelayedSubmission(Work(self.folder, self.own))


def _leave_time_signal() -> None:
    """Slurm signals the whole job before its time is up, and it is for submitit to answer."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def _nodes() -> list[Nodes]:
    """The cluster's nodes; empty where it does not say."""
    said = ask("sinfo", "--noheader", "--exact", "--format", "%P|%l|%c|%m|%G|%D") or ""
    rows = (line.strip().split("|") for line in said.splitlines())
    return [_parse(*row) for row in rows if len(row) == 6]


def _parse(name: str, most: str, cpus: str, memory: str, resources: str, count: str) -> Nodes:
    gpus = sum(int(n) for n in re.findall(r"\bgpu(?::[^:,()]+)?:(\d+)", resources))
    return Nodes(
        partition=name.removesuffix("*"),
        default=name.endswith("*"),
        count=_first_number(count),
        cpus=_first_number(cpus),
        memory_gb=_first_number(memory) * 2**20 / 1e9,
        gpus=gpus,
        minutes=_minutes(most),
    )


def _minutes(text: str) -> float:
    """Slurm's `days-hours:minutes:seconds`, whose front parts may be missing."""
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":") if part.isdigit()]
    if not parts:
        return math.inf  # infinite, n/a
    if dash:
        hours, minutes = [*parts, 0][:2]
        return int(days) * 1440 + hours * 60 + minutes
    return sum(part * 60**power for power, part in enumerate(reversed(parts))) / 60


def _first_number(text: str) -> int:
    found = re.match(r"\d+", text)
    return int(found.group()) if found else 0


def _offer(nodes: Iterable[Nodes]) -> str:
    told = "; ".join(str(node) for node in list(nodes)[:8])
    return f"The cluster has {told}." if told else "Ask `sinfo` what the cluster has."

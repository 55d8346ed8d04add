"""Workers on the nodes of a Ray cluster, an existing one or one on this machine."""

from __future__ import annotations

import importlib.util
import math
import os
import time
from collections import Counter
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from nuggets.disk.commit import atomic_write, make_folder
from nuggets.disk.hosts import born
from nuggets.disk.locks import is_held
from nuggets.errors import BadInput, NuggetsError
from nuggets.runs import leases, ray_tasks
from nuggets.runs.engines.base import GPU, HERE, ClusterEngine
from nuggets.runs.processes import environment, spawn
from nuggets.runs.ray_tasks import Node, Request
from nuggets.runs.store import Run

START_TIMEOUT_S = 120.0
"""So long a cluster may take to start or to answer."""
TAKE_TIMEOUT_S = 60.0
_POLL_S = 0.02


class RayEngine(ClusterEngine):
    """Tasks of a Ray cluster whose nodes share this machine's home and environment."""

    kind: Literal["ray"] = "ray"
    name: ClassVar[str] = "Ray"
    address: str = Field(
        default="local",
        min_length=1,
        max_length=200,
        title="Address: host:6379, ray://host:10001, auto (the one here), local (start one)",
    )
    cpus: int = Field(default=1, ge=1, le=1024, title="CPUs of a run")
    memory_gb: float | None = Field(
        default=None, gt=0, title="GB of memory of a run; empty: not reserved"
    )

    def unavailable(self) -> str:
        """Without Ray."""
        if importlib.util.find_spec("ray") is None:
            return "Ray is not installed: pip install 'nuggets[ray]'."
        return ""

    def words(self) -> str:
        """Where runs compute."""
        where = "cluster on this machine" if self.address == "local" else f"cluster {self.address}"
        return f"Runs compute in the Ray {where}, with {self._request(GPU)}."

    def memory(self, device: str) -> int | None:
        """As requested; this machine's own where none is."""
        asked = self.gpu_memory_gb if device.startswith(GPU) else self.memory_gb
        return None if asked is None else int(asked * 1e9)

    def at_once(self, device: str) -> int:
        """As many as the cluster has room for; others wait in Ray's queue."""
        room = sum(self._fitting(node, device) for node in self._nodes())
        return max(1, room)

    def check(self, device: str) -> None:
        """Compares the request with the nodes of the cluster, which is started for it if need be.

        Raises:
            BadInput: The cluster has no such node; the sentence lists what it has.
            NuggetsError: No cluster answers.
        """
        if missing := self.unavailable():
            raise BadInput(missing)
        nodes = self._nodes()
        if not any(self._fitting(node, device) for node in nodes):
            fewer = ", or run on CPUs: nuggets engines --use ray --set gpus=0"
            raise BadInput(
                f"No node of the Ray cluster has {self._request(device)}. {_offer(nodes)} "
                f"Ask for less{fewer if self.gpus_of(device) else ''}."
            )

    def start(self, run: Run) -> None:
        """Puts a run into Ray's queue; its lease waits there for the worker."""
        self.check(run.device())
        folder = ray_tasks.keeper_folder(self.address)
        ticket = leases.claim(run.folder, waiting=True)
        job = ray_tasks.job_name(folder, ticket.lease.token)
        try:
            ticket.note_job(job)
            self._hand_over(folder, run, ticket)
        except BaseException:
            ticket.release()
            raise

    def _hand_over(self, folder: Path, run: Run, ticket: leases.Held) -> None:
        """Asks the keeper for a run; returns once Ray has its task."""
        token, job = ticket.lease.token, ticket.lease.job
        threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(self.cpus))}
        own = environment() | threads | {leases.TICKET: token, leases.JOB: job}
        own.pop("NUGGETS_HOST", None)  # that of this machine
        request = Request(
            run=str(run.folder),
            lease=str(ticket.folder),
            starter=(os.getpid(), born(os.getpid())),
            variables=own | {"NUGGETS_ENGINE": HERE},
            cpus=self.cpus,
            gpus=self.gpus_of(run.device()),
            memory=math.ceil((self.memory_gb or 0) * 1e9),
        )
        asked = folder / f"{token}{ray_tasks.ASKED}"
        atomic_write(asked, request.model_dump_json())
        deadline = time.monotonic() + TAKE_TIMEOUT_S
        while asked.exists():
            self._nodes()  # the keeper may just have ended for want of work: then another one
            if time.monotonic() > deadline and _withdrawn(asked):
                raise NuggetsError(
                    f"The Ray cluster {self.address} did not take run {run.id} within "
                    f"{TAKE_TIMEOUT_S:.0f} s. Try again; {folder / 'output.log'} has what Ray said."
                )
            time.sleep(_POLL_S)

    def _nodes(self) -> list[Node]:
        """What the cluster has, once something here is connected to it.

        Raises:
            NuggetsError: If none answers, or none can be started.
        """
        folder = ray_tasks.keeper_folder(self.address)
        if (nodes := ray_tasks.cluster(folder)) is not None:
            return nodes
        make_folder(folder)
        log = folder / "output.log"
        child, deadline = None, time.monotonic() + START_TIMEOUT_S
        while (nodes := ray_tasks.cluster(folder)) is None:
            kept = is_held(folder / ray_tasks.LOCK) or (child is not None and child.poll() is None)
            if (child is not None and child.poll()) or time.monotonic() > deadline:
                said = log.read_text(errors="replace").strip().rpartition("\n")[2][:300]
                said = said.rstrip(".") or "it took too long"
                raise NuggetsError(
                    f"No Ray cluster answers at {self.address!r}: {said}. "
                    "Look with `ray status`, or choose another address: nuggets engines --use ray "
                    "--set address=HOST:6379."
                )
            if not kept:
                child = spawn("nuggets.runs.engines.ray_keeper", folder, log)
            time.sleep(_POLL_S)
        return nodes

    def _fitting(self, node: Node, device: str) -> int:
        """How many runs one node holds at once."""
        gpus, memory = self.gpus_of(device), (self.memory_gb or 0) * 1e9
        asked = ((node.cpus, self.cpus), (node.gpus, gpus), (node.memory, memory))
        return int(min(has // each for has, each in asked if each))

    def _request(self, device: str) -> str:
        gpus = self.gpus_of(device)
        memory = f", {self.memory_gb:g} GB of memory" if self.memory_gb else ""
        return (
            f"{gpus} GPU{'' if gpus == 1 else 's'}, {self.cpus} CPU"
            f"{'' if self.cpus == 1 else 's'}{memory} a run"
        )


def _withdrawn(asked: Path) -> bool:
    """Takes a request back; false if it was just taken."""
    try:
        asked.unlink()
    except FileNotFoundError:
        return False
    return True


def _offer(nodes: list[Node]) -> str:
    equal = Counter((round(n.cpus), round(n.gpus), round(n.memory / 1e9)) for n in nodes)
    told = "; ".join(
        f"{count} × {cpus} CPUs, {memory} GB" + (f", {gpus} GPUs" if gpus else "")
        for (cpus, gpus, memory), count in list(equal.items())[:8]
    )
    return f"It has {told}." if told else "It has no node."

"""`python -m nuggets.runs.engines.ray_keeper FOLDER`: keeps the tasks of one Ray cluster.

The only process of ours that imports Ray: it may end when the cluster does, and costs what a page
or a command should not. It ends by itself when no run was asked for in a while, and with it a local
cluster that it started.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pydantic import ValidationError

from nuggets.disk.hosts import born
from nuggets.disk.locks import Lock, is_held
from nuggets.runs import leases, ray_tasks
from nuggets.runs.ray_tasks import ASKED, CLUSTER, END, LOCK, TAKEN, Node, Request
from nuggets.runs.store import Run

POLL_S = 0.1
PROBE_S = 10.0
LOOK_S = 2.0
"""The cluster is asked so often what it has; one that does not answer any more ends the keeper."""
IDLE_S = float(os.environ.get("NUGGETS_RAY_IDLE_S", "300"))


def main(folder: Path) -> int:
    """Keeps tasks until there are none; returns the exit code."""
    lock = Lock(folder / LOCK)
    if not is_held(lock.path):  # what a dead keeper left must not be taken for this one's
        (folder / CLUSTER).unlink(missing_ok=True)
    if not lock.acquire():
        return 0  # another one is faster
    sys.stdout.flush()
    os.ftruncate(sys.stdout.fileno(), 0)  # the log of the keeper before
    for kind in (TAKEN, END):  # its tasks ended with it
        for left in folder.glob(f"*{kind}"):
            left.unlink()
    try:
        ray = importlib.import_module("ray")
        _connect(ray, unquote(folder.name))
    except (ImportError, OSError, RuntimeError, ValueError) as problem:
        print(f"{type(problem).__name__}: {' '.join(str(problem).split())}", flush=True)
        return 1
    try:
        Keeper(folder, ray).work()
    finally:
        (folder / CLUSTER).unlink(missing_ok=True)
        ray.shutdown()
    return 0


def _connect(ray: Any, address: str) -> None:
    """Connects to a running cluster, or starts one that ends with this process."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves the machine unasked
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host:  # Ray itself asks for two minutes
        socket.create_connection((host, int(port)), timeout=PROBE_S).close()
    started_here = {"include_dashboard": False} if address == "local" else {}
    ray.init(address=address, log_to_driver=False, namespace="nuggets", **started_here)


class Keeper:
    """The tasks of one cluster."""

    def __init__(self, folder: Path, ray: Any) -> None:
        self._folder = folder
        self._ray = ray
        self._tasks: dict[Any, tuple[str, Request]] = {}
        self._looked = float("-inf")
        self._used = time.monotonic()

    def work(self) -> None:
        """Takes runs and tells of those that are over, until nobody asks any more."""
        while time.monotonic() - self._used < IDLE_S or not self._closed():
            if time.monotonic() - self._looked > LOOK_S:
                self._look()
            for asked in self._folder.glob(f"*{ASKED}"):
                self._take(asked)
            self._end_asked()
            self._wait()

    def _look(self) -> None:
        """Writes what the cluster has, and shows other machines that waiting runs are kept."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        known = [Node(n.get("CPU", 0), n.get("GPU", 0), n.get("memory", 0)) for n in nodes]
        ray_tasks.write_cluster(self._folder, sorted(known))
        for _, request in self._tasks.values():
            leases.touch(Path(request.lease))
        self._looked = time.monotonic()

    def _take(self, asked: Path) -> None:
        try:
            request = Request.model_validate_json(asked.read_bytes())
        except (OSError, ValidationError):  # withdrawn
            return
        pid, since = request.starter
        if born(pid) != since:
            asked.unlink(missing_ok=True)
            return
        task = self._ray.remote(_work).options(
            name=Path(request.run).name,
            num_cpus=request.cpus,
            num_gpus=request.gpus,
            memory=request.memory or None,
            max_retries=0,
        )
        taken = asked.with_suffix(TAKEN)
        try:
            asked.rename(taken)
        except OSError:  # withdrawn
            return
        self._tasks[task.remote(request.run, request.variables)] = (asked.stem, request)
        self._used = time.monotonic()

    def _end_asked(self) -> None:
        for end in self._folder.glob(f"*{END}"):
            if end.with_suffix(ASKED).exists():
                continue  # it is taken first
            for task in [task for task, (ticket, _) in self._tasks.items() if ticket == end.stem]:
                self._ray.cancel(task, force=True)
            end.unlink()

    def _wait(self) -> None:
        """Gives Ray a moment, and forgets the tasks that are over."""
        if not self._tasks:
            time.sleep(POLL_S)
            return
        self._used = time.monotonic()
        over, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=POLL_S)
        for task in over:
            ticket, request = self._tasks.pop(task)
            with contextlib.suppress(OSError):
                self._note_loss(task, request)
            (self._folder / f"{ticket}{TAKEN}").unlink(missing_ok=True)

    def _note_loss(self, task: Any, request: Request) -> None:
        """Says in the run's log why Ray ended its task, where the worker could not."""
        try:
            self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            said = str(getattr(error, "cause", None) or error).strip().partition("\n")[0]
            with Run(Path(request.run)).log_path.open("a") as log:
                log.write(f"Ray ended this run's task: {type(error).__name__}: {said}\n")

    def _closed(self) -> bool:
        """Takes no more runs; false if one was asked for just before."""
        (self._folder / CLUSTER).unlink(missing_ok=True)
        self._looked = float("-inf")
        return not any(self._folder.glob(f"*{ASKED}"))


def _work(run: str, variables: dict[str, str]) -> int:
    """The task: runs the worker on its node, which ends with it. Ray carries its code there."""
    import ctypes
    import os
    import platform
    import signal
    import subprocess
    import sys

    if not os.path.exists(os.path.join(run, "record.json")):  # noqa: PTH110, PTH118
        raise RuntimeError(
            f"{platform.node()} does not see {run}; NUGGETS_HOME must lie on a disk that all nodes "
            "of the cluster share."
        )

    def end_together() -> None:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

    return subprocess.run(  # noqa: S603 - our own module with our own folder
        [sys.executable, "-P", "-m", "nuggets.worker", run],
        cwd=run,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        preexec_fn=end_together,
        check=False,
    ).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

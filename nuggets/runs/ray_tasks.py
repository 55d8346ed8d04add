"""Runs that a Ray cluster has, as files between those who start them and the keeper of their tasks.

Ray ends the tasks of a program that ended, so a process of ours stays connected while there are any
(`nuggets.runs.engines.ray_keeper`), one per machine and cluster. Its folder, `ray/MACHINE/ADDRESS`
in the home, has its `lock`; `cluster.json`, what the cluster has, while runs are taken; and per run
`TICKET.asked`, which becomes `TICKET.taken` and goes when Ray's task is over, and `TICKET.end` from
whoever wants it to end.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import quote

from nuggets.disk.commit import atomic_write
from nuggets.disk.home import nuggets_home
from nuggets.disk.hosts import kernel_id
from nuggets.disk.locks import is_held
from nuggets.frozen import Frozen

LOCK, CLUSTER = "lock", "cluster.json"
ASKED, TAKEN, END = ".asked", ".taken", ".end"
JOB_PREFIX = "ray:"


class Node(NamedTuple):
    """What one machine of the cluster has in all."""

    cpus: float
    gpus: float
    memory: float


class Request(Frozen):
    """A run as it is asked for.

    Attributes:
        run: its folder.
        lease: the folder of the lease that waits for its worker.
        starter: the process that asks, and when it began; a request ends with it unless taken.
        variables: of the worker's environment, beside those that Ray gives it.
        cpus: for the run alone, as are the others.
        gpus: whole ones.
        memory: in bytes; 0 reserves none.
    """

    run: str
    lease: str
    starter: tuple[int, str]
    variables: dict[str, str]
    cpus: int
    gpus: int
    memory: int


def keeper_folder(address: str) -> Path:
    """Where this machine's keeper of a cluster is."""
    return _machine() / quote(address, safe="")


def job_name(folder: Path, ticket: str) -> str:
    """The job of a run, as leases name it."""
    return f"{JOB_PREFIX}{folder.parent.name}/{folder.name}/{ticket}"


def state(job: str) -> Literal["running", "gone", "lost", "unknown"]:
    """`lost`: its keeper died; `unknown`: that is another machine's, or was."""
    folder, ticket = _parts(job)
    if folder.parent != _machine():
        return "unknown"
    if cluster(folder) is None:
        return "lost"
    kept = any((folder / f"{ticket}{kind}").exists() for kind in (ASKED, TAKEN))
    return "running" if kept else "gone"


def end(job: str) -> None:
    """Asks the keeper to end a task; it is gone when Ray says so."""
    folder, ticket = _parts(job)
    if folder.is_dir():
        (folder / f"{ticket}{END}").touch()


def write_cluster(folder: Path, nodes: list[Node]) -> None:
    """Says what the cluster has, and that runs are taken."""
    atomic_write(folder / CLUSTER, json.dumps(nodes))


def cluster(folder: Path) -> list[Node] | None:
    """What the cluster has; None while nobody takes runs for it."""
    if not is_held(folder / LOCK):
        return None
    try:
        return [Node(*node) for node in json.loads((folder / CLUSTER).read_bytes())]
    except OSError:
        return None


def _machine() -> Path:
    return nuggets_home() / "ray" / kernel_id()[:8]


def _parts(job: str) -> tuple[Path, str]:
    machine, address, ticket = job.removeprefix(JOB_PREFIX).split("/")
    return nuggets_home() / "ray" / machine / address, ticket

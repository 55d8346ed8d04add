"""Who owns a run among machines that share its folder, where locks are not trusted.

A lock (`nuggets.disk.locks`) holds among the processes of one kernel, and on a network disk perhaps
nowhere else. So each attempt also leaves a lease, `leases/<n>`: a folder that appears by a rename,
which fails for all but one wherever renames are atomic (NFS too). The greatest n owns the run. It
is over when its owner says so, when its kernel knows no such process, when the queue says that its
job is gone or, on another host where no queue can be asked, when it was not touched for `SILENCE_S`
by the clock of the disk. An owner that was taken for dead meets a greater n before it writes again,
and stops.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from nuggets.disk.commit import atomic_write, new_folder
from nuggets.disk.hosts import born, host_name, kernel_id
from nuggets.disk.locks import is_held
from nuggets.disk.untrusted import read_text
from nuggets.errors import BadInput, NuggetsError, RunBusy
from nuggets.frozen import Frozen
from nuggets.runs.queues import job_state, outlives_silence

HEARTBEAT_S = 20.0
"""A working owner touches its lease this often."""
SILENCE_S = 300.0
"""After so long without a touch, an owner on another host that no queue knows counts as dead."""
JOB, TICKET = "NUGGETS_JOB", "NUGGETS_TICKET"
"""What an engine tells its worker: its job in the queue, and the token of the waiting lease."""
MAX_BYTES = 100_000
_OPEN, _RELEASED = "lease.json", "released.json"


class Lease(Frozen):
    """Who may work on a run.

    Attributes:
        host: the machine of the owner, or of whoever put the run into a queue.
        kernel: the kernel that the process is known to.
        pid: the process; `since` tells it from a later one of that number.
        job: the job in a queue, such as `slurm:12`; empty without one.
        waiting: whether this lease only stands for a worker that the queue is to start.
        token: tells this lease from a rival's of the same number.
    """

    host: str
    kernel: str
    pid: int
    since: str
    job: str = ""
    waiting: bool = False
    token: str


class Held:
    """A lease in its place."""

    def __init__(self, folder: Path, number: int, lease: Lease, released: bool = False) -> None:
        self.folder = folder
        self.number = number
        self.lease = lease
        self.released = released

    def lives(self) -> bool:
        """Whether somebody works by this lease, or is about to."""
        lease = self.lease
        if self.released:
            return False
        state = job_state(lease.job) if lease.job else "unknown"
        if state == "gone" or (state == "lost" and lease.waiting):
            return False
        # Slurm may start a dead worker's job anew; a worker of Ray's that died is dead.
        if state in ("pending", "running") and (lease.waiting or outlives_silence(lease.job)):
            return True
        if lease.kernel == kernel_id() and not (lease.job and lease.waiting):
            return born(lease.pid) == lease.since
        return outlives_silence(lease.job) or not self._silent()

    def waits(self) -> bool:
        """Whether a queue is to start the worker, or to start it again elsewhere."""
        lease = self.lease
        return self.lives() and (
            lease.waiting or (bool(lease.job) and job_state(lease.job) == "pending")
        )

    def note_job(self, job: str) -> None:
        """Says which job the queue made of it."""
        self.lease = Lease.model_validate({**dict(self.lease), "job": job})
        atomic_write(self.folder / _OPEN, self.lease.model_dump_json())

    def release(self) -> None:
        """Says that nobody works any more; needs no space on the disk."""
        self.released = True
        with contextlib.suppress(OSError):
            try:
                (self.folder / _OPEN).rename(self.folder / _RELEASED)
            except OSError:  # a lease that cannot be read is nobody's either
                (self.folder / _OPEN).unlink()

    def lost(self) -> bool:
        """Whether somebody else took the run meanwhile."""
        return _place(self.folder.parent, self.number + 1).exists()

    def beat(self, ended: threading.Event) -> None:
        """Shows hosts that cannot see the process that it lives."""
        while not ended.wait(HEARTBEAT_S):
            touch(self.folder)

    def _silent(self) -> bool:
        try:
            with tempfile.TemporaryFile(dir=self.folder) as now:  # by the clock of the disk
                touched = (self.folder / _OPEN).stat().st_mtime
                return os.fstat(now.fileno()).st_mtime - touched > SILENCE_S
        except OSError:
            return False


def touch(lease: Path) -> None:
    """Shows that whoever has a lease lives, or that its worker is still to come."""
    with contextlib.suppress(OSError):
        os.utime(lease / _OPEN)


def newest(run_folder: Path) -> Held | None:
    """The lease that decides; None for a run that nobody worked on, or only an older Nuggets."""
    try:
        places = list((run_folder / "leases").iterdir())
    except OSError:
        return None
    numbers = [int(place.name) for place in places if place.name.isdecimal()]
    return _read(_place(run_folder / "leases", max(numbers))) if numbers else None


def claim(run_folder: Path, waiting: bool = False) -> Held:
    """Takes a run that nobody works on.

    Args:
        run_folder: the run's.
        waiting: for a worker that a queue is to start.

    Raises:
        RunBusy: if it has an owner, or another process was faster.
        NuggetsError: if the disk refuses.
    """
    last = newest(run_folder)
    if last is not None and not _is_ours(last) and last.lives():
        raise _busy(run_folder, last)
    number = 1 if last is None else last.number + 1
    lease = Lease(
        host=host_name(),
        kernel=kernel_id(),
        pid=os.getpid(),
        since=born(os.getpid()),
        job="" if waiting else os.environ.get(JOB, ""),
        waiting=waiting,
        token=secrets.token_hex(8),
    )
    place = _place(run_folder / "leases", number)
    try:
        with new_folder(place) as folder:
            (folder / _OPEN).write_text(lease.model_dump_json())
    except NuggetsError:
        if not place.exists():
            raise
    # A network disk may repeat a rename and report that it failed: what lies there decides.
    if (found := newest(run_folder)) is None or found.lease.token != lease.token:
        raise _busy(run_folder, found)
    return found


@contextmanager
def held(run_folder: Path) -> Iterator[Held]:
    """Owns a run for the length of the block, visibly to every machine.

    Raises:
        RunBusy: if it has an owner.
    """
    mine, ended = claim(run_folder), threading.Event()
    beating = threading.Thread(target=mine.beat, args=(ended,), name="nuggets-lease", daemon=True)
    beating.start()
    try:
        yield mine
    finally:
        ended.set()
        beating.join(timeout=1.0)  # a disk that hangs holds up nobody
        if not mine.lost():
            mine.release()


def refuse_owned(run_folder: Path) -> None:
    """Raises `RunBusy` for a run that somebody works on, or a queue is about to start."""
    last = newest(run_folder)
    if last is not None and last.lives():
        raise _busy(run_folder, last)


def owner(run_folder: Path, lock_path: Path) -> str:
    """`worker` or `queue`, whoever has the run now; empty for nobody."""
    if is_held(lock_path):
        return "worker"
    last = newest(run_folder)
    if last is None or not last.lives():
        return ""
    return "queue" if last.waits() else "worker"


def _is_ours(last: Held) -> bool:
    """Whether the lease stands for this very worker: its engine's, or its own before a requeue."""
    lease = last.lease
    if lease.waiting:
        return lease.token == os.environ.get(TICKET)
    at_work_here = lease.kernel == kernel_id() and born(lease.pid) == lease.since
    return bool(lease.job) and lease.job == os.environ.get(JOB) and not at_work_here


def _busy(run_folder: Path, last: Held | None) -> RunBusy:
    where = "another process" if last is None else f"{last.lease.job or last.lease.host}"
    return RunBusy(f"Run {run_folder.name} belongs to {where}. Follow it, or cancel it first.")


def _place(leases: Path, number: int) -> Path:
    return leases / f"{number:06d}"


def _read(place: Path) -> Held:
    for name, released in ((_OPEN, False), (_RELEASED, True), (_OPEN, False)):
        try:
            lease = Lease.model_validate_json(read_text(place / name, MAX_BYTES))
        except (BadInput, ValidationError):
            continue
        return Held(place, int(place.name), lease, released)
    # Damaged: the number counts, and nobody can be asked.
    nobody = Lease(host="an unknown host", kernel="", pid=0, since="", token="")
    return Held(place, int(place.name), nobody, released=True)

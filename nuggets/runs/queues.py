"""What the queue of a cluster says about a job: the one witness that other hosts have.

A job is written `slurm:1234`. All jobs of this user are asked for in one command, at most once in
`ASK_EVERY_S`, so that a page with hundreds of runs costs the cluster one question. Ray's tasks
(`ray:…`) are asked of the process that keeps them (`nuggets.runs.ray_tasks`).
"""

from __future__ import annotations

import getpass
import shutil
import subprocess
import time
from typing import Literal

from nuggets.runs import ray_tasks

JobState = Literal["pending", "running", "gone", "lost", "unknown"]
"""`lost`: nobody will start it any more, and whoever was started answers for itself; `unknown`: the
queue could not be asked, so nobody may take the job for dead."""

ASK_EVERY_S = 2.0
ASK_TIMEOUT_S = 20.0
_PENDING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"})
_OVER = frozenset(
    {
        "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
        "PREEMPTED", "REVOKED", "TIMEOUT",
    }
)  # fmt: skip

_heard: tuple[float, dict[str, str] | None] = (float("-inf"), None)
"""When the queue was asked last, and job → state; None where it did not answer."""
_gone: set[str] = set()
"""Jobs that were asked for and are over: they do not come back, and are not asked for again."""


def job_state(job: str) -> JobState:
    """The state of a job such as `slurm:1234`."""
    global _heard
    if job.startswith(ray_tasks.JOB_PREFIX):
        return ray_tasks.state(job)
    number = job.removeprefix("slurm:")
    if number in _gone:
        return "gone"
    asked, states = _heard
    # A job younger than the last answer is not in it.
    if time.monotonic() - asked > ASK_EVERY_S or (states is not None and number not in states):
        states = _ask()
        _heard = (time.monotonic(), states)
    if states is None:
        return "unknown"
    state = states.get(number)
    if state is None or state in _OVER:
        _gone.add(number)
        return "gone"
    return "pending" if state in _PENDING else "running"


def end_job(job: str) -> None:
    """Takes a job out of the queue, or stops it; what came of it is seen in its state."""
    if job.startswith(ray_tasks.JOB_PREFIX):
        ray_tasks.end(job)
    else:
        ask("scancel", job.removeprefix("slurm:"))


def outlives_silence(job: str) -> bool:
    """Whether a queue that does not answer now will do so later, and knows the job then."""
    return bool(job) and not job.startswith(ray_tasks.JOB_PREFIX)


def forget_answers() -> None:
    """Makes the next question go to the queue itself."""
    global _heard
    _heard = (float("-inf"), None)


def _ask() -> dict[str, str] | None:
    said = ask("squeue", "--noheader", "--user", getpass.getuser(), "--format", "%i|%T")
    if said is None:
        return None
    rows = (line.strip().partition("|") for line in said.splitlines())
    return {job: state for job, _, state in rows}


def ask(name: str, *words: str) -> str | None:
    """What a command of the cluster prints; None where there is none, or it failed."""
    if (path := shutil.which(name)) is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 - a command of the cluster, with our own words
            [path, *words], capture_output=True, text=True, timeout=ASK_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None

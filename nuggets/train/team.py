"""Training on several devices: starts processes with the same work, and ends them.

Each has a copy of the model. transformers' Trainer finds that it is one of several and shares out
the rest (DistributedDataParallel through accelerate). Their launchers start all processes anew;
here the one that was asked to train leads: it alone measures, reports and saves.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from accelerate.utils import patch_environment
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

from nuggets.errors import NuggetsError

POLL_S = 0.2
"""How often helpers that are loading are looked at."""
_PATIENCE = timedelta(days=1)
"""Helpers wait while the leader measures a learning curve; one that ends is noticed at once."""
_WORK = "work.pt"
_HELPER_FAILED = (ProcessRaisedException, ProcessExitedException)

Work = Callable[[torch.device], Any]
"""What a helper does, on its device; it must be something that `torch.save` can write."""


@contextmanager
def leading(
    work: Work, device: torch.device, helpers: Sequence[str], folder: Path | None
) -> Iterator[None]:
    """Starts helpers with a copy of what they need, and ends them.

    Args:
        work: what each helper does.
        device: the leader's.
        helpers: their devices; the leader works alone if there are none.
        folder: where the copy is written, and removed when all have read it; the system's for
            temporary files when not given.

    Raises:
        NuggetsError: if a helper failed, with what it said.
    """
    if not helpers:
        yield
        return
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    n = len(helpers) + 1
    surroundings: dict[str, Any] = {
        "rank": 0, "local_rank": device.index or 0, "world_size": n, "local_world_size": n,
        "master_port": 0,  # of no use, but accelerate would set one for good
        "torch_cpp_log_level": "ERROR",  # helpers warn that experts need not be looked for
        "omp_num_threads": max(1, torch.get_num_threads() // n),  # of helpers
    }  # fmt: skip
    hook = sys.excepthook  # a process group puts its rank before whatever is raised
    team_folder = tempfile.TemporaryDirectory(prefix=".team-", dir=folder)
    with team_folder as name, patch_environment(**surroundings):
        meeting = Path(name)
        torch.save(work, meeting / _WORK)
        running: Any = spawn(_help, (list(helpers), meeting), nprocs=n - 1, join=False)
        try:
            while len(list(meeting.glob("ready-*"))) < len(helpers):
                running.join(timeout=POLL_S)  # raises what a helper raised
            (meeting / _WORK).unlink()
            _join(device, meeting)
            yield
            while not running.join(timeout=POLL_S):
                pass
        except (RuntimeError, *_HELPER_FAILED) as problem:
            raise _reason(running, problem) or problem from problem
        finally:
            for process in running.processes:
                process.kill()
                process.join()
            if dist.is_initialized():
                dist.destroy_process_group()
            AcceleratorState._reset_state(reset_partial_state=True)  # as Trainer does: alone again
            sys.excepthook = hook


def _reason(running: Any, problem: Exception) -> NuggetsError | None:
    """What a helper that failed said, if one did; others see a connection that was closed."""
    if not isinstance(problem, _HELPER_FAILED):
        try:
            running.join(timeout=10.0)
        except _HELPER_FAILED as found:
            problem = found
        else:
            return None
    n = len(running.processes) + 1
    return NuggetsError(f"One of {n} processes that train together failed: {problem}")


def _help(index: int, devices: list[str], meeting: Path) -> None:
    """One helper: reads its copy, meets the others and works."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # which it gets when the leader is killed
    device, rank = torch.device(devices[index]), index + 1
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(device.index or 0)}
    # Written by the leader into a folder of its own a moment ago.
    work: Work = torch.load(meeting / _WORK, map_location=device, weights_only=False)
    (meeting / f"ready-{rank}").touch()
    _join(device, meeting)
    try:
        work(device)
    finally:
        dist.destroy_process_group()
    # Threads that gloo leaves behind now and then abort a process that ends in the usual way.
    os._exit(0)


def _join(device: torch.device, meeting: Path) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{meeting}/meeting",
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=_PATIENCE,
    )

"""Training on several devices: each has a copy of the model and takes its share of every batch.

This lies below transformers' Trainer, which sees one process: gradients are added up, weighted by
answer tokens, so that each process takes the step of the whole batch with its own optimiser. Only
the leader, which is the process that was asked to train, measures, reports and saves.
"""

from __future__ import annotations

import logging
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

from nuggets.errors import NuggetsError

POLL_S = 0.2
"""How often helpers that are loading are looked at."""
_PATIENCE = timedelta(days=1)
"""Helpers wait while the leader measures a learning curve; one that ends is noticed at once."""
_WORK = "work.pt"
_HELPER_FAILED = (ProcessRaisedException, ProcessExitedException)


@dataclass(frozen=True)
class Team:
    """The processes that train one model together.

    Attributes:
        rank: this process's place; 0 leads.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    def rows(self, n: int) -> slice:
        """This process's share of a batch of `n`; some may have none."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def begin_step(self, seed: int, step: int) -> None:
        """Lets every process drop out other things, the same ones after a resume."""
        if self.size > 1:
            state = np.random.SeedSequence([seed % 2**32, step, self.rank]).generate_state(1)
            torch.manual_seed(int(state[0]))

    def add_up(self, loss: Tensor, weights: Sequence[nn.Parameter]) -> Tensor:
        """The loss of the whole batch; gradients become those of the whole batch, in place."""
        if self.size == 1:
            return loss
        for weight in weights:
            if weight.grad is None:  # no sample of this batch was ours
                weight.grad = torch.zeros_like(weight)
        works = [dist.all_reduce(weight.grad, async_op=True) for weight in weights]
        dist.all_reduce(loss)
        for work in works:
            assert work is not None
            work.wait()
        return loss


HelperWork = Callable[[torch.device, Team], Any]
"""What a helper does, on its device; it must be something that `torch.save` can write."""


@contextmanager
def leading(
    work: HelperWork, device: torch.device, helpers: Sequence[str], folder: Path
) -> Iterator[Team]:
    """Starts helpers with a copy of what they need, and ends them.

    Args:
        work: what each helper does.
        device: the leader's.
        helpers: their devices; the leader works alone if there are none.
        folder: where the copy is written, and removed when all have read it.

    Raises:
        NuggetsError: if a helper failed, with what it said.
    """
    if not helpers:
        yield Team()
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".team-", dir=folder) as name:
        meeting = Path(name)
        torch.save(work, meeting / _WORK)
        threads = max(1, torch.get_num_threads() // (len(helpers) + 1))
        arguments = (list(helpers), meeting, threads)
        hook = sys.excepthook  # a process group puts its rank before whatever is raised
        running: Any = spawn(_help, arguments, nprocs=len(helpers), join=False)
        try:
            _wait_until_ready(running, meeting)
            (meeting / _WORK).unlink()
            _join(device, meeting, 0, len(helpers) + 1)
            yield Team(0, len(helpers) + 1)
            while not running.join(timeout=POLL_S):
                pass
        except NuggetsError:
            raise
        except Exception as problem:  # such as a connection that a helper closed by ending
            raise _reason(running, problem) or problem from problem
        finally:
            for process in running.processes:
                process.kill()
                process.join()
            if dist.is_initialized():
                dist.destroy_process_group()
            sys.excepthook = hook


def _wait_until_ready(running: Any, meeting: Path) -> None:
    while len(list(meeting.glob("ready-*"))) < len(running.processes):
        running.join(timeout=POLL_S)  # raises what a helper raised


def _reason(running: Any, problem: Exception) -> NuggetsError | None:
    """What a helper that failed said, if one did."""
    deadline = time.monotonic() + 10.0
    while not isinstance(problem, _HELPER_FAILED):
        if time.monotonic() > deadline:
            return None
        try:
            if running.join(timeout=POLL_S):
                return None
        except _HELPER_FAILED as found:
            problem = found
    n = len(running.processes) + 1
    return NuggetsError(f"One of {n} processes that train together failed: {problem}")


def _help(index: int, devices: list[str], meeting: Path, threads: int) -> None:
    """One helper: reads its copy, meets the others and works."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # which it gets when the leader is killed
    device, rank = torch.device(devices[index]), index + 1
    torch.set_num_threads(threads)
    # Written by the leader into a folder of its own a moment ago.
    work: HelperWork = torch.load(meeting / _WORK, map_location=device, weights_only=False)
    (meeting / f"ready-{rank}").touch()
    _join(device, meeting, rank, len(devices) + 1)
    try:
        work(device, Team(rank, len(devices) + 1))
    finally:
        dist.destroy_process_group()


def _join(device: torch.device, meeting: Path, rank: int, size: int) -> None:
    # Trainer is to see one process, and would warn at every training that there are more.
    logging.getLogger("transformers.training_args").setLevel(logging.ERROR)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{meeting}/meeting",
        rank=rank,
        world_size=size,
        timeout=_PATIENCE,
    )

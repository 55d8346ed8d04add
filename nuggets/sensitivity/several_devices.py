"""Sensitivity on several devices: each takes its share of the samples and adds up |θ·g| itself.

Averaging gradients first, as training does, would give another quantity: |Σ g| is not Σ |g|.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessException, spawn

from nuggets.compute.threads import threads_of
from nuggets.data.samples import Encoded
from nuggets.errors import NuggetsError
from nuggets.models.architecture import ArchSpec
from nuggets.models.references import ModelRef
from nuggets.progress import Progress
from nuggets.sensitivity.accumulate import Accumulator, Keep, MapParts, check_asked
from nuggets.sensitivity.maps import SensitivityMap
from nuggets.sensitivity.scores import Score

POLL_S = 0.5
"""How often a cancel is looked for."""


class Freed(MapParts):
    """What a process has after all were added up, which another one writes: nothing is kept."""

    def take(self, sums: Iterable[Accumulator]) -> None:
        """Frees what finished accumulators hold."""
        for done in sums:
            done.full = done.rows = done.cols = None

    def finish(
        self, spec: ArchSpec, kind: str, names: Sequence[str], meta: Mapping[str, Any]
    ) -> SensitivityMap:
        """A map of nothing."""
        return SensitivityMap(spec, kind, {}, {}, {}, (), np.zeros((0, 0)))


def measure_on(
    devices: Sequence[str],
    ref: ModelRef,
    encoded: Sequence[Encoded],
    folder: Path,
    score: Score | None = None,
    keep: Keep = "full",
    dtype: str = "float32",
    progress: Progress | None = None,
    meta: Mapping[str, Any] | None = None,
    parts: MapParts | None = None,
    checkpoint: bool = False,
) -> None:
    """Measures with one process and one copy of the model per device; writes the map to `folder`.

    Sums of several processes are added in another order than one process adds them, so the last
    digits of a map depend on their number.

    Args:
        devices: such as `["cuda:0", "cuda:1"]`, or `["cpu", "cpu"]`.
        ref: the model, on this machine.
        encoded: `(input_ids, labels)` per sample.
        folder: an existing folder.
        score: what is summed; |θ · g| when not given.
        keep: `full` keeps every entry, `sums` only row and column sums.
        dtype: of weights and gradients.
        progress: can cancel; every process is then ended.
        meta: stored with the map.
        parts: what becomes of finished matrices; all are kept when not given.
        checkpoint: as in `compute_sensitivity`.

    Raises:
        BadInput: if there is no sample.
        NuggetsError: if a process failed, with what it said.
    """
    check_asked(encoded, score)
    with tempfile.TemporaryDirectory() as meeting:
        told = dict(meta or {})
        samples = list(encoded)
        how = (score, keep, dtype, told, parts, checkpoint)
        arguments = (list(devices), ref, samples, folder, *how, meeting)
        running: Any = spawn(_rank, arguments, nprocs=len(devices), join=False)
        try:
            while not running.join(timeout=POLL_S):
                if progress is not None:
                    progress.check_cancelled()
        except ProcessException as problem:
            raise NuggetsError(f"A process of {len(devices)} failed: {problem}") from problem
        finally:
            for process in running.processes:
                if process.is_alive():
                    process.kill()


def _rank(
    rank: int,
    devices: list[str],
    ref: ModelRef,
    encoded: list[Encoded],
    folder: Path,
    score: Score | None,
    keep: Keep,
    dtype: str,
    meta: dict[str, Any],
    parts: MapParts | None,
    checkpoint: bool,
    meeting: str,
) -> None:
    """One process: loads the model, measures its share; the first one writes the map."""
    from nuggets.models.loading import load_model
    from nuggets.models.pair import read_spec
    from nuggets.sensitivity.hooks import compute_sensitivity

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # which it gets when its parent is gone
    device = torch.device(devices[rank])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // len(devices)))
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{meeting}/meeting",
        rank=rank,
        world_size=len(devices),
    )
    try:
        model = load_model(ref, dtype, device)
        spec = read_spec(ref)
        options = {"meta": meta, "checkpoint": checkpoint, "parts": parts if rank == 0 else Freed()}
        with threads_of(model, device):
            map = compute_sensitivity(model, spec, encoded, score, keep, **options)
        if rank == 0:
            map.save(folder)
    finally:
        dist.destroy_process_group()
    # Threads that gloo leaves behind now and then abort a process that ends in the usual way.
    os._exit(0)

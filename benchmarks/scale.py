"""`python -m benchmarks.scale 1000`: a sweep of many trials over 8 simulated nodes.

A node is a thread that works off one run at a time; a trial waits, and writes drawn outcomes. What
is measured is the head: what proposing, starting, watching and writing down costs it per trial.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Literal

import numpy as np

from nuggets import api, worker
from nuggets.recipe import load_job
from nuggets.runs import fan_out, results
from nuggets.runs.context import RunContext
from nuggets.runs.engines.base import EngineBase
from nuggets.runs.store import Run
from nuggets.statistics.cells import CellOutcome
from nuggets.sweeps import working

NODES = 8
TRIAL_S = 1.0
QUARTER = 4
_head: list[float] = []
"""The head's seconds of CPU at the start of each trial."""


class Nodes(EngineBase):
    """Eight threads in place of eight nodes."""

    kind: Literal["nodes"] = "nodes"

    def at_once(self, device: str) -> int:
        """One run a node."""
        return NODES

    def places_here(self, device: str) -> tuple[str, ...]:
        """A share of the CPU for each."""
        return ("cpu", *(f"cpu:{node}" for node in range(1, NODES)))

    def place(self, device: str) -> str | None:
        """Wherever this machine would."""
        return None

    def check(self, device: str) -> None:
        """Everything fits."""

    def start(self, run: Run) -> None:
        """Returns once the thread has the run."""
        _head.append(time.thread_time())
        threading.Thread(target=worker.run_in_foreground, args=(run, lambda event: None)).start()
        while not run.record().attempts:
            time.sleep(0.002)


def drawn(run: Run, ctx: RunContext) -> None:
    """The pipeline of these trials."""
    recipe = load_job(run.recipe_text())
    ctx.plan(("train",))
    ctx.stage("train")
    time.sleep(TRIAL_S)
    rng = np.random.default_rng(abs(hash(run.id)))
    for arm in recipe.arms:
        right = (rng.random(60) < 0.5).astype(float).tolist()
        cell = CellOutcome(arm=arm.name, role=arm.role, seed=0, items=[str(i) for i in range(60)],
                           outcomes={"exact_match": right})  # fmt: skip
        with ctx.commit(f"{results.CELLS}/{arm.name}-0") as folder:
            (folder / results.CELL).write_text(cell.model_dump_json())


def main() -> None:
    """Measures as many trials as the command line says, else 1,000."""
    n = int(sys.argv[1]) if sys.argv[1:] else 1000
    fan_out.chosen = working.chosen = worker.chosen = Nodes
    working.confirm = lambda *given: None
    with tempfile.TemporaryDirectory() as home:
        os.environ["NUGGETS_HOME"] = home
        os.environ["NUGGETS_PIPELINE"] = f"{Path(__file__).parent.name}.scale:drawn"
        space = {"train.lr": {"low": 1e-4, "high": 1e-2, "log": True}}
        fixed = ["seeds=[0]", "device=cpu", "arms=[{kind: plain}, {kind: paper}]"]
        sweep = api.load_sweep("quick", fixed, space=space, sampler="random", trials=n)
        began, head = time.monotonic(), time.thread_time()
        made = api.sweeping.run(sweep)
        took, own = time.monotonic() - began, time.thread_time() - head
        state = api.sweeping.state_of(made)
    assert len(state.done) == n
    ideal = n / NODES * TRIAL_S
    print(
        f"{n} trials of {TRIAL_S:g} s on {NODES} nodes: {took:.0f} s, {took / ideal:.2f} of ideal"
    )
    print(f"the head: {own:.0f} s of CPU, {1000 * own / n:.0f} ms a trial")
    few = n // QUARTER
    early, late = (_head[few] - _head[0]) / few, (_head[-1] - _head[-1 - few]) / few
    print(f"of the first quarter {1000 * early:.0f} ms a trial, of the last {1000 * late:.0f}")


if __name__ == "__main__":
    main()

"""`python -m benchmarks.engines`: what an engine costs a run, with runs that compute nothing.

`local` starts every worker on one of 8 stand-ins for GPUs; `in one process` works the same runs off
without an engine. The seconds are of all processes' CPU.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from nuggets.disk.home import runs_dir
from nuggets.runs.context import RunContext
from nuggets.runs.engines.local import LocalEngine
from nuggets.runs.fan_out import submit_all
from nuggets.runs.store import Run, RunStore
from nuggets.worker import run_in_foreground

NODES = 8


def nothing(run: Run, ctx: RunContext) -> None:
    """The pipeline of these runs."""
    ctx.plan(("nothing",))
    ctx.stage("nothing")


def _through_engine(runs: list[Run]) -> None:
    submit_all(runs, LocalEngine(gpus=tuple(range(NODES))))


def _in_one_process(runs: list[Run]) -> None:
    for run in runs:
        run_in_foreground(run, lambda event: None)


def _cpu() -> float:
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, both))


def _measure(name: str, work: Callable[[list[Run]], None], n: int) -> None:
    runs = [RunStore(runs_dir()).create("none", "{}", "none", "cuda") for _ in range(n)]
    begun, cpu = time.monotonic(), _cpu()
    work(runs)
    for pid in iter(_ended_child, 0):
        assert pid
    wall, spent = time.monotonic() - begun, _cpu() - cpu
    assert all(run.status() == "done" for run in runs)
    print(f"{name}: {n} runs, {spent / n:.3f} s of CPU and {wall / n:.3f} s of time each")


def _ended_child() -> int:
    try:
        return os.waitpid(-1, 0)[0]
    except ChildProcessError:
        return 0


def main() -> None:
    """Measures as many runs as the command line says, else 100."""
    n = int(sys.argv[1]) if sys.argv[1:] else 100
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {
            "NUGGETS_HOME": home,
            "NUGGETS_PIPELINE": f"{Path(__file__).parent.name}.engines:nothing",
            "NUGGETS_ENGINE": f"{{kind: local, gpus: {list(range(NODES))}}}",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        _measure("in one process", _in_one_process, n)
        _measure(f"local, {NODES} at once", _through_engine, n)


if __name__ == "__main__":
    main()

"""`python -m benchmarks.sweeps 24`: a sweep's trials against as many separate runs, seconds of CPU.

Trials of two arms and three seeds on the built-in pair, without the confirmation. A separate run is
a process of its own (`nuggets run`); one is measured in a home of its own, where it trains
everything, and one in that home again, where it finds plain LoRA trained. All trials are measured,
separate runs are those two times how often each would occur.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from nuggets import api
from nuggets.disk.commit import atomic_write
from nuggets.recipe import dump_job
from nuggets.sweeps import working

RANKS = (4, 8, 16)
SEEDS = 3


def _sweep(n: int) -> api.SweepRecipe:
    """`n` trials: ranks × ratios."""
    ratios = [round(0.25 + 0.75 * (i + 1) / (n // len(RANKS)), 3) for i in range(n // len(RANKS))]
    fixed = [f"seeds={list(range(SEEDS))}", "device=cpu"]
    values = {"lora.r": {"values": RANKS}, "extraction.ratio": {"values": ratios}}
    return api.load_sweep("quick", fixed, space=values, sampler="grid")


def _cpu(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def _separate(recipe: api.TransferRecipe, home: Path) -> float:
    """Seconds of CPU of `nuggets run` on a recipe."""
    path = home / "recipes" / "trial.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, dump_job(recipe))
    before = _cpu(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "nuggets", "run", "trial", "--json"]
    env = os.environ | {"NUGGETS_HOME": str(home)}
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)
    return _cpu(resource.RUSAGE_CHILDREN) - before


def main() -> None:
    """Measures as many trials as the command line says, else 24."""
    n = int(sys.argv[1]) if sys.argv[1:] else 24
    with tempfile.TemporaryDirectory() as folder:
        sweep = _sweep(n)
        points = [{"lora.r": RANKS[0], "extraction.ratio": ratio} for ratio in (0.5, 1.0)]
        home = Path(folder) / "separate"
        whole, shared = (_separate(sweep.trial_recipe(values), home) for values in points)
        os.environ["NUGGETS_HOME"] = str(Path(folder) / "sweep")
        working.confirm = lambda *given: None
        before = _cpu(resource.RUSAGE_SELF)
        state = api.sweeping.state_of(api.sweeping.run(sweep))
        spent = _cpu(resource.RUSAGE_SELF) - before
    assert len(state.done) == n
    one_home = len(RANKS) * whole + (n - len(RANKS)) * shared
    print(f"{n} trials × 2 arms × {SEEDS} seeds: {spent:.0f} s of CPU, {spent / n:.1f} a trial")
    print(f"a separate run: {whole:.1f} s, or {shared:.1f} s if plain LoRA is there")
    print(f"share of {n} separate runs in homes of their own: {spent / (n * whole):.2f}")
    print(f"share of {n} separate runs in one home, which share cells: {spent / one_home:.2f}")


if __name__ == "__main__":
    main()

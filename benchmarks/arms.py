"""`python -m benchmarks.arms`: all arms and seeds side by side against one after another.

Both ways do the same work from models to verdict in the same process, on the same machine, one
after the other. CPU time is that of all threads; a machine that is busy otherwise lengthens the
wall time of both, and the more so of what uses more threads.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from nuggets import api
from nuggets.recipe import load_recipe
from nuggets.runs import results

TITLE = "Arms and seeds side by side (recipe controls, built-in pair)"


def measure(recipe: str = "controls", seeds: int = 5) -> list[dict[str, str]]:
    """Runs a recipe both ways; rows of times, their ratios, and how far the results differ.

    Args:
        recipe: a shipped recipe.
        seeds: how many run seeds.
    """
    with tempfile.TemporaryDirectory() as home:
        os.environ["NUGGETS_HOME"] = home
        _run(recipe, 1, ["train.steps=1", "train.concurrent=never"])  # fills caches, imports
        sequential, *alone = _run(recipe, seeds, ["train.concurrent=never"])
        concurrent, *together = _run(recipe, seeds, ["train.concurrent=auto"])
        difference, changed, n = _differences(sequential, concurrent)
    rows = [_row("one after another", *alone), _row("side by side", *together)]
    ratios = [f"{a / b:.2f}" for a, b in zip(alone, together, strict=True)]
    rows.append({"way": "ratio", "wall s": ratios[0], "CPU s": ratios[1]})
    label = f"largest difference of a training loss; items judged otherwise of {n}"
    rows.append({"way": label, "wall s": f"{difference:.1e}", "CPU s": str(changed)})
    return rows


def _run(recipe: str, seeds: int, overrides: list[str]) -> tuple[Any, float, float]:
    wanted = [f"seeds={list(range(seeds))}", "device=cpu", *overrides]
    job = load_recipe(recipe, wanted)
    wall, cpu = time.monotonic(), time.process_time()
    run = api.run(job)
    return run, time.monotonic() - wall, time.process_time() - cpu


def _row(way: str, wall: float, cpu: float) -> dict[str, str]:
    return {"way": way, "wall s": f"{wall:.1f}", "CPU s": f"{cpu:.1f}"}


def _differences(one: Any, other: Any) -> tuple[float, int, int]:
    """Largest difference of a loss at any step; items with another exact match, and all."""
    largest, changed, n = 0.0, 0, 0
    for cell, again in zip(results.cells(one), results.cells(other), strict=True):
        losses = [_losses(run, cell.arm, cell.seed) for run in (one, other)]
        largest = max([largest, *(abs(a - b) for a, b in zip(*losses, strict=True))])
        values = [each.outcomes["exact_match"] for each in (cell, again)]
        changed += sum(a != b for a, b in zip(*values, strict=True))
        n += len(values[0])
    return largest, changed, n


def _losses(run: Any, arm: str, seed: int) -> list[float]:
    path = results.cell_folder(run, arm, seed) / results.RECORD
    return json.loads(path.read_text())["losses"]


def main() -> None:
    """Runs the benchmark and prints its table."""
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="controls")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    arguments = parser.parse_args()
    console = Console(width=110)
    console.print(f"{os.cpu_count()} processors, torch {torch.__version__}")
    rows = measure(arguments.recipe, arguments.seeds)
    shown = Table(title=TITLE, title_justify="left")
    for name in rows[0]:
        shown.add_column(name, justify="left" if name == "way" else "right")
    for row in rows:
        shown.add_row(*row.values())
    console.print(shown)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

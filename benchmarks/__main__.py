"""`python -m benchmarks`: tables of time and memory, ratios taken in one run."""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import extraction, machine, sensitivity, startup, training
from benchmarks.rows import Row

PARTS = ("startup", "extraction", "sensitivity", "states", "training", "machine")


def main() -> None:
    """Runs the benchmarks and prints the table of each part as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--small", action="store_true", help="small shapes: to try it, not to tell")
    parser.add_argument("--roomy", action="store_true", help="sensitivity with freed blocks kept")
    arguments = parser.parse_args()
    console = Console(width=150)
    busy = " ".join(f"{load:.2f}" for load in os.getloadavg())
    title = (
        f"{platform.machine()}, {torch.get_num_threads()} threads, load {busy}, torch "
        f"{torch.__version__}, Python {platform.python_version()}"
        + (", SMALL SHAPES" if arguments.small else "")
    )
    rows: list[Row] = []
    for part in PARTS:
        if arguments.only in (None, part):
            with console.status(f"{part} …"):
                found = measure(part, arguments.small, arguments.roomy)
            console.print(table(f"{part}: {title}", found))
            rows += found
    if arguments.json:
        found = {"machine": title, "rows": [row._asdict() for row in rows]}
        arguments.json.write_text(json.dumps(found, indent=1, ensure_ascii=False))


def measure(part: str, small: bool, roomy: bool) -> list[Row]:
    """The rows of one part."""
    if part == "startup":
        return startup.measure(1 if small else 5)
    if part == "extraction":
        return extraction.measure(8 if small else 1)
    if part == "sensitivity":
        return sensitivity.measure(small, roomy)
    if part == "states":
        return sensitivity.measure_states()
    if part == "training":
        return training.measure(small)
    return machine.measure(small)


def table(title: str, rows: list[Row]) -> Table:
    """Rows as one table."""
    shown = Table(title=title, title_justify="left")
    for name in ("what", "published or machine", "nuggets", "ratio", "aim", "note"):
        shown.add_column(name, justify="left" if name in ("what", "note") else "right")
    for row in rows:
        shown.add_row(*row)
    return shown


if __name__ == "__main__":
    main()

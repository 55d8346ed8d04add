"""`make bench`: time and memory against the published procedure, as ratios in one run."""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import extraction, sensitivity


def main() -> None:
    """Runs the benchmarks and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--only", choices=["extraction", "sensitivity"])
    arguments = parser.parse_args()
    console = Console(width=110)
    console.print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"Python {platform.python_version()}"
    )
    parts = {"extraction": extraction, "sensitivity": sensitivity}
    rows = {}
    for name, part in parts.items():
        if arguments.only in (None, name):
            rows[name] = part.measure()
            console.print(table(part.TITLE, rows[name]))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


def table(title: str, rows: list[dict[str, str]]) -> Table:
    """Rows of a benchmark as a table."""
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name, justify="left" if name == next(iter(rows[0])) else "right")
    for row in rows:
        table.add_row(*row.values())
    return table


if __name__ == "__main__":
    main()

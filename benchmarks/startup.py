"""What a command costs before it does anything: CPU seconds, and as ratio to `python -c pass`."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.rows import Row

COMMAND = [sys.executable, "-m", "nuggets"]
FIRST_STAGE = """
import os, sys
from nuggets.cli import main, output
def told(bars, event):
    if event.type == "stage":
        os._exit(0)
output.Bars.show = told
sys.argv = ["nuggets", "run", "quick"]
main()
"""
"""`nuggets run quick`, ended as its first stage begins."""
STARTS = {
    "nuggets --help": ([*COMMAND, "--help"], "≤ .4 s"),
    "nuggets list": ([*COMMAND, "list"], "≤ .4 s"),
    "nuggets recipes": ([*COMMAND, "recipes"], "≤ .4 s"),
    "import nuggets.api": ([sys.executable, "-c", "import nuggets.api"], "≤ .3 s"),
    "nuggets run quick, to its first stage": ([sys.executable, "-c", FIRST_STAGE], "≤ 5 s"),
}


def measure(rounds: int) -> list[Row]:
    """Medians of some rounds, as a user has it: compiled once before, a home of its own."""
    rows = []
    with tempfile.TemporaryDirectory() as home:
        bare = _cpu([sys.executable, "-c", "pass"], rounds, home)
        for what, (command, aim) in STARTS.items():
            spent = _cpu(command, rounds, home)
            rows.append(
                Row(what, f"{bare:.3f} s", f"{spent:.3f} s", f"{spent / bare:.1f}×", aim, "CPU")
            )
    return rows


def _cpu(command: list[str], rounds: int, home: str) -> float:
    """CPU seconds of a command and its children, the median; the first time compiles."""
    without = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    compiled = str(Path(home) / "compiled")
    env = without | {"NUGGETS_HOME": home, "PYTHONPYCACHEPREFIX": compiled}
    spent = []
    for _ in range(rounds + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, env=env, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return median(spent[1:])

"""`python -m benchmarks.mutants`: faults put into the method one at a time; do its tests see them?

Cosmic Ray knows the faults (another operator, another number, a loop that never runs, …); of all
that it could put into a package a sample is drawn. Each is tried in a copy of the repository, by
the tests that belong to the package, in one process. A fault that no test sees is listed with its
line: a test is missing, or the fault changes nothing that matters. Exits with 1 below `--least`.
"""

from __future__ import annotations

import argparse
import difflib
import math
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
TESTS = {
    "sensitivity": "unit/sensitivity unit/extraction/test_extraction_ratio.py "
    "contract/test_scores.py contract/test_streaming.py",
    "extraction": "unit/extraction",
    "train": "unit/train integration/test_training.py integration/test_concurrent.py "
    "integration/test_team.py integration/test_healing.py contract/test_arms.py",
    "statistics": "unit/statistics",
}
"""Package → its tests, below `tests/`."""
INERT = ("_BitOr_", "Decorator")
"""Operators that change annotations, which nothing evaluates, or how a class is declared."""
PATIENCE = 5
"""A fault that takes so many times the sound tests' CPU time counts as seen, and one that waits for
twenty times that: other work on the machine does not make a sound one so slow."""


class Fault(NamedTuple):
    """One change of one file."""

    file: Path
    operator: str
    occurrence: int


def faults_of(package: str) -> list[Fault]:
    """Every fault that could be put into a package."""
    from cosmic_ray.ast import ast_nodes, get_ast  # pyright: ignore[reportMissingImports]

    found = []
    for file in sorted((ROOT / "nuggets" / package).rglob("*.py")):
        tree = get_ast(file.read_text())
        for name, operator in _operators():
            n = sum(len(list(operator.mutation_positions(node))) for node in ast_nodes(tree))
            found += [Fault(file.relative_to(ROOT), name, place) for place in range(n)]
    return found


def _operators() -> Iterator[tuple[str, Any]]:
    from cosmic_ray import plugins  # pyright: ignore[reportMissingImports]

    for name in plugins.operator_names():
        made = plugins.get_operator(name)
        if not made.arguments() and not any(word in name for word in INERT):
            yield name, made()


def survivors(package: str, sample: int, seed: int, copy: Path) -> tuple[int, list[str]]:
    """How many of a package's faults were tried, and those that no test saw, as diffs."""
    from cosmic_ray.mutating import mutate_code  # pyright: ignore[reportMissingImports]

    before = _spent()
    if not _passes(package, copy, 3600):
        sys.exit(f"The tests of nuggets/{package} fail without any fault; mend them first.")
    limit = PATIENCE * math.ceil(_spent() - before)
    every, operators = faults_of(package), dict(_operators())
    chosen = random.Random(seed).sample(every, min(sample, len(every)))
    unseen = []
    for fault in chosen:
        place = copy / fault.file
        sound = place.read_text()
        broken = mutate_code(sound, operators[fault.operator], fault.occurrence)
        place.write_text(broken)
        try:
            if _passes(package, copy, limit):
                unseen.append(_shown(fault.file, sound, broken))
        finally:
            place.write_text(sound)
    return len(chosen), unseen


def _spent() -> float:
    """Seconds of CPU that ended child processes took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _passes(package: str, copy: Path, limit: int) -> bool:
    """Whether a package's tests pass in the copy within some seconds of CPU."""
    tests = [f"tests/{name}" for name in TESTS[package].split()]
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    # No byte code: a fault of the same length within a second would not be noticed.
    path = os.pathsep.join([str(copy), os.environ.get("PYTHONPATH", "")])
    words = ["bash", "-c", f'ulimit -t {limit}; exec "$@"', "tests", *words]
    own = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            words, cwd=copy, env=os.environ | own, capture_output=True, timeout=20 * limit
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _shown(file: Path, sound: str, broken: str) -> str:
    lines = difflib.unified_diff(sound.splitlines(), broken.splitlines(), n=0, lineterm="")
    changed = [line for line in lines if not line.startswith(("---", "+++"))]
    return "\n    ".join([f"{file} {changed[0]}", *changed[1:]])


def main() -> int:
    """Tries the sample and prints the share that was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=TESTS, action="append", help="a package; may be repeated")
    parser.add_argument("--sample", type=int, default=12, help="faults per package")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--least", type=float, default=0.9, help="share that has to be seen")
    asked = parser.parse_args()
    tried, missed = 0, 0
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "copy"
        left = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info")
        shutil.copytree(ROOT, copy, symlinks=True, ignore=left)
        for package in asked.only or TESTS:
            n, unseen = survivors(package, asked.sample, asked.seed, copy)
            tried, missed = tried + n, missed + len(unseen)
            print(
                f"{package}: {n - len(unseen)} of {n} faults seen", *unseen, sep="\n  ", flush=True
            )
    print(f"{1 - missed / tried:.0%} of {tried} faults seen")
    return int(1 - missed / tried < asked.least)


if __name__ == "__main__":
    sys.exit(main())

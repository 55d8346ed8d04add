"""How many threads compute: all that the process may use, one for small models."""

from __future__ import annotations

import os


def cpu_threads() -> int:
    """Threads that this process may compute with: its CPUs, or fewer by OMP_NUM_THREADS."""
    there = hasattr(os, "sched_getaffinity")  # Linux: what a container or taskset leaves
    cpus = len(os.sched_getaffinity(0)) if there else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(cpus, int(asked)) if asked.isdigit() and int(asked) > 0 else cpus

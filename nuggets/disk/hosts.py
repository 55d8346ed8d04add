"""Which machine this is, as other machines that share the disk see it."""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from pathlib import Path


def host_name() -> str:
    """This machine's name, or `NUGGETS_HOST` where machines that share a home are named alike."""
    return os.environ.get("NUGGETS_HOST") or platform.node() or "unknown"


def kernel_id() -> str:
    """Names the running kernel: containers on it share its locks, whatever their names are."""
    named = os.environ.get("NUGGETS_HOST")
    return named or _boot_id() or host_name()


@cache
def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux
        return ""


def born(pid: int) -> str:
    """When a process of this kernel began, by a clock that nobody sets; empty for a dead one."""
    if sys.platform != "linux":
        return _born_elsewhere(pid)
    try:
        # What follows the program's name, which may hold anything: state, …, start in ticks.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _born_elsewhere(pid: int) -> str:
    import psutil

    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.0f}"
    except psutil.Error:
        return ""

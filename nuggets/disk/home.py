"""Where Nuggets keeps its runs, caches and device locks."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from nuggets.disk.hosts import kernel_id


def nuggets_home() -> Path:
    """The folder of everything Nuggets stores: `NUGGETS_HOME`, or the platform's data folder."""
    chosen = os.environ.get("NUGGETS_HOME")
    return (
        Path(chosen).expanduser().absolute() if chosen else platformdirs.user_data_path("nuggets")
    )


def runs_dir() -> Path:
    """The folder that holds one folder per run."""
    return nuggets_home() / "runs"


def cache_dir() -> Path:
    """The folder of results that can be computed again; deleting it loses nothing but time."""
    return nuggets_home() / "cache"


def exports_dir() -> Path:
    """Where adapters and bundles go unless the user names another folder."""
    return nuggets_home() / "exports"


def device_lock_path(device: str) -> Path:
    """The lock file of this machine's `cpu` or `cuda:0`: one run computes there at a time."""
    machine = nuggets_home() / "devices" / kernel_id()[:8]  # others may share the home
    return machine / f"{device.replace(':', '-').replace('/', '-')}.lock"

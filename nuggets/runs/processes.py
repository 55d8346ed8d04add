"""Detached processes of ours on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from nuggets.disk.home import nuggets_home

children: list[subprocess.Popen[bytes]] = []
"""Workers of this process, kept so that those that ended are reaped; never asked for status."""


def spawn(
    module: str, folder: Path, log_path: Path, variables: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Starts `python -m module folder` as a detached process that outlives this one.

    Args:
        module: one of ours.
        folder: its argument and its working folder.
        log_path: where its output is appended.
        variables: of its environment, beside those of this process.
    """
    children[:] = [child for child in children if child.poll() is None]
    with log_path.open("ab") as log:
        child = subprocess.Popen(  # noqa: S603 - our own module with our own folder
            command(module, folder),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | environment() | dict(variables or {}),
            start_new_session=True,
        )
    children.append(child)
    return child


def command(module: str, folder: Path) -> list[str]:
    """The command that works in a folder."""
    # -P keeps the folder off the import path: a file in it must never run as code.
    return [sys.executable, "-P", "-m", module, str(folder)]


def environment() -> dict[str, str]:
    """What a worker needs of this process's environment, whatever else it inherits.

    Relative paths keep their meaning in the worker's folder. Bars of other libraries, all drawn by
    tqdm, would only fill the log.
    """
    own = {name: value for name, value in os.environ.items() if name.startswith("NUGGETS_")}
    own |= {"TQDM_DISABLE": os.environ.get("TQDM_DISABLE", "1")}
    own |= {"NUGGETS_HOME": str(nuggets_home())}
    if path := os.environ.get("PYTHONPATH"):
        entries = (str(Path(entry).absolute()) for entry in path.split(os.pathsep))
        own["PYTHONPATH"] = os.pathsep.join(entries)
    return own

"""What this machine offers: versions and devices, found in a child process. Torch-free.

Asking torch for devices means importing it (seconds, hundreds of megabytes), so the answer is
measured once per installation and kept in the cache.
"""

from __future__ import annotations

import json
import subprocess
import sys

import psutil
from pydantic import ValidationError

from nuggets.core.architecture import Frozen
from nuggets.core.device import DeviceInfo
from nuggets.errors import BadInput, NuggetsError
from nuggets.runs.commit import atomic_write, make_folder
from nuggets.runs.context import installed_versions
from nuggets.runs.home import cache_dir, nuggets_home

_CHILD = (
    "import json; from nuggets.core.device import describe_devices; "
    "print(json.dumps([d.model_dump() for d in describe_devices()]))"
)


class Doctor(Frozen):
    """Versions and devices; the first device is the one that `auto` means."""

    versions: dict[str, str]
    devices: tuple[DeviceInfo, ...]
    cores: int
    home: str


def diagnose(refresh: bool = False) -> Doctor:
    """Looks at the machine, or returns what was found with the same versions before."""
    path = cache_dir() / "doctor.json"
    versions = installed_versions()
    if not refresh and path.is_file():
        try:
            known = Doctor.model_validate_json(path.read_text())
            if known.versions == versions and known.home == str(nuggets_home()):
                return known
        except (ValidationError, OSError):
            pass  # a damaged cache entry is worth no more than a missing one
    found = Doctor(
        versions=versions,
        devices=_devices(),
        cores=psutil.cpu_count() or 1,
        home=str(nuggets_home()),
    )
    make_folder(path.parent)
    atomic_write(path, found.model_dump_json(indent=1))
    return found


def _devices() -> tuple[DeviceInfo, ...]:
    child = subprocess.run(  # noqa: S603 - our own interpreter and program
        [sys.executable, "-P", "-c", _CHILD], capture_output=True, text=True, check=False
    )
    if child.returncode != 0:
        last = child.stderr.strip().splitlines()[-1:] or ["no message"]
        raise NuggetsError(f"PyTorch does not start on this machine: {last[0]}")
    return tuple(DeviceInfo(**device) for device in json.loads(child.stdout.splitlines()[-1]))


def resolve_device_name(device: str) -> str:
    """The device that `auto` means here, or the one named.

    Raises:
        BadInput: for a device this machine does not have, naming those it has.
    """
    if device == "cpu":
        return device
    names = [found.name for found in diagnose().devices]
    if device == "auto":
        return names[0]
    if device == "cuda" and "cuda:0" in names:
        return "cuda:0"
    if device not in names:
        raise BadInput(f"There is no device {device!r} here; this machine has {', '.join(names)}.")
    return device

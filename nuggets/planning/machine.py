"""What this machine offers: versions and devices, found in a child process.

Asking torch for devices means importing it (seconds, hundreds of megabytes), so the answer is
measured once per installation and kept in the cache.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
from pydantic import ValidationError

from nuggets.compute.device import DeviceInfo
from nuggets.compute.speed import Speed, measure_cpu, measure_reads
from nuggets.compute.versions import installed_versions
from nuggets.disk.commit import atomic_write, make_folder
from nuggets.disk.home import cache_dir, nuggets_home
from nuggets.errors import BadInput, NuggetsError
from nuggets.frozen import Frozen
from nuggets.preflight.headers import this_machine
from nuggets.preflight.resources import Machine
from nuggets.runs.engines.settings import chosen

_CHILD = (
    "import json; from nuggets.compute.device import describe_devices; "
    "from nuggets.compute.speed import measure_device; devices = describe_devices(); "
    "speeds = [measure_device(d.name) for d in devices if d.name != 'cpu']; "
    "print(json.dumps([[x.model_dump() for x in found] for found in (devices, speeds)]))"
)


_ACCELERATORS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/nvmap", "/dev/dxg", "/dev/kfd")
"""What a Linux machine has when torch may find a GPU: NVIDIA's, Jetson's, WSL's, AMD's."""

_looking: list[subprocess.Popen[str]] = []
"""The child that looks at the machine for `diagnose_soon`, if one was started."""


class Doctor(Frozen):
    """Versions, devices and what they were measured to do; `auto` means the first device.

    `reads` are bytes per second from the disk with the home; None where it was not measured.
    `busy` says that others computed meanwhile: it is measured again when they no longer do.
    """

    versions: dict[str, str]
    devices: tuple[DeviceInfo, ...]
    speeds: tuple[Speed, ...] = ()
    cores: int
    home: str
    reads: float | None = None
    busy: bool = False


def diagnose(refresh: bool = False) -> Doctor:
    """Looks at the machine, or returns what was found with the same versions before.

    A machine without any accelerator needs no torch to be known; `refresh` asks torch all the
    same, which also shows whether it starts.
    """
    found = None if refresh else _known()
    if found is None:
        path = cache_dir() / "doctor.json"
        make_folder(path.parent)
        look = refresh or may_have_accelerator()
        devices, speeds = _devices() if look else ((_cpu(),), ())
        found = Doctor(
            versions=installed_versions(),
            devices=devices,
            speeds=(*speeds, measure_cpu()),
            cores=psutil.cpu_count() or 1,
            home=str(nuggets_home()),
            reads=measure_reads(path.parent),
            busy=_busy(),
        )
        atomic_write(path, found.model_dump_json(indent=1))
    return found


def diagnose_soon() -> Doctor | None:
    """As `diagnose`, but never waits for torch: None while a child still looks.

    Raises:
        NuggetsError: if the child ended without an answer.
    """
    if not may_have_accelerator() or _known() is not None:
        return diagnose()
    if not _looking:
        _looking.append(_start_looking())
    child = _looking[0]
    if child.poll() is None:
        return None
    _looking.clear()
    if child.returncode != 0:
        raise _does_not_start(child.communicate()[1])
    return _known()


def may_have_accelerator() -> bool:
    """Whether torch has to be asked for devices; False only where it can find the CPU alone."""
    if installed_versions().get("torch", "").endswith("+cpu"):
        return False
    return sys.platform != "linux" or any(Path(device).exists() for device in _ACCELERATORS)


def _known() -> Doctor | None:
    """What an earlier look found, if versions and home are still the same."""
    path = cache_dir() / "doctor.json"
    if not path.is_file():
        return None
    try:
        known = Doctor.model_validate_json(path.read_text())
    except (ValidationError, OSError):
        return None  # a damaged cache entry is worth no more than a missing one
    same = known.versions == installed_versions() and known.home == str(nuggets_home())
    return known if same and (not known.busy or _busy()) else None


def _busy() -> bool:
    """Whether half of the processors had work in the last minute."""
    return psutil.getloadavg()[0] > (psutil.cpu_count() or 1) / 2


def _cpu() -> DeviceInfo:
    memory = psutil.virtual_memory()
    label = f"CPU, {psutil.cpu_count() or 1} threads"
    return DeviceInfo(
        name="cpu", label=label, memory_total=memory.total, memory_free=memory.available
    )


def _start_looking() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", "from nuggets.planning.machine import diagnose; diagnose()"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _devices() -> tuple[tuple[DeviceInfo, ...], tuple[Speed, ...]]:
    child = subprocess.run(  # noqa: S603 - our own interpreter and program
        [sys.executable, "-P", "-c", _CHILD], capture_output=True, text=True, check=False
    )
    if child.returncode != 0:
        raise _does_not_start(child.stderr)
    devices, speeds = json.loads(child.stdout.splitlines()[-1])
    return tuple(DeviceInfo(**d) for d in devices), tuple(Speed(**s) for s in speeds)


def machine_of(device: str, folder: Path | None = None) -> Machine:
    """What is there on a device, by its resolved name: memory and disk free now, measured speed.

    Of a cluster's nodes it is the memory that a run asks for.

    Raises:
        BadInput: for a device this machine does not have.
    """
    engine, here = chosen(), this_machine(folder)
    if (placed := engine.place(device)) and (memory := engine.memory(placed)) is not None:
        return here.model_copy(update={"device": placed, "memory_free": memory, "speed": None})
    name, found = resolve_device_name(device), diagnose()
    gpu = next((d for d in found.devices if d.name == name and name.startswith("cuda")), None)
    return here.model_copy(
        update={
            "device": name,
            # Of a GPU all of it counts: runs take turns, and what is free changes.
            "memory_free": here.memory_free if gpu is None else gpu.memory_total,
            "speed": next((speed for speed in found.speeds if speed.device == name), None),
            "reads": found.reads,
        }
    )


def _does_not_start(stderr: str) -> NuggetsError:
    last = stderr.strip().splitlines()[-1:] or ["no message"]
    return NuggetsError(f"PyTorch cannot start on this machine: {last[0]}")


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
    if device == "mps":
        raise BadInput("Apple's GPUs (mps) are not used: PyTorch has no float64 on them, in which "
                       "sums are kept. Use device cpu.")  # fmt: skip
    if device not in names:
        raise BadInput(f"This machine has no device {device!r}; it has {', '.join(names)}.")
    return device

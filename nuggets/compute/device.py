"""Which device computes, in which number format, and how much memory it has.

Torch is imported only when a function is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from nuggets.frozen import Frozen

if TYPE_CHECKING:
    import torch

DType = Literal["float32", "bfloat16", "float16"]


class DeviceInfo(Frozen):
    """One device that can compute.

    Attributes:
        name: what a job's `device` takes, such as `cuda:0`.
        label: what the maker calls it.
        memory_total: bytes of memory; the machine's own for `cpu`.
        memory_free: bytes of memory that nobody uses now.
    """

    name: str
    label: str
    memory_total: int
    memory_free: int


def default_dtype(device: torch.device | str) -> DType:
    """The number format of a device unless told otherwise: bfloat16 on a GPU, else float32."""
    kind = str(device).partition(":")[0]
    if kind != "cuda":
        return "float32"
    import torch

    return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


def describe_devices() -> list[DeviceInfo]:
    """Every device that can compute here, from fast to slow; the CPU comes last.

    Apple's GPUs are none: PyTorch has no float64 on them, in which sums of scores and losses are
    kept.
    """
    import psutil
    import torch

    devices = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(index)
        label, name = torch.cuda.get_device_name(index), f"cuda:{index}"
        devices.append(DeviceInfo(name=name, label=label, memory_total=total, memory_free=free))
    total, free = (memory := psutil.virtual_memory()).total, memory.available
    label = f"CPU, {torch.get_num_threads()} threads"
    devices.append(DeviceInfo(name="cpu", label=label, memory_total=total, memory_free=free))
    return devices


def free_memory(name: str) -> int:
    """Bytes that are free on a device: `cuda:N`'s own, else the machine's."""
    import psutil
    import torch

    if name.startswith("cuda"):
        return torch.cuda.mem_get_info(torch.device(name))[0]
    return psutil.virtual_memory().available

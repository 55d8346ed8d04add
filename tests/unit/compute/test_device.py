"""Devices: names, the choice of auto, and default number formats."""

from __future__ import annotations

import os

import pytest
import torch

from nuggets.compute import device
from nuggets.compute.device import DeviceInfo, default_dtype, describe_devices, resolve_device
from nuggets.compute.speed import measure_reads
from nuggets.errors import BadInput


def info(name: str, free: int) -> DeviceInfo:
    return DeviceInfo(name=name, label=name, memory_total=100, memory_free=free)


TWO_GPUS = [info("cuda:0", 10), info("cuda:1", 90), info("cpu", 99)]


@pytest.mark.parametrize(
    ("name", "there", "chosen"),
    [
        ("auto", TWO_GPUS, "cuda:1"),
        ("cuda", TWO_GPUS, "cuda:1"),
        ("cuda:0", TWO_GPUS, "cuda:0"),
        ("cpu", TWO_GPUS, "cpu"),
        ("auto", [info("mps", 5), info("cpu", 99)], "mps"),
        ("auto", [info("cpu", 1)], "cpu"),
    ],
)
def test_device_is_chosen_by_name_or_by_free_memory(monkeypatch, name, there, chosen):
    monkeypatch.setattr(device, "describe_devices", lambda: there)
    assert str(resolve_device(name)) == chosen


@pytest.mark.parametrize("name", ["cuda:2", "mps"])
def test_absent_device_names_those_that_are_there(monkeypatch, name):
    monkeypatch.setattr(device, "describe_devices", lambda: TWO_GPUS)
    match = f"This machine has no device '{name}'; it has: cuda:0, cuda:1, cpu"
    with pytest.raises(BadInput, match=match):
        resolve_device(name)


@pytest.mark.parametrize("name", ["tpu", "cuda:", "cuda:x", "", "CUDA"])
def test_unknown_device_is_refused(name):
    with pytest.raises(BadInput, match="is unknown; write auto, cpu, mps, cuda or cuda:0"):
        resolve_device(name)


def test_the_cpu_is_always_described_last_with_its_memory():
    cpu = describe_devices()[-1]
    assert cpu.name == "cpu"
    assert cpu.memory_total >= cpu.memory_free > 0


def test_float32_is_the_default_off_the_gpu():
    assert default_dtype("cpu") == default_dtype(torch.device("mps")) == "float32"


@pytest.mark.parametrize(("able", "dtype"), [(True, "bfloat16"), (False, "float16")])
def test_gpus_compute_in_half_precision(monkeypatch, able, dtype):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: able)
    assert default_dtype("cuda:0") == dtype


def test_reads_are_measured_where_a_file_can_be_written_and_leave_none(tmp_path, monkeypatch):
    rate = measure_reads(tmp_path)
    assert rate is not None
    assert 1e5 < rate < 1e12
    assert list(tmp_path.iterdir()) == []
    assert measure_reads(tmp_path / "missing") is None
    monkeypatch.delattr(os, "posix_fadvise")
    assert measure_reads(tmp_path) is None

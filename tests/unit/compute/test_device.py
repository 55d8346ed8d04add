"""Devices of this machine and their default number formats."""

from __future__ import annotations

import os

import pytest
import torch

from nuggets.compute.device import default_dtype, describe_devices
from nuggets.compute.speed import measure_reads


def test_the_cpu_is_always_described_last_with_its_memory(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    *others, cpu = describe_devices()
    assert "mps" not in [device.name for device in others]
    assert cpu.name == "cpu"
    assert cpu.memory_total >= cpu.memory_free > 0


def test_float32_is_the_default_off_the_gpu():
    assert default_dtype("cpu") == default_dtype(torch.device("cpu")) == "float32"


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

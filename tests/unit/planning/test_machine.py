"""What a machine was measured to do, and when it is measured again."""

from __future__ import annotations

import pytest

from nuggets.compute.device import DeviceInfo
from nuggets.compute.speed import Speed
from nuggets.errors import BadInput
from nuggets.planning import machine as doctor


def test_what_was_measured_on_a_busy_machine_is_measured_again_when_it_no_longer_is(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "may_have_accelerator", lambda: False)
    measured, load = [], [100.0]

    def measure():
        measured.append(load[0])
        return Speed(device="cpu", flops={"float32": 1e9}, bandwidth=1e9, call=0.0)

    monkeypatch.setattr(doctor, "measure_cpu", measure)
    monkeypatch.setattr(doctor.psutil, "getloadavg", lambda: (load[0], 0.0, 0.0))
    assert doctor.diagnose().busy
    assert doctor.diagnose().busy
    assert measured == [100.0]
    load[0] = 0.0
    assert not doctor.diagnose().busy
    load[0] = 100.0
    found = doctor.diagnose()
    assert not found.busy
    assert measured == [100.0, 0.0]
    assert found.reads is None or found.reads > 0
    assert doctor.machine_of("cpu").reads == found.reads


def has(monkeypatch, *names):
    devices = [DeviceInfo(name=n, label=n, memory_total=100, memory_free=50) for n in names]
    found = doctor.Doctor.model_construct(devices=devices)
    monkeypatch.setattr(doctor, "diagnose", lambda: found)


@pytest.mark.parametrize(
    ("name", "there", "chosen"),
    [
        ("auto", ("cuda:0", "cuda:1", "cpu"), "cuda:0"),
        ("cuda", ("cuda:0", "cuda:1", "cpu"), "cuda:0"),
        ("cuda:1", ("cuda:0", "cuda:1", "cpu"), "cuda:1"),
        ("auto", ("cpu",), "cpu"),
        ("cpu", ("cuda:0", "cpu"), "cpu"),
    ],
)
def test_a_device_is_the_one_named_or_the_fastest(monkeypatch, name, there, chosen):
    has(monkeypatch, *there)
    assert doctor.resolve_device_name(name) == chosen


@pytest.mark.parametrize("name", ["cuda:2", "tpu", "cuda:x", "", "CUDA"])
def test_a_device_that_is_not_there_names_those_that_are(monkeypatch, name):
    has(monkeypatch, "cuda:0", "cuda:1", "cpu")
    match = f"This machine has no device '{name}'; it has cuda:0, cuda:1, cpu"
    with pytest.raises(BadInput, match=match):
        doctor.resolve_device_name(name)


def test_an_apple_gpu_is_refused_with_the_reason(monkeypatch):
    has(monkeypatch, "cpu")
    with pytest.raises(BadInput, match=r"no float64 on them.*Use device cpu"):
        doctor.resolve_device_name("mps")

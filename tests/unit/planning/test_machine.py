"""What a machine was measured to do, and when it is measured again."""

from __future__ import annotations

from nuggets.compute.speed import Speed
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

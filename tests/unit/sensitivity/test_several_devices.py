"""Sensitivity on several devices: what fails in one process is told by the one that waits."""

import pytest
from torch.multiprocessing.spawn import ProcessRaisedException

from nuggets.errors import NuggetsError
from nuggets.sensitivity import several_devices


def test_a_process_that_fails_is_told(tmp_path, monkeypatch):
    killed = []

    class Process:
        is_alive = staticmethod(lambda: True)
        kill = staticmethod(lambda: killed.append(1))

    class Running:
        processes = (Process, Process)

        def join(self, timeout):
            raise ProcessRaisedException("no memory left", 1, 4)

    monkeypatch.setattr(several_devices, "spawn", lambda *_, **__: Running())
    with pytest.raises(NuggetsError, match="A process of 2 failed: no memory left"):
        several_devices.measure_on(["cpu"] * 2, None, [([1, 2], [-100, 2])], tmp_path)
    assert len(killed) == 2, "the other one is not left at work"

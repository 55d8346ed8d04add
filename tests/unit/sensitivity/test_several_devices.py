"""Sensitivity on several devices: what fails in one process is told by the one that waits."""

from types import SimpleNamespace

import pytest
from torch.multiprocessing.spawn import ProcessRaisedException

from nuggets.errors import NuggetsError
from nuggets.models.references import parse_ref
from nuggets.sensitivity import hooks, several_devices
from nuggets.sensitivity.maps import SensitivityMap


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


def test_every_process_checkpoints_and_the_first_alone_keeps_a_map(tiny, tmp_path, monkeypatch):
    """Each as if it were alone: what they add up among themselves is tried on several devices."""
    ref, encoded = parse_ref(str(tiny())), [([3, 4, 5], [-100, 4, 5])]
    spawned, measured = [], []

    def spawn(rank, arguments, **_):
        spawned.append(arguments)
        return SimpleNamespace(processes=(), join=lambda timeout: True)

    def measure(*given, real=hooks.compute_sensitivity, **options):
        measured.append((options["checkpoint"], real(*given, **options)))
        return measured[-1][1]

    monkeypatch.setattr(several_devices, "spawn", spawn)
    monkeypatch.setattr(hooks, "compute_sensitivity", measure)
    for module, name in (("signal", "signal"), ("torch", "set_num_threads"), ("os", "_exit")):
        monkeypatch.setattr(getattr(several_devices, module), name, lambda *_: None)
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(several_devices.dist, name, lambda *_, **__: None)
    several_devices.measure_on(["cpu"] * 2, ref, encoded, tmp_path, checkpoint=True)
    for rank in range(2):
        several_devices._rank(rank, *spawned[0])
    assert [checkpoint for checkpoint, _ in measured] == [True, True]
    written = SensitivityMap.load(tmp_path)
    assert written.full
    assert [list(map.full) for _, map in measured] == [list(written.full), []]
    assert not measured[1][1].rows

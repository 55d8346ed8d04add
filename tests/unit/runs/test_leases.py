"""Ownership among machines that share a disk whose locks always succeed."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from nuggets import worker
from nuggets.disk.hosts import born
from nuggets.disk.locks import Lock
from nuggets.errors import RunBusy
from nuggets.runs import launch, leases
from nuggets.runs.context import RunContext


@pytest.fixture(autouse=True)
def locks_that_always_succeed(monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda fd, kind: None)


@pytest.fixture
def on(monkeypatch):
    """`on("b")`: from now on this process is on another machine."""
    return lambda host: monkeypatch.setenv("NUGGETS_HOST", host)


def set_status(run, status):
    run.record_path.write_text(run.record().changed(status=status).model_dump_json())


def rewrite(held, **fields):
    path = held.folder / "lease.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_run_at_work_elsewhere_is_running_here_and_cannot_be_taken(run, on, pipeline):
    pipeline(lambda run, ctx: pytest.fail("it runs twice"))
    on("a")
    with run.owned():
        set_status(run, "running")
        on("b")
        assert run.status() == "running"
        with pytest.raises(RunBusy, match="belongs to a"):
            worker.run_in_foreground(run, lambda event: None)
        with pytest.raises(RunBusy, match="already running"):
            launch.resume(run)
        with pytest.raises(RunBusy, match="belongs to a"):
            run.delete()
    assert run.status() == "interrupted"
    with run.owned():
        assert leases.newest(run.folder).number == 2


def test_of_many_that_claim_a_run_exactly_one_gets_it(store, on):
    on("a")
    for _ in range(3):
        run = store.create("toy", "{}", "toy")
        won, ready = [], threading.Barrier(5)

        def race(run=run, won=won, ready=ready):
            ready.wait()
            try:
                won.append(leases.claim(run.folder))
            except RunBusy:
                won.append(None)

        racers = [threading.Thread(target=race) for _ in range(5)]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
        assert sorted(each is None for each in won) == [False, True, True, True, True]


def test_a_host_that_falls_silent_loses_its_run_and_stops_when_it_wakes(run, on):
    on("a")
    with run.owned():
        ctx = RunContext(run)
        ctx.set_status("running")
        lease, now = leases.newest(run.folder).folder / "lease.json", time.time()
        on("b")
        os.utime(lease, (now, now - leases.SILENCE_S + 60))
        assert run.status() == "running"
        os.utime(lease, (now, now - leases.SILENCE_S - 60))
        assert run.status() == "interrupted"
        taken = type(run)(run.folder)
        with taken.owned():
            events = run.events_path.read_bytes()
            for write in (lambda: ctx.log("too late"), lambda: ctx.set_status("done")):
                with pytest.raises(RunBusy, match="taken over by another worker"):
                    write()
            with pytest.raises(RunBusy, match="taken over"), ctx.commit("late") as folder:
                (folder / "adapter.bin").write_bytes(b"late")
            assert not (run.folder / "artifacts" / "late").exists()
            assert run.events_path.read_bytes() == events
            assert run.record().status == "running"
        ctx.close()
    assert leases.newest(run.folder).released


def test_the_heartbeat_touches_the_lease(run, monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT_S", 0.01)
    with run.owned():
        lease = leases.newest(run.folder).folder / "lease.json"
        os.utime(lease, (0, 0))
        deadline = time.monotonic() + 60
        while lease.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lease.stat().st_mtime > 0


def test_a_dead_process_of_this_kernel_is_known_to_be_dead_at_once(run, on):
    on("a")
    held = leases.claim(run.folder)
    set_status(run, "running")
    assert run.status() == "running"
    rewrite(held, since="an earlier process of that number")
    assert run.status() == "interrupted"
    rewrite(held, pid=2**22 + 1)
    assert run.status() == "interrupted"


def test_a_job_that_cannot_be_asked_for_is_not_taken_for_dead(run, on, monkeypatch):
    on("node1")
    monkeypatch.setenv(leases.JOB, "slurm:7")
    monkeypatch.setenv("PATH", "/nowhere")
    held = leases.claim(run.folder)
    set_status(run, "running")
    on("login")
    os.utime(held.folder / "lease.json", (0, 0))
    assert run.status() == "running"
    on("node2")  # Slurm began the job anew there, so it ended on the first node
    assert leases.claim(run.folder).number == 2
    monkeypatch.setenv(leases.JOB, "slurm:8")
    with pytest.raises(RunBusy, match="belongs to slurm:7"):
        leases.claim(run.folder)


def test_a_task_of_ray_that_nobody_here_can_ask_for_lives_while_its_lease_is_touched(run, on):
    on("starter")
    waiting = leases.claim(run.folder, waiting=True)
    waiting.note_job("ray:starter/auto/1")
    assert run.status() == "interrupted"  # its keeper is dead
    on("other")
    assert run.status() == "queued"
    os.utime(waiting.folder / "lease.json", (0, 0))
    assert run.status() == "interrupted"
    leases.touch(waiting.folder)  # as the keeper does
    assert run.status() == "queued"


def test_a_dead_worker_of_rays_is_dead_although_ray_has_not_said_so(run, on, monkeypatch):
    on("node1")
    monkeypatch.setenv(leases.JOB, "ray:starter/auto/1")
    monkeypatch.setattr(leases, "job_state", lambda job: "running")
    held = leases.claim(run.folder)
    set_status(run, "running")
    assert run.status() == "running"
    rewrite(held, pid=2**22 + 1)
    assert run.status() == "interrupted"
    on("node2")
    assert run.status() == "running"  # it may live there
    os.utime(held.folder / "lease.json", (0, 0))
    assert run.status() == "interrupted"


@pytest.mark.parametrize("content", ["", "{", "{}"])
def test_a_damaged_lease_is_nobodys_and_its_number_counts(run, content):
    held = leases.claim(run.folder)
    (held.folder / "lease.json").write_text(content)
    set_status(run, "running")
    assert run.status() == "interrupted"
    assert leases.claim(run.folder).number == 2


def test_a_run_without_a_lease_is_one_of_an_older_version(run):
    assert leases.newest(run.folder) is None
    set_status(run, "running")
    assert run.status() == "interrupted"


def test_deleting_needs_no_lease(run, monkeypatch):
    monkeypatch.setattr(leases, "claim", lambda *a: pytest.fail("a full disk has no room for it"))
    run.delete()
    assert not run.folder.exists()


def test_a_disk_without_locks_is_no_error(tmp_path, monkeypatch):
    def missing(fd, kind):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    lock = Lock(tmp_path / "lock")
    assert lock.acquire()
    lock.release()


def test_a_process_is_told_from_a_dead_one():
    child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    assert born(child.pid)
    assert born(child.pid) == born(child.pid) != ""
    child.stdin.close()
    deadline = time.monotonic() + 60
    while born(child.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert born(child.pid) == ""  # a zombie still
    child.wait()
    assert born(child.pid) == ""


def test_a_run_whose_worker_has_just_come_from_the_queue_is_still_queued(store, monkeypatch):
    """Whoever follows it would take it for ended: no attempt is written down yet."""
    run = store.create("toy", "job: toy\n", "toy")
    ticket = leases.claim(run.folder, waiting=True)
    ticket.note_job("slurm:7")
    monkeypatch.setattr(leases, "job_state", lambda job: "running")
    assert run.status() == "queued"
    monkeypatch.setenv(leases.TICKET, ticket.lease.token)
    monkeypatch.setenv(leases.JOB, "slurm:7")
    worker = leases.claim(run.folder)
    assert (run.record().status, run.status()) == ("created", "queued")
    worker.release()
    assert run.status() == "interrupted"

"""Runs as Slurm jobs: queued, cancelled, killed with their node, requeued, refused."""

import os
import signal
from pathlib import Path

import pytest

from nuggets import api
from nuggets.cli import transfers
from nuggets.disk.locks import is_held
from nuggets.errors import BadInput, NuggetsError, RunBusy
from nuggets.runs import launch, leases, queues
from nuggets.runs.engines.slurm import SlurmEngine
from nuggets.sweeps.spreading import Spread
from tests.faults.fake_slurm import FakeSlurm

ENGINE = SlurmEngine(gpus=0, cpus=1, memory_gb=1, hours=1)
NODES = "short*|30:00|16|64000|(null)|4\ngpu|2-00:00:00|32|256000|gpu:a100:4(S:0-1)|2\n"


@pytest.fixture
def slurm(store, tmp_path, monkeypatch):
    """A cluster whose login node is this process."""
    fake = FakeSlurm(tmp_path / "slurm")
    fake.install(tmp_path / "bin")
    fake.set("sinfo")
    monkeypatch.setenv("FAKE_SLURM", str(fake.root))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("NUGGETS_HOST", "login")
    monkeypatch.setattr(queues, "ASK_EVERY_S", 0.0)
    monkeypatch.setattr(queues, "_gone", set())
    yield fake
    fake.end_all()


def held_at(run, step):
    return any(e.data.get("step") == step for e in run.events())


def final(run):
    return (run.folder / "artifacts" / "final" / "adapter.bin").read_bytes()


def test_a_run_waits_is_cancelled_in_the_queue_and_runs_when_resumed(slurm, toy, until):
    slurm.set("hold")
    run = toy()
    launch.start(run, ENGINE)
    (job,) = slurm.jobs()
    assert (run.status(), run.queued_job(), run.record().attempts) == ("queued", f"slurm:{job}", 0)
    for again in (launch.start, launch.resume):
        with pytest.raises(RunBusy, match="already queued"):
            again(run, ENGINE)
    with pytest.raises(RunBusy, match=f"belongs to slurm:{job}"):
        run.delete()
    assert launch.cancel(run) == "cancelled"
    assert slurm.state(job) == "CANCELLED"
    assert "cancelled while it waited" in run.record().error.message
    slurm.unset("hold")
    launch.resume(run, ENGINE)
    until(lambda: run.status() == "done")
    assert (run.record().attempts, run.record().error) == (1, None)
    until(lambda: leases.newest(run.folder).released)
    lease = leases.newest(run.folder).lease
    assert (lease.host, lease.job) == ("node1", "slurm:102")


def test_a_killed_nodes_run_is_interrupted_once_the_queue_says_so_and_no_byte_changes(
    slurm, toy, until
):
    undisturbed, run = toy(steps=12), toy(steps=12, hold_at=8)
    launch.start(undisturbed, ENGINE)
    launch.start(run, ENGINE)
    until(lambda: held_at(run, 8))
    slurm.set("power cut")  # nobody there can tell the queue
    slurm.send(102, signal.SIGKILL)
    until(lambda: undisturbed.status() == "done" and not is_held(run.lock_path))
    assert run.status() == "running"
    with pytest.raises(RunBusy):
        launch.resume(run, ENGINE)
    slurm.set("down")
    slurm.state(102, "NODE_FAIL")
    assert run.status() == "running"  # nobody takes a job for dead unasked
    slurm.unset("down")
    assert run.status() == "interrupted"
    (run.folder / "go").touch()
    launch.resume(run, ENGINE)
    until(lambda: run.status() == "done")
    assert final(run) == final(undisturbed)
    assert run.record().attempts == 2


def test_a_job_that_vanished_before_its_worker_began_can_be_resumed(slurm, toy):
    slurm.set("hold")
    run = toy()
    launch.start(run, ENGINE)
    slurm.state(101, "NODE_FAIL")
    assert run.status() == "interrupted"
    launch.resume(run, ENGINE)
    assert run.queued_job() == "slurm:102"


def test_a_run_whose_time_is_up_goes_back_into_the_queue_and_continues(slurm, toy, until):
    run = toy(steps=12, hold_at=8)
    launch.start(run, ENGINE)
    until(lambda: held_at(run, 8))
    slurm.send(101, signal.SIGUSR2)
    until(lambda: slurm.state(101) == "PENDING")
    until(lambda: run.status() == "queued")
    assert run.record().status == "running"
    (slurm.root / "101" / "group").unlink()
    (run.folder / "go").touch()
    slurm.begin(101, "node2")
    until(lambda: run.status() == "done")
    assert leases.newest(run.folder).lease.host == "node2"
    assert run.record().attempts == 2


def test_the_command_line_follows_cancels_and_resumes_jobs(slurm, nuggets, monkeypatch):
    monkeypatch.setenv("NUGGETS_PIPELINE", "toy_pipeline:nothing")
    slurm.set("hold")

    def interrupted(run):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(transfers, "_await", interrupted)
        assert nuggets("run", "quick", "--engine", "slurm").code == 1
    (run,) = api.runs()
    assert (run.status(), run.record().provenance.device) == ("cancelled", "cuda")
    slurm.unset("hold")
    assert nuggets("resume", run.id, "--engine", "slurm").code == 0
    assert nuggets("follow", run.id).code == 0
    assert [e.message for e in run.events() if e.type == "log"] == ["on cuda:0"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            {"hours": 2},
            "No node of the default partition has 0 GPUs, 1 CPUs, 1 GB of memory for 2 h",
        ),
        ({"partition": "gpu", "gpus": 8}, "No node of partition gpu has 8 GPUs"),
        ({"partition": "gpu", "memory_gb": 512}, "512 GB of memory"),
        ({"partition": "none"}, "No node of partition none"),
    ],
)
def test_what_no_node_can_hold_is_refused_saying_what_the_cluster_has(slurm, toy, asked, words):
    slurm.set("sinfo", NODES)
    offer = (
        r"The cluster has short: 4 × 16 CPUs, 67 GB, up to 30 min 00 s; "
        r"gpu: 2 × 32 CPUs, 268 GB, 4 GPUs, up to 48 h 00 min\.$"
    )
    engine = SlurmEngine.model_validate({**dict(ENGINE), **asked})
    with pytest.raises(BadInput, match=words) as refused:
        engine.check("cuda")
    assert refused.match(offer)
    assert slurm.jobs() == []


def test_what_fits_is_taken(slurm):
    slurm.set("sinfo", NODES)
    SlurmEngine(partition="gpu", gpus=4, cpus=32, memory_gb=268, hours=48).check("cuda")
    SlurmEngine(gpus=8, cpus=16, memory_gb=67, hours=0.5).check("cpu")  # asks for no GPU


def test_a_run_that_the_queue_refuses_can_be_started_again(slurm, toy):
    run = toy()
    with pytest.raises(NuggetsError, match="invalid partition specified"):
        launch.start(run, SlurmEngine.model_validate({**dict(ENGINE), "partition": "broken"}))
    assert run.status() == "created"
    slurm.set("hold")
    launch.start(run, ENGINE)
    assert run.status() == "queued"


@pytest.mark.parametrize(
    ("gpus", "device", "placed"),
    [(1, "auto", "cuda"), (0, "auto", "cpu"), (2, "cuda:1", "cuda"), (1, "cpu", "cpu")],
)
def test_the_device_of_a_run_is_what_slurm_gives(gpus, device, placed):
    assert SlurmEngine(gpus=gpus).place(device) == placed


@pytest.mark.parametrize(("gpus", "device"), [(0, "cuda"), (1, "xpu")])
def test_a_device_that_is_not_asked_for_is_refused(gpus, device):
    with pytest.raises(BadInput, match="cannot be asked of Slurm"):
        SlurmEngine(gpus=gpus).place(device)


def test_the_trials_of_a_sweep_are_jobs_and_one_that_its_node_lost_goes_on(slurm, monkeypatch):
    tests = Path(__file__).parents[1]
    monkeypatch.setenv("NUGGETS_PIPELINE", "sweep_pipeline:execute")
    monkeypatch.setenv("PYTHONPATH", f"{tests.parent}{os.pathsep}{tests / 'unit' / 'sweeps'}")
    monkeypatch.setenv("NUGGETS_ENGINE", "{kind: slurm, gpus: 0, cpus: 1, memory_gb: 4, hours: 1}")
    looks = []

    def node_fails(spread):
        looks.append(slurm.jobs())
        if len(looks) == 1:
            slurm.send(101, signal.SIGKILL)
            slurm.state(101, "NODE_FAIL")

    monkeypatch.setattr(Spread, "_look", node_fails)
    settings = ["lora.r=8,20", "seeds=[0,1]", "device=cpu"]
    sweep = api.load_sweep("quick", settings, sampler="grid", confirm={"seeds": 3})
    state = api.sweeping.state_of(api.sweeping.run(sweep))
    assert len(looks[0]) == 2, "both trials were in the queue together"
    assert [t.status for t in state.trials] == ["done", "done"]
    assert state.confirmed is not None
    assert len(slurm.jobs()) == 1 + 2 + 2
    held = [leases.newest(api.open_run(t.run).folder).lease.job for t in state.trials]
    assert held == ["slurm:103", "slurm:102"]

"""Runs as Ray tasks with a stand-in for Ray; what a real one does: `test_ray_cluster.py`."""

import json
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from nuggets import api
from nuggets.errors import BadInput, NuggetsError, RunBusy
from nuggets.runs import launch, leases, processes, ray_tasks
from nuggets.runs.engines.ray import RayEngine
from nuggets.runs.fan_out import submit_all

ENGINE = RayEngine(gpus=0, address="auto")
GPU_ENGINE = RayEngine(gpus=1, address="auto")


class FakeCluster:
    """A hand on the stand-in."""

    def __init__(self, root):
        self.root = root
        root.mkdir()

    def has(self, *nodes):
        (self.root / "new").write_text(json.dumps(nodes))
        (self.root / "new").rename(self.root / "nodes.json")

    def keepers(self):
        own = (c for c in processes.children if "nuggets.runs.engines.ray_keeper" in c.args)
        return [psutil.Process(child.pid) for child in own if child.poll() is None]


@pytest.fixture
def ray(store, tmp_path, monkeypatch):
    """A cluster of one node without GPUs."""
    fake = FakeCluster(tmp_path / "ray")
    fake.has({"CPU": 2})
    library = str(Path(__file__).parent / "fake_ray")
    monkeypatch.setenv("FAKE_RAY", str(fake.root))
    monkeypatch.setenv("PYTHONPATH", library, prepend=os.pathsep)
    monkeypatch.syspath_prepend(library)
    return fake


def held_at(run, step):
    return any(e.data.get("step") == step for e in run.events())


def final(run):
    return (run.folder / "artifacts" / "final" / "adapter.bin").read_bytes()


def files():
    folder = ray_tasks.keeper_folder("auto")
    return {p.name for p in folder.iterdir()} - {"lock", "output.log", "cluster.json"}


def test_runs_wait_for_room_are_cancelled_in_the_queue_and_resumed(ray, toy, until):
    first, second = toy(steps=12, hold_at=8), toy(steps=12)
    ray.has({"CPU": 1})
    launch.start(first, ENGINE)
    launch.start(second, ENGINE)
    until(lambda: held_at(first, 8))
    assert (first.status(), second.status(), second.record().attempts) == ("running", "queued", 0)
    job = second.queued_job()
    assert job.startswith("ray:")
    with pytest.raises(RunBusy, match="already queued"):
        launch.start(second, ENGINE)
    with pytest.raises(RunBusy, match=f"belongs to {job}"):
        second.delete()
    assert launch.cancel(second) == "cancelled"
    assert "cancelled while it waited" in second.record().error.message
    assert len(files()) == 1
    launch.resume(second, ENGINE)
    assert second.status() == "queued"
    assert launch.cancel(first, 10) == "cancelled"
    until(lambda: second.status() == "done")
    until(lambda: not files())
    assert second.record().attempts == 1
    assert leases.newest(second.folder).released
    assert "ray" not in sys.modules, "only the keeper imports Ray"


def test_each_run_gets_gpus_of_its_own_whatever_this_machine_would_choose(
    ray, toy, until, monkeypatch
):
    api.engines.use("local", ["gpus=[5]"])
    ray.has({"CPU": 4, "GPU": 2})
    runs = [toy(device="cuda", steps=9, hold_at=8) for _ in range(3)]
    for run in runs:
        launch.start(run, GPU_ENGINE)
    until(lambda: sum(held_at(run, 8) for run in runs) == 2)
    visible = []
    for run in runs[:2]:
        pid = int((run.folder / "attempts.txt").read_text())
        visible.append(psutil.Process(pid).environ()["CUDA_VISIBLE_DEVICES"])
        assert run.record().provenance.device == "cuda:0"
    assert sorted(visible) == ["0", "1"]
    assert (runs[2].status(), GPU_ENGINE.at_once("cuda"), GPU_ENGINE.at_once("cpu")) == (
        "queued",
        2,
        4,
    )
    for run in runs:
        (run.folder / "go").touch()
    until(lambda: all(run.status() == "done" for run in runs))


def test_a_run_whose_node_died_is_interrupted_says_why_and_no_byte_changes(ray, toy, until):
    undisturbed, run = toy(steps=12), toy(steps=12, hold_at=8)
    launch.start(undisturbed, ENGINE)
    launch.start(run, ENGINE)
    until(lambda: held_at(run, 8) and undisturbed.status() == "done")
    pid = int((run.folder / "attempts.txt").read_text())
    ray.has()
    until(lambda: run.status() == "interrupted")
    until(lambda: not psutil.pid_exists(pid))
    assert "NodeDiedError: Task failed because the node" in run.log_tail()
    ray.has({"CPU": 1})
    until(lambda: ray_tasks.cluster(ray_tasks.keeper_folder("auto")))
    (run.folder / "go").touch()
    assert submit_all([run], ENGINE) == ["done"]
    assert final(run) == final(undisturbed)
    assert run.record().attempts == 2


def test_a_killed_keeper_ends_its_runs_and_the_next_one_starts_none_of_them_unasked(
    ray, toy, until
):
    ray.has({"CPU": 1})
    run, waiting = toy(steps=12, hold_at=8), toy(steps=12)
    launch.start(run, ENGINE)
    launch.start(waiting, ENGINE)
    until(lambda: held_at(run, 8))
    (keeper,) = ray.keepers()
    for process in [keeper, *keeper.children()]:  # Ray ends a program's tasks with it
        process.send_signal(signal.SIGKILL)
    until(lambda: (run.status(), waiting.status()) == ("interrupted", "interrupted"))
    (run.folder / "go").touch()
    launch.resume(run, ENGINE)
    until(lambda: run.status() == "done")
    assert (run.record().attempts, waiting.record().attempts) == (2, 0)
    launch.resume(waiting, ENGINE)
    until(lambda: waiting.status() == "done")


@pytest.mark.parametrize(
    ("asked", "device", "words"),
    [
        ({"gpus": 4}, "cuda", "4 GPUs, 1 CPU a run"),
        ({"cpus": 9}, "cpu", "0 GPUs, 9 CPUs a run"),
        ({"memory_gb": 65.0}, "cpu", "0 GPUs, 1 CPU, 65 GB of memory a run"),
    ],
)
def test_what_no_node_can_hold_is_refused_saying_what_the_cluster_has(
    ray, monkeypatch, asked, device, words
):
    folder = ray_tasks.keeper_folder("auto")
    nodes = [ray_tasks.Node(8, 2, 64e9)] * 2 + [ray_tasks.Node(4, 0, 16e9)]
    monkeypatch.setattr(ray_tasks, "cluster", lambda where: nodes if where == folder else None)
    with pytest.raises(BadInput, match=f"No node of the Ray cluster has {words}") as refused:
        RayEngine.model_validate({**dict(GPU_ENGINE), **asked}).check(device)
    offer = r"It has 2 × 8 CPUs, 64 GB, 2 GPUs; 1 × 4 CPUs, 16 GB\. Ask for less"
    assert refused.match(offer)
    assert ("--set gpus=0" in str(refused.value)) == (device == "cuda")
    fits = RayEngine(address="auto", gpus=2, cpus=3, memory_gb=30)
    fits.check("cuda")
    assert (fits.at_once("cuda"), fits.at_once("cpu")) == (2, 4)


def test_a_cluster_that_is_not_there_is_said_at_once_and_leaves_the_run_to_be_started(
    ray, toy, until
):
    ray.has()
    run = toy(steps=1)
    for engine, words in (
        (ENGINE, "at 'auto': ConnectionError: Could not find any running Ray"),
        (RayEngine(gpus=0, address="127.0.0.1:1"), r"at '127\.0\.0\.1:1': ConnectionRefusedError"),
    ):
        with pytest.raises(NuggetsError, match=f"No Ray cluster answers {words}"):
            launch.start(run, engine)
    assert run.status() == "created"
    assert not list((run.folder / "leases").glob("*"))


def test_a_keeper_without_work_ends_and_the_next_run_gets_another(ray, toy, until, monkeypatch):
    monkeypatch.setenv("NUGGETS_RAY_IDLE_S", "0.2")
    first, second = toy(steps=1), toy(steps=1)
    launch.start(first, ENGINE)
    until(lambda: first.status() == "done")
    until(lambda: not ray.keepers())
    launch.start(second, ENGINE)
    until(lambda: second.status() == "done")
    assert first.status() == "done"


def test_the_command_line_follows_runs_and_stops_them(ray, nuggets, monkeypatch):
    monkeypatch.setenv("NUGGETS_PIPELINE", "toy_pipeline:nothing")
    monkeypatch.setenv("NUGGETS_RAY_IDLE_S", "3")  # the keeper outlives the command
    said = nuggets("run", "quick", "--engine", "{kind: ray, gpus: 0, address: auto}")
    assert said.code == 0
    (run,) = api.runs()
    assert (run.status(), run.record().provenance.device) == ("done", "cpu")
    refused = nuggets("run", "quick", "--engine", "{kind: ray, address: auto}")
    assert refused.code == 2
    assert "No node of the Ray cluster has 1 GPU, 1 CPU a run. It has 1 × 2 CPUs" in refused.err
    assert len(api.runs()) == 1

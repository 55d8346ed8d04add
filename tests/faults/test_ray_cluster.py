"""A real Ray cluster of four nodes here: what happens when a part of it is killed (`make engines`).

Its GPUs are numbers that Ray hands out. Every kill comes while a run is at step 8 of 12, after the
checkpoint of step 5, and another one waits or has just begun.
"""

import os
import signal
import time

import psutil
import pytest

from nuggets import api
from nuggets.errors import BadInput, NuggetsError
from nuggets.runs import launch, processes, ray_tasks
from nuggets.runs.engines.ray import RayEngine
from nuggets.runs.fan_out import submit_all

pytestmark = pytest.mark.slow
HEAD_GONE_S = "3"


@pytest.fixture
def cluster(monkeypatch, tmp_path):
    """A head with nothing to give, and three nodes of 2 CPUs and 2 GPUs."""
    utils = pytest.importorskip("ray.cluster_utils", reason="needs nuggets[ray]")
    for name, value in {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
        "RAY_gcs_rpc_server_reconnect_timeout_s": HEAD_GONE_S,
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "token").write_text("0" * 64)
    made = utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    for _ in range(3):
        made.add_node(num_cpus=2, num_gpus=2)
    yield made
    made.shutdown()


@pytest.fixture
def engine(cluster):
    return RayEngine(address=cluster.address, gpus=1)


@pytest.fixture
def kills(rounds):
    """How often each part is killed: 2, or a tenth of NUGGETS_FAULT_ROUNDS."""
    return max(2, rounds // 10)


def held_at(run, step):
    return any(e.data.get("step") == step for e in run.events())


def final(run):
    return (run.folder / "artifacts" / "final" / "adapter.bin").read_bytes()


def attempts(run):
    return [int(pid) for pid in (run.folder / "attempts.txt").read_text().split()]


def dies(pid, until):
    """Whoever was at work is gone, so that nothing can run twice."""
    until(lambda: not psutil.pid_exists(pid))


def continued(run, engine, undisturbed, until):
    """An interrupted run goes on from its last commit to the same bytes, in one more attempt."""
    until(lambda: run.status() == "interrupted")
    before = attempts(run)
    dies(before[-1], until)
    (run.folder / "go").touch()
    until(lambda: engine.at_once("cuda") > 1)
    assert submit_all([run], engine) == ["done"]
    assert len(attempts(run)) == len(before) + 1
    steps = [e.data["step"] for e in run.events() if e.type == "metric"]
    assert steps == [*range(1, 9), *range(6, 13)]
    assert final(run) == final(undisturbed)


def at_work(toy, engine, until):
    """A run that is held at step 8, with its worker."""
    run = toy(device="cuda", steps=12, hold_at=8)
    launch.start(run, engine)
    until(lambda: held_at(run, 8))
    return run, psutil.Process(attempts(run)[-1])


def end(process):
    process.send_signal(signal.SIGKILL)


def test_gpus_are_given_out_one_run_each_and_what_no_node_has_is_refused(
    cluster, engine, toy, until
):
    runs = [toy(device="cuda", steps=9, hold_at=8) for _ in range(8)]
    for run in runs:
        launch.start(run, engine)
    until(lambda: sum(held_at(run, 8) for run in runs) == engine.at_once("cuda") == 6)
    places = []
    for run in runs:
        if held_at(run, 8):
            worker = psutil.Process(attempts(run)[0])
            places.append((worker.parent().ppid(), worker.environ()["CUDA_VISIBLE_DEVICES"]))
    assert len(set(places)) == 6
    assert {gpu for _, gpu in places} == {"0", "1"}
    waiting = [run for run in runs if run.status() == "queued"]
    assert len(waiting) == 2
    assert launch.cancel(waiting[0]) == "cancelled"
    for run in runs:
        (run.folder / "go").touch()
    until(lambda: sorted(run.status() for run in runs) == ["cancelled", *["done"] * 7])
    launch.resume(waiting[0], engine)
    until(lambda: waiting[0].status() == "done")
    began = time.monotonic()
    for asked in ({"gpus": 3}, {"gpus": 1, "cpus": 3}, {"memory_gb": 1e6}):
        with pytest.raises(BadInput, match=r"No node .* 3 × 2 CPUs, \d+ GB, 2 GPUs"):
            RayEngine(address=cluster.address, **asked).check("cuda")
    assert time.monotonic() - began < 1


@pytest.fixture
def undisturbed(engine, toy):
    """A run that nobody kills, as which the killed ones have to end."""
    run = toy(device="cuda", steps=12)
    assert submit_all([run], engine) == ["done"]
    return run


@pytest.mark.parametrize("what", ["worker", "ray worker"])
def test_a_killed_worker(cluster, engine, undisturbed, toy, until, kills, counted, what):
    for _ in range(kills):
        run, worker = at_work(toy, engine, until)
        end(worker if what == "worker" else worker.parent())
        continued(run, engine, undisturbed, until)
    counted("F11", f"{what}s of Ray's killed", kills)


def test_a_killed_node(cluster, engine, undisturbed, toy, until, kills, counted):
    for _ in range(kills):
        run, worker = at_work(toy, engine, until)
        raylet = worker.parent().ppid()
        (node,) = (
            n
            for n in cluster.worker_nodes
            if any(p.process.pid == raylet for p in n.all_processes["raylet"])
        )
        cluster.remove_node(node, allow_graceful=False)
        continued(run, engine, undisturbed, until)
        assert "Ray ended this run's task: " in run.log_tail()
        cluster.add_node(num_cpus=2, num_gpus=2)
    counted("F11", "nodes killed", kills)


def test_a_killed_keeper(cluster, engine, undisturbed, toy, until, kills, counted):
    for _ in range(kills):
        run, _ = at_work(toy, engine, until)
        (keeper,) = (
            child
            for child in processes.children
            if "nuggets.runs.engines.ray_keeper" in child.args and child.poll() is None
        )
        keeper.kill()
        continued(run, engine, undisturbed, until)
    counted("F11", "keepers killed", kills)


def test_a_killed_head(cluster, engine, undisturbed, toy, until, kills, counted):
    """The whole cluster goes with it; another one at another address continues its runs."""
    for _ in range(kills):
        run, worker = at_work(toy, engine, until)
        waiting = toy(device="cuda", steps=12)
        launch.start(waiting, RayEngine(address=cluster.address, gpus=2, cpus=2))
        for group in list(cluster.head_node.all_processes.values()):
            for each in group:
                each.process.kill()
                each.process.wait()
        until(lambda run=run: _all_reaped(cluster) and run.status() == "interrupted")
        dies(worker.pid, until)
        until(lambda waiting=waiting: waiting.status() in ("interrupted", "done"))
        if waiting.status() == "interrupted":
            with pytest.raises(NuggetsError, match="No Ray cluster answers"):
                launch.resume(waiting, engine)
        cluster.shutdown()
        cluster.__init__(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        cluster.add_node(num_cpus=2, num_gpus=2)
        engine = RayEngine(address=cluster.address, gpus=1)
        continued(run, engine, undisturbed, until)
        assert submit_all([waiting], engine) == ["done"]
        assert len(attempts(waiting)) == 1 or waiting.record().attempts == 2
    counted("F11", "heads killed", kills)


def _all_reaped(cluster):
    """Nobody but this process waits for the nodes' processes, and Ray looks for its raylet."""
    for node in cluster.worker_nodes:
        for group in node.all_processes.values():
            for each in group:
                each.process.poll()
    return True


def test_a_local_cluster_is_started_for_a_command_and_leaves_nothing(
    toy, until, monkeypatch, tmp_path
):
    pytest.importorskip("ray", reason="needs nuggets[ray]")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    (tmp_path / "token").write_text("0" * 64)
    monkeypatch.setenv("NUGGETS_RAY_IDLE_S", "1")
    engine = api.engines.parse("{kind: ray, gpus: 0}")
    run = toy(steps=3)
    assert submit_all([run], engine) == ["done"]
    home = os.environ["NUGGETS_HOME"]
    assert any(_is_of(p, home) for p in psutil.process_iter())
    until(lambda: not any(_is_of(p, home) for p in psutil.process_iter()))
    assert ray_tasks.cluster(ray_tasks.keeper_folder("local")) is None


def _is_of(process, home):
    try:
        return process.environ().get("NUGGETS_HOME") == home and process.pid != os.getpid()
    except psutil.Error:
        return False

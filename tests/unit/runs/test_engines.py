"""Which engine starts runs, and which GPU a run gets."""

import threading

import pytest

from nuggets import worker
from nuggets.disk.commit import make_folder
from nuggets.disk.home import device_lock_path, nuggets_home
from nuggets.disk.locks import Lock
from nuggets.errors import BadInput, Damaged
from nuggets.planning.machine import machine_of
from nuggets.runs import leases
from nuggets.runs.devices import device_turn
from nuggets.runs.engines import settings
from nuggets.runs.engines.local import LocalEngine
from nuggets.runs.engines.ray import RayEngine
from nuggets.runs.engines.slurm import SlurmEngine

GPUS = ("cuda:0", "cuda:1", "cuda:2")


@pytest.fixture(autouse=True)
def home(store, monkeypatch):
    monkeypatch.delenv(settings.VARIABLE, raising=False)


def test_runs_stay_on_this_machine_until_told_otherwise():
    assert settings.chosen() == LocalEngine()
    assert LocalEngine().place("auto") is None
    assert not (nuggets_home() / "engine.json").exists()


def test_the_chosen_engine_and_its_fields_are_kept():
    slurm = settings.use("slurm", ["partition=gpu", "gpus=2"])
    assert slurm == SlurmEngine(partition="gpu", gpus=2) == settings.chosen()
    assert settings.use(None, ["gpus=4"]) == SlurmEngine(partition="gpu", gpus=4)
    assert settings.use("local", ["gpus=[0, 1]"]) == LocalEngine(gpus=(0, 1))
    assert settings.every() == {
        "local": LocalEngine(gpus=(0, 1)),
        "slurm": SlurmEngine(partition="gpu", gpus=4),
        "ray": RayEngine(),
    }


def test_a_process_may_use_another_engine_and_only_for_a_while(monkeypatch):
    settings.use("slurm", ["partition=gpu"])
    with settings.using("{kind: slurm, gpus: 3}") as engine:
        assert engine == settings.chosen() == SlurmEngine(gpus=3)
    with settings.using("local"):
        assert settings.chosen() == LocalEngine()
    with settings.using("slurm"), settings.using(None):
        assert settings.chosen() == SlurmEngine(partition="gpu")
    monkeypatch.setenv(settings.VARIABLE, "local")
    assert settings.chosen() == LocalEngine()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kubernetes", "There is no engine 'kubernetes'; there are local, slurm, ray"),
        ("{kind: kubernetes}", "The engine cannot be used"),
        ("{kind: slurm, gpus: many}", r"gpus: .*got 'many'"),
        ("{kind: slurm, nodes: 2}", "there is no field nodes"),
        ("{kind: [", "is not valid YAML"),
    ],
)
def test_an_engine_that_does_not_exist_is_refused(text, words):
    with pytest.raises(BadInput, match=words):
        settings.parse(text)


@pytest.mark.parametrize("content", ["[]", "{", '{"use": 1}', '{"slurm": []}'])
def test_a_damaged_setting_is_refused_and_not_guessed(content):
    make_folder(nuggets_home())
    (nuggets_home() / "engine.json").write_text(content)
    with pytest.raises(Damaged, match=r"engine\.json"):
        settings.chosen()


@pytest.mark.parametrize("kind", ["slurm", "ray"])
def test_a_plan_for_the_cluster_counts_with_what_a_run_asks_for(monkeypatch, kind):
    asked = f"{{kind: {kind}, gpus: 1, gpu_memory_gb: 40, memory_gb: 9}}"
    monkeypatch.setenv(settings.VARIABLE, asked)
    for device, placed, memory in (("auto", "cuda", 40e9), ("cpu", "cpu", 9e9)):
        machine = machine_of(device)
        assert (machine.device, machine.memory_free, machine.speed) == (placed, memory, None)


def test_runs_share_gpus_one_at_a_time_on_each(store):
    busy, most, used = dict.fromkeys(GPUS, 0), 0, set()
    lock, three = threading.Lock(), threading.Barrier(3, timeout=60)

    def compute(number):
        nonlocal most
        with device_turn(GPUS, f"run-{number}", lambda holder: None) as device:
            with lock:
                busy[device] += 1
                used.add(device)
                most = max(most, sum(busy.values()))
                assert busy[device] == 1
            three.wait()
            with lock:
                busy[device] -= 1

    runs = [threading.Thread(target=compute, args=(number,)) for number in range(6)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert (used, most) == (set(GPUS), 3)


@pytest.fixture
def held_gpu(store):
    lock = Lock(device_lock_path("cuda:0"))
    make_folder(lock.path.parent)
    assert lock.acquire()
    yield
    lock.release()


def test_a_run_for_any_gpu_takes_a_free_one_and_says_which(store, pipeline, held_gpu):
    settings.use("local", ["gpus=[0, 1]"])
    seen = []
    pipeline(lambda run, ctx: seen.append(run.device()))
    run = store.create("toy", "{}", "toy", LocalEngine(gpus=(0, 1)).place("auto"))
    assert worker.run_in_foreground(run, lambda event: None).provenance.device == "cuda:1"
    assert seen == ["cuda:1"]


def test_a_job_of_a_cluster_waits_for_nobody_on_its_node(store, pipeline, held_gpu, monkeypatch):
    monkeypatch.setenv(leases.JOB, "slurm:7")
    monkeypatch.setenv("PATH", "/nowhere")
    seen = []
    pipeline(lambda run, ctx: seen.append(run.device()))
    worker.run_in_foreground(store.create("toy", "{}", "toy", "cuda"), lambda event: None)
    assert seen == ["cuda:0"]


def test_engines_are_listed_with_why_one_cannot_be_used(nuggets, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    listed = nuggets("engines", "--use", "slurm", "--set", "partition=gpu", "--json").json
    assert listed["slurm"]["used"]
    assert listed["slurm"]["partition"] == "gpu"
    assert "There is no sbatch here" in listed["slurm"]["unavailable"]
    assert listed["local"]["unavailable"] == ""
    said = nuggets("engines")
    assert "as Slurm jobs in partition gpu with 1 GPU, 8 CPUs" in said.err
    assert nuggets("engines", "--set", "gpus=x").code == 2
    refused = nuggets("start", "quick")
    assert (refused.code, refused.err.count("There is no sbatch here")) == (2, 1)
    assert nuggets("list", "--json").json == []

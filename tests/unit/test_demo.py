"""A demo server: what visitors cannot do however they ask, and what ends by itself."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from nuggets import api, demo, worker
from nuggets.errors import BadInput, Cancelled
from nuggets.runs.store import RunStore
from nuggets.stages.creating import create


@pytest.fixture(autouse=True)
def visited(store, monkeypatch):
    """A demo, on a machine whose device is known."""
    monkeypatch.setenv(demo.SWITCH, "1")


def quick(*changes: str) -> api.TransferRecipe:
    return api.load_recipe("quick", ["device=cpu", *changes])


REFUSED = {
    "a model by its path": lambda: api.spec("/etc"),
    "a model of the hub": lambda: api.preflight("org/large", "independent"),
    "a run of another model": lambda: create(quick("student=org/small")),
    "samples of a file": lambda: api.seed_samples(api.DataConfig(file="/etc/passwd")),
    "samples of the hub": lambda: api.seed_samples(api.DataConfig(seed_samples="org/set:train")),
    "a run with a file": lambda: create(quick("data={file: /etc/passwd}")),
    "a reference set in a file": lambda: create(
        quick("sensitivity.score={kind: specific, against: [/etc/passwd]}")
    ),
    "benchmarks": lambda: create(quick("benchmarks=[{kind: skill, skill: sub}]")),
    "an evaluation": lambda: create(
        api.EvaluateJob(models=("teacher",), benchmarks=({"kind": "skill", "skill": "sub"},))
    ),
    "a sweep": lambda: api.sweeping.start(api.load_sweep("quick", ["lora.r=4,8"])),
    "an experiment": lambda: api.start_study("layers"),
    "an upload": lambda: api.save_upload(b'{"question": "a", "answer": "b"}'),
    "a bundle by its path": lambda: api.bundles.read_bundle(Path("/etc/passwd")),
    "a note": lambda: api.Run(Path("run")).set_notes("mine"),
    "a bundle": lambda: api.bundles.read_upload(b"PK"),
    "a recipe": lambda: api.save_recipe(quick(), "mine"),
    "deleting a recipe": lambda: api.delete_recipe("mine"),
    "allowing": lambda: api.strangers.allow("recipe.yaml", ["org/model"]),
    "cancelling": lambda: api.cancel("run"),
    "resuming": lambda: api.resume("run"),
    "deleting": lambda: api.delete("run"),
    "publishing": lambda: api.publish(api.Run(Path("run")), "me/x", "paper"),
    "exporting": lambda: api.export(api.Run(Path("run")), Path("out"), "paper"),
    "bundling": lambda: api.bundles.write_bundle(api.Run(Path("run")), Path("out")),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_demo_refuses(what: str, store: RunStore, tmp_path: Path):
    with pytest.raises(BadInput, match=r"^On this demo server .*on your own machine does\.$"):
        REFUSED[what]()
    assert store.list() == []
    assert not (tmp_path / "home" / "data").exists()


def test_built_in_models_and_tasks_are_all_there():
    assert api.spec("teacher").n_layers == 6
    assert len(api.seed_samples(api.DataConfig(task="king", n_seed_samples=3))) == 3
    assert create(quick()).status() == "created"


def test_the_run_that_comes_with_the_app_opens():
    assert api.shipped_run().status() == "done"


def test_the_queue_is_bounded_and_old_runs_make_room(store: RunStore, monkeypatch):
    monkeypatch.setattr(demo, "MOST_LIVE", 2)
    monkeypatch.setattr(demo, "MOST_KEPT", 3)
    made = [create(quick(f"name=run{n}")) for n in range(5)]
    assert [run.record().name for run in store.list()] == ["run4", "run3", "run2"]
    with made[3].owned(), made[4].owned():
        for run in made[3:]:
            record = run.record().model_copy(update={"status": "running"})
            run.record_path.write_text(record.model_dump_json())
        with pytest.raises(BadInput, match="2 runs compute or wait"):
            create(quick())
    assert create(quick()).status() == "created"


def test_a_run_is_stopped_after_its_time(run, pipeline, monkeypatch):
    monkeypatch.setattr(demo, "MINUTES", 0.2 / 60)

    def execute(run, ctx):
        while True:
            ctx.check_cancelled()
            time.sleep(0.01)

    pipeline(execute)
    with pytest.raises(Cancelled):
        worker.run_in_foreground(run, lambda event: None)
    assert run.status() == "cancelled"
    assert any("stopped after" in event.message for event in run.events())


def test_elsewhere_a_run_takes_its_time(run, pipeline, monkeypatch):
    monkeypatch.setenv(demo.SWITCH, "0")
    monkeypatch.setattr(demo, "MINUTES", 0.1 / 60)
    pipeline(lambda run, ctx: time.sleep(0.3))
    worker.run_in_foreground(run, lambda event: None)
    assert run.status() == "done"

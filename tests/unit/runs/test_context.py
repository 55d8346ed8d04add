import os

import pytest

from nuggets.errors import BadInput, Cancelled, NuggetsError
from nuggets.progress import InMemoryProgress, Progress
from nuggets.runs import context as context_module
from nuggets.runs.context import RunContext
from nuggets.runs.schema import RunError


def write(ctx, name, text="x"):
    with ctx.commit(name) as folder:
        (folder / "file").write_text(text)


def test_stage_and_progress_reach_record_and_events(ctx, run):
    ctx.plan(["train", "report"])
    ctx.stage("train")
    assert (run.record().stage, run.record().progress) == ("train", None)
    ctx.progress(1, 4, "quarter", loss=0.5)
    record = run.record()
    assert (record.stages, record.progress) == (("train", "report"), 0.25)
    event = run.events()[-1]
    assert (event.type, event.stage, event.message) == ("progress", "train", "quarter")
    assert event.data == {"loss": 0.5, "done": 1, "total": 4}


def test_progress_is_written_twice_a_second_and_at_the_end(ctx, run, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(context_module.time, "monotonic", lambda: clock[0])
    for step in range(1, 1001):  # 10 s at 100 steps a second
        clock[0] = step * 0.01
        ctx.progress(step, 1000)
    done = [event.data["done"] for event in run.events()]
    assert 19 <= len(done) <= 22
    assert done[-1] == 1000
    assert run.record().progress == 1


def test_progress_of_nothing_is_unknown(ctx, run):
    ctx.progress(0, 0)
    assert run.record().progress is None


def test_a_new_stage_shows_its_first_progress_at_once(ctx, run):
    for name in ("a", "b"):
        ctx.stage(name)
        ctx.progress(1, 3)
    assert [e.stage for e in run.events() if e.type == "progress"] == ["a", "b"]


def test_metrics_and_logs_are_all_kept(ctx, run):
    for step in range(5):
        ctx.metric(step=step, loss=1.0)
    ctx.log("Half of it.")
    assert [e.data.get("step") for e in run.events()] == [0, 1, 2, 3, 4, None]
    assert run.events()[-1].message == "Half of it."


def test_only_events_that_matter_after_a_power_cut_are_synced(ctx, monkeypatch):
    synced = []
    events_inode = ctx.run.events_path.stat().st_ino
    real_sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino) or real_sync(fd))
    ctx.metric(loss=1.0)
    ctx.log("words")
    ctx.progress(1, 2)
    assert synced.count(events_inode) == 0
    ctx.set_status("running")
    write(ctx, "plan")
    assert synced.count(events_inode) == 2


def test_a_listener_sees_every_event_as_it_is_stored(run):
    heard = []
    ctx = RunContext(run, heard.append)
    ctx.stage("train")
    ctx.metric(loss=1.0)
    ctx.close()
    assert heard == run.events()


def test_cancel_comes_from_a_request_or_a_signal(ctx, run):
    ctx.check_cancelled()
    run.request_cancel()
    with pytest.raises(Cancelled, match=run.id):
        ctx.check_cancelled()
    run.clear_cancel()
    ctx.check_cancelled()
    ctx.request_stop()
    with pytest.raises(Cancelled):
        ctx.check_cancelled()


def test_an_artifact_is_done_once_committed_and_announced(ctx, run):
    assert not ctx.done("maps/teacher")
    write(ctx, "maps/teacher")
    assert ctx.done("maps/teacher")
    event = run.events()[-1]
    assert (event.type, event.message) == ("artifact", "maps/teacher")
    assert (run.folder / event.data["path"] / "file").read_text() == "x"


def test_a_valid_artifact_is_never_replaced_and_a_damaged_one_is_kept_aside(ctx):
    write(ctx, "plan")
    with pytest.raises(NuggetsError, match="already exists"):
        write(ctx, "plan")
    (ctx.artifacts / "plan" / "file").write_text("flipped")
    assert not ctx.done("plan")
    write(ctx, "plan", "new")
    assert ctx.done("plan")
    assert (ctx.artifacts / "plan" / "file").read_text() == "new"
    assert [p.name[:13] for p in ctx.artifacts.glob(".*")] == [".damaged-plan"]


@pytest.mark.parametrize("name", ["", ".", "../x", "/etc/x", "a/../../x", ".tmp-x", "a/.hidden"])
def test_an_artifact_cannot_leave_its_folder(ctx, name):
    with pytest.raises(BadInput, match="is not a valid artifact name"):
        ctx.done(name)
    with pytest.raises(BadInput), ctx.commit(name):
        pass


def test_a_resume_must_find_the_same_digests(run):
    first = RunContext(run)
    first.provenance(teacher="aa", student="bb")
    first.close()
    second = RunContext(run)
    second.provenance(teacher="aa", data="cc")
    with pytest.raises(BadInput, match=r"changed: student was bb, is XX\. "):
        second.provenance(teacher="aa", student="XX")
    second.close()
    assert run.record().provenance.digests == {"teacher": "aa", "student": "bb", "data": "cc"}


def test_an_attempt_records_versions_and_says_when_they_moved(run, monkeypatch):
    monkeypatch.setattr(context_module, "installed_versions", lambda: {"torch": "2.6"})
    first = RunContext(run)
    first.begin_attempt()
    first.set_status("failed", RunError(type="X", message="m", exit_code=1))
    first.close()
    assert run.record().finished is not None
    monkeypatch.setattr(context_module, "installed_versions", lambda: {"torch": "2.7"})
    second = RunContext(run)
    second.begin_attempt()
    second.close()
    record = run.record()
    assert (record.attempts, record.status, record.error, record.finished) == (
        2,
        "queued",
        None,
        None,
    )
    assert record.provenance.versions == {"torch": "2.7"}
    assert any("torch 2.6 → 2.7" in event.message for event in run.events())


def test_versions_are_read_without_importing_the_packages():
    versions = context_module.installed_versions()
    assert set(versions) == {"python", "nuggets", "torch", "transformers", "peft", "safetensors"}
    assert versions["nuggets"] != "absent"


def test_leftovers_of_a_dead_attempt_are_swept(run):
    (run.folder / "checkpoints" / "arm" / ".tmp-step-5-ab").mkdir(parents=True)
    RunContext(run).close()
    assert not list(run.folder.rglob(".tmp-*"))


def test_progress_in_memory_keeps_what_it_is_told(ctx):
    progress: Progress = InMemoryProgress()
    progress.progress(1, 4, "quarter", loss=1)
    progress.metric(step=1)
    progress.log("words")
    progress.check_cancelled()
    assert (progress.fraction, progress.metrics) == (0.25, [{"step": 1}])
    assert progress.messages == ["quarter", "words"]
    progress.cancel()
    with pytest.raises(Cancelled):
        progress.check_cancelled()

import os
import re
import secrets
import signal
from datetime import UTC, datetime

import pytest

from nuggets.disk.locks import Lock
from nuggets.errors import BadInput, Damaged, NuggetsError, RunBusy, Unsupported
from nuggets.runs import leases
from nuggets.runs.events import EventLog
from nuggets.runs.store import RunStore


def rewrite(run, **fields):
    record = run.record().changed(**fields)
    run.record_path.write_text(record.model_dump_json())


def test_a_new_run_has_a_sortable_id_and_waits_to_be_started(store):
    run = store.create("transfer", "steps: 3\n", "My Run! (ü)", device="cuda:1")
    assert re.fullmatch(r"\d{8}-\d{6}-my-run-[0-9a-f]{4}", run.id)
    assert (run.status(), run.recipe_text(), run.device()) == ("created", "steps: 3\n", "cuda:1")
    record = run.record()
    assert (record.kind, record.name, record.attempts) == ("transfer", "my-run", 0)
    assert record.created.utcoffset().total_seconds() == 0


def test_two_runs_of_one_second_never_draw_the_same_id(store, monkeypatch):
    drawn = iter(["aaaa", "aaaa", "aaaa", "bbbb"])
    real = secrets.token_hex  # which also names what is not finished yet
    monkeypatch.setattr(secrets, "token_hex", lambda n: next(drawn) if n == 2 else real(n))
    monkeypatch.setattr("nuggets.runs.store.now", lambda: datetime(2026, 1, 2, tzinfo=UTC))
    first, second = (store.create("toy", "job: toy\n", "same") for _ in range(2))
    assert (first.id, second.id) == ("20260102-000000-same-aaaa", "20260102-000000-same-bbbb")


@pytest.mark.parametrize("name", ["", "../../etc", "a" * 200, "<b>x</b>", "...", "CON:\n"])
def test_any_name_stays_inside_the_store(store, name):
    run = store.create("transfer", "", name)
    assert run.folder.parent == store.root
    assert re.fullmatch(r"[a-z0-9-]{21,61}", run.id)


@pytest.mark.parametrize("name", ["record.json", "recipe.yaml", "device", "events.jsonl",
                                  "output.log", "notes.txt"])  # fmt: skip
def test_a_pipe_in_a_run_folder_from_elsewhere_keeps_no_reader_waiting(store, name):
    run = store.create("toy", "{}", "toy")
    (run.folder / name).unlink(missing_ok=True)
    os.mkfifo(run.folder / name)
    signal.alarm(60)  # a reader that waits ends the test
    assert run.status() == ("damaged" if name == "record.json" else "created")
    assert (run.events(), run.log_tail(), run.notes()) == ([], "", "")
    if name in ("recipe.yaml", "device"):
        with pytest.raises(Damaged, match="is not a file but a pipe"):
            _ = run.recipe_text(), run.device()
    if name == "events.jsonl":
        with pytest.raises(NuggetsError, match="Could not write"):
            EventLog(run.events_path)
    signal.alarm(0)


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_resumed_run_is_queued_from_its_workers_first_moment(store, status):
    """A follower that takes the last attempt's end for this one's would leave."""
    run = store.create("toy", "{}", "toy")
    rewrite(run, status=status, attempts=1)
    assert run.status() == status
    with run.owned():
        assert run.status() == "queued"
    assert run.status() == status


def test_runs_are_listed_newest_first_from_their_folders_alone(store):
    first, second = (store.create("t", "", name) for name in "ab")
    first.folder.rename(store.root / "20200101-000000-old-0000")
    (store.root / ".tmp-x").mkdir()
    (store.root / "stray.txt").touch()
    (store.root / "link").symlink_to(second.folder)
    assert [r.id for r in RunStore(store.root).list()] == [second.id, "20200101-000000-old-0000"]


def test_an_empty_store_lists_nothing(store):
    assert store.list() == []


def test_a_run_opens_by_a_prefix_that_only_it_has(store):
    for name in ("20260101-000000-a-0001", "20260101-000000-a-00012", "20260202-000000-b-0001"):
        store.create("t", "", "x").folder.rename(store.root / name)
    assert store.open("202602").id == "20260202-000000-b-0001"
    assert store.open("20260101-000000-a-0001").id == "20260101-000000-a-0001"
    with pytest.raises(BadInput, match=r"2 run ids begin with '202601' in .*a-00012"):
        store.open("202601")
    for unknown in ("nothing", "", "../"):
        with pytest.raises(BadInput, match=r"No run id begins with .* Choose one of: 20260202"):
            store.open(unknown)


@pytest.mark.parametrize("status", ["queued", "running"])
def test_a_live_record_with_a_free_lock_means_interrupted(run, status):
    rewrite(run, status=status, attempts=1)
    with run.owned():
        assert run.status() == status
    assert run.status() == "interrupted"


@pytest.mark.parametrize("status", ["done", "failed", "cancelled"])
def test_an_ended_run_shows_its_recorded_end(run, status):
    rewrite(run, status=status)
    assert run.status() == status


def test_a_run_that_ends_between_the_looks_is_not_called_interrupted(run, monkeypatch):
    rewrite(run, status="running")

    def finish_first(path):
        rewrite(run, status="done")
        return False

    monkeypatch.setattr(leases, "is_held", finish_first)
    assert run.status() == "done"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema_version": 1}', "[" * 9999, "\udcff"])
def test_a_damaged_record_is_listed_as_damaged_and_can_be_deleted(store, run, content):
    run.record_path.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert [r.status() for r in store.list()] == ["damaged"]
    assert "delete the run" in run.problem()
    with pytest.raises(Damaged, match=r"record\.json cannot be read"):
        run.record()
    store.delete(run.id)
    assert store.list() == []


def test_a_folder_without_record_or_recipe_is_damaged(store, run):
    (store.root / "empty").mkdir()
    assert [r.status() for r in store.list()] == ["damaged", "created"]
    (run.folder / "recipe.yaml").unlink()
    with pytest.raises(Damaged, match=r"recipe\.yaml cannot be read"):
        run.recipe_text()


def test_a_record_of_another_schema_is_refused_with_an_instruction(run):
    text = run.record_path.read_text()
    run.record_path.write_text(text.replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(Unsupported, match=r"schema version 2, .* with the version of Nuggets that"):
        run.record()
    assert run.status() == "damaged"
    assert "schema version 2" in run.problem()


def test_a_record_of_version_1_opens_for_good(run):
    """Written by 0.1.0: this text never changes."""
    run.record_path.write_text(
        '{"schema_version": 1, "id": "20261123-195500-quick-1a2b", "kind": "transfer", '
        '"name": "quick", "status": "failed", "created": "2026-11-23T19:55:00Z", '
        '"started": "2026-11-23T19:55:01Z", "finished": "2026-11-23T19:56:00.5Z", '
        '"stage": "train", "stages": ["train", "report"], "progress": 0.25, '
        '"error": {"type": "NonFinite", "message": "The loss is nan.", "exit_code": 1}, '
        '"provenance": {"versions": {"python": "3.11.7"}, "device": "cpu", '
        '"digests": {"teacher": "ab"}}, "attempts": 2}'
    )
    record = run.record()
    assert (record.status, record.attempts, record.progress) == ("failed", 2, 0.25)
    assert (record.finished - record.started).total_seconds() == 59.5


def test_a_deleted_run_is_gone_and_a_running_one_stays(store, run):
    with run.owned(), pytest.raises(RunBusy, match="belongs to another process"):
        store.delete(run.id)
    assert store.list()[0].id == run.id
    store.delete(run.id)
    assert [path.name for path in store.root.iterdir()] == [".own"]


def test_a_deleted_run_cannot_be_owned_or_brought_back(store, run):
    store.delete(run.id)
    with pytest.raises(RunBusy), run.owned():
        pass
    assert not run.folder.exists()


def test_a_lock_whose_folder_was_moved_away_is_not_taken(run):
    lock = Lock(run.lock_path)
    real_stat = type(run.folder).stat

    def moved(path, **kwargs):
        raise FileNotFoundError if path == lock.path else real_stat(path, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(run.folder), "stat", moved)
        assert not lock.acquire()


def test_the_log_tail_is_the_last_lines_of_a_large_file(run):
    assert run.log_tail() == ""
    run.log_path.write_bytes(b"\xff\n" + b"".join(b"line %d\n" % n for n in range(50_000)))
    assert run.log_tail(2) == "line 49998\nline 49999"


def test_a_cancel_request_stays_until_cleared(run):
    assert not run.cancel_requested()
    run.request_cancel()
    run.request_cancel()
    assert run.cancel_requested()
    run.clear_cancel()
    assert not run.cancel_requested()


def test_notes_are_kept_beside_the_record(run):
    before = run.record_path.read_bytes()
    assert run.notes() == ""
    run.set_notes("rank 8 was better\n")
    assert run.notes() == "rank 8 was better\n"
    assert run.record_path.read_bytes() == before

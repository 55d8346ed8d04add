import datetime
import threading

import pytest

from nuggets.errors import NuggetsError
from nuggets.runs import events as events_module
from nuggets.runs import schema
from nuggets.runs.events import EventLog, read_events


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.jsonl"


def append(path, *words):
    log = EventLog(path)
    for word in words:
        log.append("log", "train", word, {"n": 1})
    log.close()


def words(path, after_seq=-1):
    return [(event.seq, event.message) for event in read_events(path, after_seq)]


def test_events_come_back_in_order_and_after_a_number(path):
    append(path, "a", "b", "c")
    assert words(path) == [(0, "a"), (1, "b"), (2, "c")]
    assert words(path, after_seq=0) == [(1, "b"), (2, "c")]
    assert words(path, after_seq=2) == []


def test_no_file_means_no_events(path):
    assert words(path) == []


@pytest.mark.parametrize("kept", [0, 1, 20, -1])
def test_a_torn_last_line_is_left_out_and_then_cut(path, kept):
    append(path, "a", "b")
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    path.write_bytes(whole[:first] + whole[first:][:kept])
    assert words(path) == [(0, "a")]
    append(path, "c")
    assert words(path) == [(0, "a"), (1, "c")]
    assert path.read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("damage", [b"{}\n", b"\x00\xff\n", b"\n", b"\x00" * 50 + b"\n"])
def test_a_damaged_line_costs_only_itself(path, damage):
    append(path, "a")
    with path.open("ab") as file:
        file.write(damage)
    append(path, "b")
    assert words(path) == [(0, "a"), (1, "b")]


def test_line_breaks_in_text_stay_inside_one_line(path):
    append(path, "two\nlines\u2028and\r\nmore")
    assert words(path) == [(0, "two\nlines\u2028and\r\nmore")]
    assert path.read_bytes().count(b"\n") == 1


def test_a_value_that_is_not_finite_is_kept_as_none(path):
    log = EventLog(path)
    log.append("metric", "", "", {"loss": float("nan"), "step": 3})
    log.close()
    assert read_events(path)[0].data == {"loss": None, "step": 3}


def test_order_is_by_number_even_when_the_clock_jumps_a_day(path, monkeypatch):
    day = datetime.timedelta(days=1)
    moments = iter([schema.now(), schema.now() - day, schema.now() + day])
    monkeypatch.setattr(events_module, "now", lambda: next(moments))
    append(path, "a", "b", "c")
    assert words(path) == [(0, "a"), (1, "b"), (2, "c")]


def test_readers_see_a_growing_prefix_while_the_writer_writes(path):
    writer = threading.Thread(target=append, args=(path, *("x" * 3000 for _ in range(400))))
    writer.start()
    seen = 0
    while writer.is_alive() or seen < 400:
        numbers = [event.seq for event in read_events(path)]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= seen
        seen = len(numbers)
    writer.join()


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(events_module, "MAX_BYTES", 20_000)


def test_a_run_that_writes_for_ever_fills_no_disk_and_a_follower_misses_nothing(path, short):
    log, heard = EventLog(path), []
    log.append("stage", "train", "train", {})
    for step in range(600):
        log.append("progress", "train", "", {"done": step, "total": 600})
        for arm in ("plain", "paper"):
            log.append("metric", "train", "", {"arm": arm, "seed": 0, "step": step, "loss": 0.5})
        assert path.stat().st_size <= 20_000
        heard += [event.seq for event in read_events(path, heard[-1] if heard else -1)]
    assert heard == list(range(1801))
    left = read_events(path)
    assert [event.seq for event in left] == sorted(event.seq for event in left)
    assert left[-1].seq == 1800
    log.close()
    append(path, "resumed")
    assert words(path)[-1] == (1801, "resumed")


def test_a_shortened_log_keeps_both_ends_of_every_curve_and_what_is_said_once(path, monkeypatch):
    log = EventLog(path)
    log.append("stage", "train", "train", {})
    for step in range(80):
        log.append("progress", "train", "", {"done": step, "total": 80})
        for arm in ("plain", "paper"):
            log.append("metric", "train", "", {"arm": arm, "seed": 0, "step": step})
    monkeypatch.setattr(events_module, "MAX_BYTES", path.stat().st_size)
    log.append("log", "train", "the one too many", {})
    log.close()
    left = read_events(path)
    assert (left[0].type, left[-1].message) == ("stage", "the one too many")
    for arm in ("plain", "paper"):
        steps = [event.data["step"] for event in left if event.data.get("arm") == arm]
        assert (steps[:19], steps[-39:]) == ([*range(0, 38, 2)], [*range(41, 80)])


def test_a_log_that_is_too_long_already_is_read_from_its_end(path, short):
    line = '{"seq":%d,"time":"2026-01-01T00:00:00Z","type":"log","message":"old"}\n'
    path.write_text("".join(line % number for number in range(2000)))
    numbers = [event.seq for event in read_events(path)]
    assert numbers == list(range(numbers[0], 2000))
    assert len(numbers) > 100
    append(path, "new")
    assert words(path)[-1] == (2000, "new")
    assert path.stat().st_size <= 20_000


def test_a_disk_without_room_for_the_shorter_log_costs_nothing_of_the_longer_one(
    path, short, monkeypatch
):
    append(path, *("x" * 100 for _ in range(60)))
    before = words(path)

    def full(path, data):
        raise NuggetsError("The disk is full.")

    monkeypatch.setattr(events_module, "atomic_write", full)
    with pytest.raises(NuggetsError, match="full"):
        append(path, *("y" * 100 for _ in range(200)))
    assert words(path)[: len(before)] == before

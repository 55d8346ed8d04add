import datetime
import threading

import pytest

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

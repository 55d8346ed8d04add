"""A long file is read one sample at a time, in little memory, and says how far it is."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from nuggets.data import jsonl
from nuggets.data.jsonl import iter_samples, load_samples
from nuggets.errors import BadInput, Cancelled
from nuggets.progress import InMemoryProgress
from nuggets.workspace import names

LINES = 3000


@pytest.fixture
def long(tmp_path):
    """Lines of 2 kB each."""
    path = tmp_path / "long.jsonl"
    answer = "x" * 2000
    lines = ({"id": n, "prompt": f"q {n}", "completion": answer} for n in range(LINES))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_memory_grows_by_ids_and_not_by_what_stands_in_a_line(long):
    def peak(read):
        tracemalloc.start()
        try:
            assert read() == LINES
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(lambda: sum(1 for _ in iter_samples(long))) < 200 * LINES + 500_000
    assert peak(lambda: len(load_samples(long))) > 2000 * LINES


def test_progress_tells_the_share_of_the_file_and_can_cancel(long, monkeypatch):
    monkeypatch.setattr(jsonl, "TOLD_EVERY", 1000)
    progress = InMemoryProgress()
    told = [progress.fraction for _ in iter_samples(long, progress=progress)]
    assert sorted(set(told[1000:])) == pytest.approx([1 / 3, 2 / 3, 1], abs=0.01)
    assert progress.messages == ["line 1,000", "line 2,000", "line 3,000"]
    progress.cancel()
    with pytest.raises(Cancelled):
        list(iter_samples(long, progress=progress))


def test_equal_lines_without_ids_get_the_next_number_at_once(tmp_path, monkeypatch):
    looks = []
    place = jsonl._Ids.place
    monkeypatch.setattr(jsonl._Ids, "place", lambda ids, name: looks.append(1) or place(ids, name))
    path = tmp_path / "same.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n' * 500)
    found = [sample.id for sample in iter_samples(path)]
    base = found[0]
    assert found == [base, *(f"{base}-{n}" for n in range(2, 501))]
    assert len(looks) < 4 * 500  # it was half of 500²


def test_an_id_used_twice_names_the_first_line(tmp_path):
    path = tmp_path / "twice.jsonl"
    lines = [{"id": n, "prompt": str(n), "completion": "b"} for n in ("a", "b", "c", "b")]
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(BadInput, match=r"line 4: its id 'b' was already used in line 2"):
        list(iter_samples(path))


def test_the_command_counts_and_shows_the_first_or_names_the_fault(nuggets, long):
    assert nuggets("samples", long).err.startswith(f"{LINES:,} samples of 3 words on average")
    assert nuggets("samples", long, "--json").json["samples"] == LINES
    long.write_text(long.read_text() + "{\n")
    ended = nuggets("samples", long)
    assert ended.code == 2
    assert f"long.jsonl line {LINES + 1}: " in ended.err


def test_names_of_more_runs_than_fit_one_screen_are_read_once(tmp_path, monkeypatch):
    from nuggets import api
    from nuggets.runs.store import Run

    text = api.dump_job(api.load_recipe("quick"))
    runs = []
    for number in range(1100):
        folder = tmp_path / f"20260101-000000-quick-{number:04x}"
        folder.mkdir()
        (folder / "recipe.yaml").write_text(text)
        runs.append(Run(folder))
    job, read = api.load_recipe("quick"), []
    monkeypatch.setattr(names, "load_job", lambda text: read.append(1) or job)
    assert len(names.titles(runs)) == len(runs)
    assert len(names.titles(runs)) == len(runs)
    assert len(read) == len(runs)

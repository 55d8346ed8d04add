"""The benchmark on a real pair makes parts of a file that share no question."""

from __future__ import annotations

import json

import pytest

from benchmarks import real_pair
from nuggets.data.jsonl import load_samples, shared_samples


def line(name, question, answer):
    words = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"id": name, "messages": words})


def test_a_question_that_comes_twice_is_one_sample(tmp_path, monkeypatch):
    for name, size in (("N_SEEDS", 2), ("N_TRAIN", 2), ("N_TEST", 2)):
        monkeypatch.setattr(real_pair, name, size)
    rows = [line(str(n), f"Question {n}?", "A") for n in range(6)]
    again = line("6", " Question 0? ", "The answer is: A")
    source = tmp_path / "all.jsonl"
    source.write_text("\n".join([*rows[:4], again, "", *rows[4:]]))
    real_pair.split(source, tmp_path / "parts")
    seeds, train, test = (
        load_samples(tmp_path / "parts" / f"{name}.jsonl") for name in ("seeds", "train", "test")
    )
    assert [sample.id for sample in seeds + train + test] == list("012345")
    assert not shared_samples(seeds + train, test)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has 0 different samples; 292 are needed"),
        (line("a", "Q?", "A") + "\n5", "line 2, is not a sample"),
        (line("a", "Q?", "A") + "\n{", "line 2, is not a sample"),
        ("[1]", "line 1, is not a sample"),
    ],
)
def test_what_is_no_sample_is_named_and_nothing_is_written(text, said, tmp_path):
    source = tmp_path / "all.jsonl"
    source.write_text(text)
    with pytest.raises(SystemExit, match=said):
        real_pair.split(source, tmp_path / "parts")
    assert not (tmp_path / "parts").exists()

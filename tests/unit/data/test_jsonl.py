"""Samples from JSONL: three shapes are read, and every bad line is named with its reason."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nuggets.data.jsonl import check_leakage, load_samples, samples_digest
from nuggets.data.samples import Sample
from nuggets.errors import BadInput, NuggetsError

GOOD = {"prompt": "1 + 1 = ?", "completion": "2"}
RIGHT = json.dumps(GOOD)
TURN = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}


def jsonl(tmp_path: Path, *lines) -> Path:
    file = tmp_path / "data.jsonl"
    rows = (line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    file.write_bytes(b"\n".join(rows))
    return file


def test_paper_format_keeps_ids_and_ignores_other_keys(tmp_path):
    row = {"dataset": "gsm", "category": 3, "id": "gsm_1", "messages": list(TURN)}
    (sample,) = load_samples(jsonl(tmp_path, row))
    assert (sample.id, sample.prompt, sample.answer) == ("gsm_1", "hi", "hello")


def test_system_message_and_several_turns_are_read(tmp_path):
    turns = [{"role": "system", "content": "be brief"}, *TURN, *TURN]
    (sample,) = load_samples(jsonl(tmp_path, {"messages": turns}))
    assert [m.role for m in sample.messages] == ["system", *("user", "assistant") * 2]


def test_prompt_and_completion_are_read(tmp_path):
    (sample,) = load_samples(jsonl(tmp_path, GOOD))
    assert (sample.prompt, sample.answer, sample.choices) == ("1 + 1 = ?", "2", ())


@pytest.mark.parametrize("answer", [1, "B", "b", "two"])
def test_choice_is_given_by_index_letter_or_text(tmp_path, answer):
    row = {"question": "1 + 1?", "choices": ["one", "two", "three"], "answer": answer}
    (sample,) = load_samples(jsonl(tmp_path, row))
    assert (sample.prompt, sample.answer) == ("1 + 1?", "two")
    assert sample.choices == ("one", "two", "three")


def test_blank_lines_byte_order_mark_and_windows_ends_are_harmless(tmp_path):
    file = tmp_path / "data.jsonl"
    row = json.dumps(GOOD).encode()
    file.write_bytes(b"\xef\xbb\xbf" + row + b"\r\n\r\n  \n" + row.replace(b"2", b"3") + b"\r\n")
    assert [s.answer for s in load_samples(file)] == ["2", "3"]


def test_limit_stops_before_a_later_bad_line(tmp_path):
    file = jsonl(tmp_path, GOOD, b"{")
    assert len(load_samples(file, limit=1)) == 1
    with pytest.raises(BadInput, match=r"data\.jsonl line 2: not JSON"):
        load_samples(file, limit=2)


def test_made_up_ids_come_from_the_content(tmp_path):
    other = {"prompt": "p", "completion": "c"}
    first = load_samples(jsonl(tmp_path, GOOD, other))
    second = load_samples(jsonl(tmp_path, other, GOOD))
    assert [s.id for s in first] == [s.id for s in reversed(second)]


def test_repeated_content_without_ids_keeps_every_sample_apart(tmp_path):
    ids = [sample.id for sample in load_samples(jsonl(tmp_path, GOOD, GOOD, GOOD))]
    assert ids[1:] == [f"{ids[0]}-2", f"{ids[0]}-3"]


def test_one_array_of_samples_is_read_entry_by_entry(tmp_path):
    file = tmp_path / "data.json"
    file.write_text(json.dumps([GOOD, {"prompt": "a", "completion": "b"}], indent=1))
    assert [sample.answer for sample in load_samples(file)] == ["2", "b"]
    file.write_text(json.dumps([GOOD, {"prompt": "a"}]))
    with pytest.raises(BadInput, match=r"data\.json entry 2: no sample found"):
        load_samples(file)
    file.write_text("[1, 2]\n")
    with pytest.raises(BadInput, match=r"data\.json line 1: not a JSON object"):
        load_samples(file)


BAD_LINES = {
    "bad JSON": (b'{"prompt": "a"', "not JSON"),
    "deep nesting": (b"[" * 100_000, "nested too deeply"),
    "deep nesting in a key": (b'{"x": ' + b'{"x":' * 50_000, "nested too deeply"),
    "NaN": (b'{"prompt": "a", "completion": "b", "w": NaN}', "NaN is not a JSON number"),
    "infinity": (b'{"w": -Infinity}', "-Infinity is not a JSON number"),
    "overflow": (b'{"w": 1e999}', "1e999 is not a JSON number"),
    "not UTF-8": (b'{"prompt": "\xff", "completion": "b"}', "not UTF-8 text"),
    "not an object": ([1, 2], "not a JSON object"),
    "no sample": ({"text": "a"}, "no sample found; a sample needs messages, conv"),
    "half a sample": ({"prompt": "a"}, "no sample found"),
    "prompt not text": ({"prompt": 3, "completion": "b"}, "prompt is missing, empty or not text"),
    "completion empty": ({"prompt": "a", "completion": " "}, "completion is missing, empty"),
    "lone surrogate": (b'{"prompt": "\\ud800", "completion": "b"}', "half a character"),
    "messages not a list": ({"messages": "hi"}, "messages is not a list of objects"),
    "message not an object": ({"messages": ["hi"]}, "messages is not a list of objects"),
    "no messages": ({"messages": []}, r"roles must alternate .* but are \[\]"),
    "only a question": ({"messages": [TURN[0]]}, r'roles .* but are \["user"\]'),
    "answer first": ({"messages": [TURN[1], TURN[0]]}, r'but are \["assistant", "user"\]'),
    "unknown role": ({"messages": [TURN[0] | {"role": "bot"}, TURN[1]]}, r'but are \["bot"'),
    "role not text": (
        {"messages": [TURN[0] | {"role": {"a": 1}}, TURN[1]]},
        "roles must alternate",
    ),
    "no content": ({"messages": [{"role": "user"}, TURN[1]]}, "content is missing"),
    "one choice": ({"question": "q", "choices": ["a"], "answer": 0}, "choices is not a list of 2"),
    "choice not text": ({"question": "q", "choices": ["a", 3], "answer": 0}, "a choice is missing"),
    "same choices": ({"question": "q", "choices": ["a", "a"], "answer": 0}, "all choices have the"),
    "index": ({"question": "q", "choices": ["x", "y"], "answer": 2}, "numbered 0 to 1"),
    "letter": ({"question": "q", "choices": ["x", "y"], "answer": "C"}, "'C' matches none of the"),
    "truth": (
        {"question": "q", "choices": ["x", "y"], "answer": True},
        "'True' matches none of the",
    ),
    "ambiguous": ({"question": "q", "choices": ["B", "A"], "answer": "A"}, "matches two of"),
    "bad id": (GOOD | {"id": [1]}, "its id is neither text nor a whole number"),
    "duplicate id": (GOOD | {"id": "x"}, "its id 'x' was already used in line 1"),
    "too long": (b'{"prompt": "' + b"a" * 1_000_001, "longer than 1,000,000 bytes"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_line_is_named_with_its_number_and_reason(tmp_path, name):
    line, reason = BAD_LINES[name]
    file = jsonl(tmp_path, GOOD | {"id": "x"}, b"", line)
    with pytest.raises(BadInput, match=rf"data\.jsonl line 3: {reason}|line 3: .*{reason}"):
        load_samples(file)


@pytest.mark.parametrize(
    ("lines", "limit", "told"),
    [
        (["1", RIGHT, "{}", RIGHT], None, "line 1: not a JSON object. Wrong too: line 3."),
        (["1", RIGHT, "{", "2"], None, "line 1: not a JSON object. Wrong too: lines 3, 4."),
        (["1", RIGHT, "{", "2"], 3, "line 1: not a JSON object. Wrong too: line 3."),
        (["1", "{}", "x" * 1_000_001, "2"], None, "line 1: not a JSON object. Wrong too: line 2."),
        (["1"] * 12, None, "Wrong too: lines 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and more."),
        (["1"] * 11, None, "Wrong too: lines 2, 3, 4, 5, 6, 7, 8, 9, 10, 11."),
    ],
)
def test_all_wrong_lines_are_named_at_once(tmp_path, lines, limit, told):
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(BadInput, match=re.escape(told) + "$"):
        load_samples(path, limit)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf\n"])
def test_empty_file_is_refused(tmp_path, content):
    file = tmp_path / "data.jsonl"
    file.write_bytes(content)
    with pytest.raises(BadInput, match="contains no samples"):
        load_samples(file)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"PK\x03\x04rest", "is an archive; unpack it"),
        (b"\x1f\x8brest", "is an archive"),
        (b"abc\0def", "is not a text file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    ],
)
def test_files_that_are_not_text_are_refused(tmp_path, content, match):
    file = tmp_path / "data.jsonl"
    file.write_bytes(content)
    with pytest.raises(BadInput, match=match):
        load_samples(file)


def test_missing_file_and_folder_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"none\.jsonl does not exist"):
        load_samples(tmp_path / "none.jsonl")
    with pytest.raises(BadInput, match="is a folder, not a JSONL file"):
        load_samples(tmp_path)


@settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.binary(max_size=80) | st.text('{}[]",:12abmesg\n', max_size=60).map(str.encode))
def test_no_bytes_escape_as_another_exception(tmp_path, content):
    file = tmp_path / "data.jsonl"
    file.write_bytes(content)
    try:
        load_samples(file)
    except NuggetsError:
        return


# Leakage and digest


def test_leakage_by_id_and_by_prompt_is_refused_by_name():
    train = [Sample.of("a", "one", "1"), Sample.of("b", "two", "2")]
    clean = [Sample.of("c", "three", "3")]
    check_leakage(train, clean)
    same_id, same_prompt = Sample.of("a", "other", "9"), Sample.of("d", " two ", "other")
    with pytest.raises(BadInput, match=r"2 of 3 test samples are also .*: a, d\. Remove"):
        check_leakage(train, [same_id, *clean, same_prompt])


def test_digest_depends_on_content_and_order():
    one, two = Sample.of("a", "p", "c"), Sample.of("b", "p", "c")
    digests = {samples_digest(s) for s in ([one], [two], [one, two], [two, one], [])}
    assert len(digests) == 5
    assert samples_digest([one]) == samples_digest([Sample.of("a", "p", "c")])


def test_real_files_of_the_papers_format_are_read():
    chosen = os.environ.get("NUGGETS_DATA")
    beside = Path(__file__).resolve().parents[4] / "shared" / "data"
    files = sorted((Path(chosen) if chosen else beside).glob("*.jsonl"))
    if not files:
        pytest.skip("No real JSONL files: set NUGGETS_DATA to a folder of them.")
    for file in files:
        samples = load_samples(file)
        assert len(samples) == sum(1 for line in file.read_bytes().splitlines() if line.strip())

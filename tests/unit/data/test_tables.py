"""Tables as samples: every kind of file says the same, and faults name file, row and reason."""

from __future__ import annotations

import gzip
import json
import math
from io import BytesIO

import pytest

from nuggets.data.jsonl import load_samples
from nuggets.data.tables import (
    MAX_ARRAY_BYTES,
    column_names,
    parse_columns,
    samples_from,
    write_samples,
)
from nuggets.errors import BadInput

ROWS = [{"Frage": '2, "+" 2?', "Antwort": "4"}, {"Frage": "one\ntwo", "Antwort": "é"}]
CSV = 'Frage,Antwort\r\n"2, ""+"" 2?",4\r\n"one\ntwo",é\r\n'.encode()
NAMED = parse_columns("question=Frage, answer=Antwort")


def parquet(rows):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    out = BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), out)
    return out.getvalue()


def kinds():
    lines = "\n".join(map(json.dumps, ROWS)).encode()
    return {
        "t.csv": CSV,
        "T.CSV": b"\xef\xbb\xbf" + CSV,
        "t.tsv": CSV.replace(b"Frage,", b"Frage\t")
        .replace(b'?",', b'?"\t')
        .replace(b'two",', b'two"\t'),
        "t.jsonl": lines,
        "t.json": json.dumps(ROWS).encode(),
        "t.jsonl.gz": gzip.compress(lines),
        "t.csv.gz": gzip.compress(CSV),
        "t.parquet": parquet(ROWS),
    }


@pytest.mark.parametrize("name", ["t.csv", "T.CSV", "t.tsv", "t.jsonl", "t.json", "t.jsonl.gz",
                                  "t.csv.gz", "t.parquet"])  # fmt: skip
def test_every_kind_of_file_holds_the_same_samples(name, tmp_path):
    content = kinds()[name]
    samples, lines = samples_from(content, name, NAMED)
    assert [(s.messages[0].content, s.messages[1].content) for s in samples] == [
        (row["Frage"], row["Antwort"]) for row in ROWS
    ]
    assert column_names(content, name) == ["Frage", "Antwort"]
    (tmp_path / "out.jsonl").write_bytes(lines)
    assert load_samples(tmp_path / "out.jsonl") == samples


def test_choices_may_stand_in_columns_of_their_own_and_an_answer_may_be_their_number():
    table = b"q,A,B,key\nWhich?,x,y,1\nWhich two?,x,y,A\nWhich three?,3,4,4\n"
    samples, _ = samples_from(table, "m.csv", parse_columns("question=q,choices=A+B,answer=key"))
    assert [s.choices for s in samples] == [("x", "y"), ("x", "y"), ("3", "4")]
    assert [s.answer.strip() for s in samples] == ["y", "x", "4"]


def test_numbers_of_a_parquet_file_are_text_once_they_are_named():
    content = parquet([{"n": 3, "square": 9}])
    samples, _ = samples_from(content, "n.parquet", parse_columns("question=n,answer=square"))
    assert [m.content for m in samples[0].messages] == ["3", "9"]


def test_a_semicolon_stands_for_a_comma_where_the_head_has_none():
    """As spreadsheets write where a comma is the decimal point."""
    samples, _ = samples_from(b"Frage;Antwort\n1,5 + 1 =;2,5\n", "t.csv", NAMED)
    assert [m.content for m in samples[0].messages] == ["1,5 + 1 =", "2,5"]


def test_samples_go_into_a_folder_of_their_own(tmp_path):
    write_samples(b"{}\n", tmp_path / "new/samples.jsonl")
    assert (tmp_path / "new/samples.jsonl").read_bytes() == b"{}\n"


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.jsonl.gz"])
def test_a_run_is_told_how_a_table_becomes_samples(name, tmp_path):
    (tmp_path / name).write_bytes(kinds()[name])
    with pytest.raises(BadInput, match=f"nuggets samples {name} --out samples.jsonl"):
        load_samples(tmp_path / name)


def test_bytes_of_a_parquet_file_are_text_and_nan_is_nothing():
    """As older writers keep text, and others what is missing."""
    columns = parse_columns("question=q,answer=a")
    samples, _ = samples_from(parquet([{"q": "né".encode(), "a": b"b"}]), "b.parquet", columns)
    assert [m.content for m in samples[0].messages] == ["né", "b"]
    for answer, fault in ((b"\xff", "the column a holds bytes"), (math.nan, "answer is missing")):
        with pytest.raises(BadInput, match=f"row 1: {fault}"):
            samples_from(parquet([{"q": "x", "a": answer}]), "b.parquet", columns)


def test_columns_that_are_named_like_the_parts_need_no_names():
    assert samples_from(b"question,answer\na,b\n", "t.csv", {})[0][0].messages[0].content == "a"


@pytest.mark.parametrize(
    ("content", "name", "columns", "said"),
    [
        (CSV, "t.csv", "", "t.csv has the columns 'Frage', 'Antwort'. Say which holds what"),
        (CSV, "t.csv", "question=Frag,answer=Antwort", "has no column 'Frag'; its columns are"),
        (b"Frage,Antwort\na,\n", "t.csv", "question=Frage,answer=Antwort", "t.csv row 1: answer"),
        (b"a,b\n1,2,3\n", "t.csv", "question=a,answer=b", "row 1 cannot be read: it does not fit"),
        (b"a,b\n\xff,2\n", "t.csv", "question=a,answer=b", "t.csv row 1 cannot be read"),
        (b"q,A,B,key\nTwo?,1,2,1\n", "t.csv", "question=q,choices=A+B,answer=key",
         "row 1: answer 1 is one choice and, counted from 0, the number of another"),
        (b"", "t.csv", "question=a,answer=b", "t.csv contains no rows"),
        (b"a,b\n", "t.csv", "question=a,answer=b", "t.csv contains no rows"),
        (b"a,a\n1,2\n", "t.csv", "question=a,answer=a", "2 columns are called 'a'"),
        (b'{"a": "\\ud83d", "b": "x"}', "t.jsonl", "question=a,answer=b", "half a character"),
        (b"PAR1 no", "t.parquet", "", "t.parquet row 1 cannot be read"),
        (b"\x1f\x8b no", "t.csv.gz", "", "is not a whole gzip file"),
        # mtime: the tests' names hold it, and all processes have to agree on them.
        (gzip.compress(CSV, mtime=0)[:-9], "t.csv.gz", "", "is not a whole gzip file"),
        (b"[1, 2]", "t.json", "", "t.json row 1 cannot be read: it does not fit"),
        (CSV, "t.xlsx", "", "is no table that is read; give .csv"),
    ],
)  # fmt: skip
def test_faults_name_the_file_the_row_and_the_reason(content, name, columns, said):
    with pytest.raises(BadInput) as found:
        samples_from(content, name, parse_columns(columns))
    assert said in str(found.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("question", "'question' names no column"),
        ("Frage=question", "'Frage' is no part of a sample"),
        ("question=a,question=b", "'question' is named twice"),
        ("answer=a+b", "Only choices may have several columns"),
        ("choices=a+", "names no column"),
    ],
)
def test_a_mapping_that_says_nothing_is_refused(text, said):
    with pytest.raises(BadInput) as found:
        parse_columns(text)
    assert said in str(found.value)


def test_what_unpacks_to_too_much_is_refused():
    with pytest.raises(BadInput, match="holds more than"):
        samples_from(gzip.compress(b"\n" * (MAX_ARRAY_BYTES + 1), 1), "t.csv.gz", {})


def test_a_column_that_the_first_row_lacks_is_found():
    rows = b'{"q": "a", "a": "b"}\n{"q": "c", "a": "d", "more": "e"}\n'
    columns = parse_columns("instruction=q,output=a,input=more")
    samples, _ = samples_from(rows, "t.jsonl", columns)
    assert samples[1].messages[0].content == "c\n\ne"


def test_what_is_no_part_of_a_sample_is_left_out_of_its_line():
    table = parquet([{"question": "a", "answer": "b", "score": float("nan")}])
    samples, lines = samples_from(table, "t.parquet", {})
    assert json.loads(lines, parse_constant=pytest.fail) == {"question": "a", "answer": "b"}
    assert len(samples) == 1


def test_only_as_many_rows_as_asked_for_are_read():
    assert len(samples_from(b'question,answer\na,b\nc,d\n"', "t.csv", {}, limit=2)[0]) == 2

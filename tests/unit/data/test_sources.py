"""Data sets by name: what a name means, a local folder loaded, and what the hub is asked."""

import json

import pytest

from nuggets.data.sources import load_source, parse_dataset
from nuggets.errors import BadInput
from nuggets.recipe_tree import absolute_source

datasets = pytest.importorskip("datasets")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data set as people publish them: a folder with one file per split."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    made = tmp_path / "sums"
    made.mkdir()
    for split, n in (("train", 3), ("test", 2)):
        rows = [{"prompt": f"{split} {i} + 1 = ?", "completion": str(i + 1)} for i in range(n)]
        (made / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("openai/gsm8k:main/test", ("openai/gsm8k", None, "main", "test")),
        ("openai/gsm8k@e53f048:main/test", ("openai/gsm8k", "e53f048", "main", "test")),
        ("org/name@refs/pr/1:train", ("org/name", "refs/pr/1", None, "train")),
        ("org/name:train", ("org/name", None, None, "train")),
    ],
)
def test_names_of_data_sets(text, parts):
    ref = parse_dataset(text)
    assert ref is not None
    assert (ref.name, ref.revision, ref.config, ref.split) == parts


@pytest.mark.parametrize(
    "text", ["data.jsonl", "a/b", "a/b.jsonl", "reverse", "/no/such:train", "\0"]
)
def test_everything_else_is_a_file(text):
    assert parse_dataset(text) is None


def test_a_file_wins_over_a_data_set_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "name:train").write_text('{"prompt": "a", "completion": "b"}\n')
    assert parse_dataset("org/name:train") is None
    assert load_source("org/name:train")[0].answer == "b"


def test_a_local_folder_is_loaded_split_by_split(folder):
    train, test = load_source(f"{folder}:train"), load_source(f"{folder}:test")
    assert [s.prompt for s in train] == [f"train {i} + 1 = ?" for i in range(3)]
    assert [s.answer for s in test] == ["1", "2"]
    assert len(load_source(f"{folder}:train", limit=2)) == 2


def test_rows_are_validated_by_number_and_converted(folder):
    with pytest.raises(BadInput, match=r":train row 1: there is no column 'question'"):
        load_source(f"{folder}:train", convert=lambda row: {"prompt": row["question"]})
    (folder / "train.jsonl").write_text(
        '{"prompt": "a", "completion": "b"}\n{"prompt": " ", "completion": "b"}\n'
    )
    with pytest.raises(BadInput, match=r":train row 2: prompt is missing, empty or not text"):
        load_source(f"{folder}:train")


@pytest.mark.parametrize(
    ("cells", "read"),
    [("q,None\nr,NA\n", ["None", "NA"]), ("q,4\nr,6.0\n", ["4", "6.0"]),
     ("q,true\nr,2024-01-05\n", ["true", "2024-01-05"])],
)  # fmt: skip
def test_cells_of_a_table_are_the_text_that_they_are(tmp_path, monkeypatch, cells, read):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    made = tmp_path / "table"
    made.mkdir()
    (made / "train.csv").write_text("prompt,completion\n" + cells)
    assert [sample.answer for sample in load_source(f"{made}:train")] == read


def test_a_date_in_a_folder_of_jsonl_is_the_text_that_it_is(folder):
    line = '{"prompt": "when?", "completion": "2024-01-05"}\n'
    (folder / "train.jsonl").write_text(line)
    assert load_source(f"{folder}:train")[0].answer == "2024-01-05"
    (folder / "train.jsonl").write_text(line + "{")
    with pytest.raises(BadInput, match=r"train\.jsonl row 2 cannot be read: not JSON"):
        load_source(f"{folder}:train")


def test_an_unknown_split_is_a_sentence(folder):
    with pytest.raises(BadInput, match=r"sums:dev cannot be loaded: .*split"):
        load_source(f"{folder}:dev")


def test_the_hub_is_asked_for_name_config_split_and_revision_and_nothing_else(monkeypatch):
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return [{"prompt": f"a {i}", "completion": "b", "extra": None} for i in range(9)]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_source("org/name@v1:part/test")[0].answer == "b"
    few = load_source("org/name@v1:part/test", limit=4)
    assert [sample.prompt for sample in few] == ["a 0", "a 2", "a 4", "a 6"], "from all of it"
    asked.pop()
    assert asked == [(("org/name", "part"), {"split": "test", "revision": "v1"})]


def test_a_data_set_that_is_not_cached_is_a_sentence_offline(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(BadInput, match=r"org/none:train cannot be loaded: .*local cache"):
        load_source("org/none:train")


def test_names_survive_recipes_and_folders_become_absolute(folder, tmp_path):
    assert absolute_source("org/name@v1:part/test", tmp_path) == "org/name@v1:part/test"
    assert absolute_source("sums:train", tmp_path) == f"{folder}:train"
    assert absolute_source("some.jsonl", tmp_path) == str(tmp_path / "some.jsonl")

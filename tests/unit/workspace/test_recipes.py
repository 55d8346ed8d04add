"""Recipes saved by name: kept whole, found by app and command line, never over another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from nuggets import api
from nuggets.errors import BadInput

HOSTILE_NAMES = (
    "../x",
    "a/b",
    "",
    " ",
    ".hidden",
    "-r",
    "x" * 41,
    "a b",
    "a\nb",
    "a\0b",
    "ä",
    "con*",
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_saved_recipe_comes_back_whole_under_its_new_name():
    recipe = api.load_recipe("controls", ["lora.energy=0.9", "lora.ranks={q: 4}", "seeds=[7, 9]"])
    api.save_recipe(recipe, "mine")
    assert api.load_recipe("mine") == recipe.model_copy(update={"name": "mine"})
    assert api.load_recipe("mine", ["lora.r=3"]).lora.r == 3
    assert list(api.own_recipes()) == ["mine"]


def test_saved_paths_are_absolute(tmp_path, monkeypatch):
    (tmp_path / "mine.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 2)
    monkeypatch.chdir(tmp_path)
    api.save_recipe(api.load_recipe("quick", ["data.file=mine.jsonl"]), "own")
    monkeypatch.chdir("/")
    assert api.load_recipe("own").data.file == str(tmp_path / "mine.jsonl")


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_name_that_is_no_plain_word_is_refused(home, name):
    with pytest.raises(BadInput, match="is not a valid recipe name"):
        api.save_recipe(api.load_recipe("quick"), name)
    assert not home.exists()


def test_nothing_is_replaced_unasked():
    quick = api.load_recipe("quick")
    with pytest.raises(BadInput, match="comes with Nuggets"):
        api.save_recipe(quick, "quick")
    api.save_recipe(quick, "mine")
    other = api.load_recipe("quick", ["lora.r=2"])
    with pytest.raises(BadInput, match="A recipe named mine already exists"):
        api.save_recipe(other, "mine")
    assert api.load_recipe("mine").lora.r == 16
    api.save_recipe(other, "mine", replace=True)
    assert api.load_recipe("mine").lora.r == 2


def test_deleted_recipe_is_gone_and_others_stay():
    for name in ("one", "two"):
        api.save_recipe(api.load_recipe("quick"), name)
    api.delete_recipe("one")
    assert list(api.own_recipes()) == ["two"]
    for name in ("one", "quick", "../two"):
        with pytest.raises(BadInput, match="There is no saved recipe"):
            api.delete_recipe(name)


def test_unknown_recipe_names_those_there_are():
    with pytest.raises(BadInput, match="There is no recipe"):
        api.load_recipe("nothing")
    api.save_recipe(api.load_recipe("quick"), "mine")
    with pytest.raises(BadInput, match=r"quick\. Saved recipes: mine\."):
        api.load_recipe("nothing")


def test_file_spoilt_by_hand_is_one_sentence(home):
    path = api.save_recipe(api.load_recipe("quick"), "mine")
    path.write_text("lora: {r: many}")
    with pytest.raises(BadInput, match=r"lora\.r"):
        api.load_recipe("mine")
    (home / "recipes" / "quick.yaml").write_text("name: evil")
    (home / "recipes" / "two words.yaml").write_text("name: evil")
    assert list(api.own_recipes()) == ["mine"]
    assert api.load_recipe("quick").name == "quick"


def test_comparison_shows_the_fields_that_differ_and_no_others():
    one = api.load_recipe("quick")
    other = api.load_recipe(
        "quick", ["lora.r=4", "arms=[{kind: plain}, {kind: teacher_labels, n: 9}]"]
    )
    assert api.compare_recipes({"a": one, "b": other}) == {
        "lora.r": ["16", "4"],
        "arms": [
            "[vanilla, plain, paper, permuted, random_window]",
            "[plain, {kind: teacher_labels, n: 9}]",
        ],
    }
    assert api.compare_recipes({"a": one, "b": one}) == {}
    with pytest.raises(BadInput, match="at least two"):
        api.compare_recipes({"a": one})


def test_an_uploaded_recipe_needs_no_job_and_may_be_no_other():
    assert api.parse_recipe("lora: {r: 3}").lora.r == 3
    assert api.parse_recipe(api.dump_job(api.load_recipe("graft"))) == api.load_recipe("graft")
    with pytest.raises(BadInput, match="sensitivity job, not a transfer"):
        api.parse_recipe("job: sensitivity\nmodel: teacher\ndata: {task: add}")

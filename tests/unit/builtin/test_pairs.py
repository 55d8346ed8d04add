"""Where the built-in models are looked for, and what is said when they are missing."""

from __future__ import annotations

import json

import pytest

from nuggets.builtin.pairs import (
    MODELS,
    PAIRS,
    ModelCard,
    assets_root,
    model_card,
    model_folder,
)
from nuggets.disk import carried
from nuggets.errors import BadInput, Damaged

CARD = {
    "name": "teacher",
    "description": "A teacher.",
    "parameters": 5,
    "scores": {"add": 1.0},
    "taught_half": {},
    "items": {"add": 3},
    "taught": {"add": 1.0},
    "lacks": [],
    "command": "make pairs",
    "training": {"steps": 3},
    "cpu_seconds": 1.5,
    "versions": {},
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_ASSETS", str(tmp_path))
    for name in MODELS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "teacher" / "card.json").write_text(json.dumps(CARD))
    return tmp_path


def test_environment_variable_moves_the_assets(root):
    assert assets_root() == root
    assert {name: model_folder(name) for name in MODELS} == {name: root / name for name in MODELS}


def test_every_pair_is_named_after_its_student_and_names_existing_models():
    assert [(name, pair.teacher, pair.student) for name, pair in PAIRS.items()] == [
        ("independent", "teacher", "independent"),
        ("sibling", "teacher", "sibling"),
    ]


def test_card_is_read(root):
    card = model_card("teacher")
    assert card == ModelCard.model_validate(CARD)
    assert card.scores["add"] == 1.0


@pytest.mark.parametrize("text", ["", "{", '{"name": "teacher"}', json.dumps(CARD | {"more": 1})])
def test_damaged_card_is_refused(root, text):
    (root / "teacher" / "card.json").write_text(text)
    with pytest.raises(Damaged, match="run `make pairs`"):
        model_card("teacher")


def test_missing_card_is_refused(root):
    with pytest.raises(Damaged, match="run `make pairs`"):
        model_card("sibling")


def test_missing_folder_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_ASSETS", str(tmp_path / "nowhere"))
    with pytest.raises(BadInput, match=r"nowhere; run `make pairs`"):
        assets_root()
    monkeypatch.setenv("NUGGETS_ASSETS", str(tmp_path))
    with pytest.raises(BadInput, match=r"'teacher' is not at .*; run `make pairs`"):
        model_folder("teacher")


def test_they_come_with_the_package(tmp_path, monkeypatch):
    monkeypatch.delenv("NUGGETS_ASSETS", raising=False)
    monkeypatch.setattr(carried, "CARRIED", tmp_path)
    with pytest.raises(BadInput, match="run `make pairs`"):
        assets_root()
    (tmp_path / "assets" / "pairs").mkdir(parents=True)
    assert assets_root() == (tmp_path / "assets" / "pairs").resolve()


@pytest.mark.parametrize("call", [model_folder, model_card])
def test_unknown_names_are_refused_with_the_valid_ones(call, root):
    valid = "teacher, independent, sibling"
    with pytest.raises(BadInput, match=f"no built-in .* 'big'; choose one of {valid}"):
        call("big")

"""Which models runs of one process share, and when they do not."""

from __future__ import annotations

import shutil

import pytest

from nuggets.builtin.pairs import model_folder
from nuggets.builtin.resolve import model_named
from nuggets.stages import shared_models
from nuggets.stages.shared_models import load_shared, models_shared


@pytest.fixture
def folder(tmp_path):
    """A model of one's own, whose files can change."""
    return shutil.copytree(model_folder("sibling"), tmp_path / "model")


def test_runs_in_the_block_share_a_model_and_others_do_not(folder):
    with models_shared():
        first = load_shared(model_named(str(folder)), "cpu")
        assert load_shared(model_named(str(folder)), "cpu") is first
        assert load_shared(model_named("sibling"), "cpu") is not first
    assert load_shared(model_named(str(folder)), "cpu") is not first


def test_a_model_whose_files_changed_is_loaded_again(folder):
    with models_shared() as held:
        first = load_shared(model_named(str(folder)), "cpu")
        with (folder / "config.json").open("a") as config:
            config.write("\n")
        assert load_shared(model_named(str(folder)), "cpu") is not first
        assert len(held) == 1


def test_no_model_is_held_where_memory_is_scarce(folder, monkeypatch):
    with models_shared() as held:
        first = load_shared(model_named(str(folder)), "cpu")
        monkeypatch.setattr(shared_models, "free_memory", lambda device: 0)
        assert load_shared(model_named(str(folder)), "cpu") is first
        assert not held
        assert load_shared(model_named(str(folder)), "cpu") is not first

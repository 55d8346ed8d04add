"""Names: built-in, then folder, then hub."""

from __future__ import annotations

import pytest

from nuggets.builtin.resolve import resolve
from nuggets.errors import BadInput


@pytest.fixture
def assets(tiny, tmp_path, monkeypatch):
    for name in ("teacher", "independent", "sibling"):
        (tmp_path / name).symlink_to(tiny(), target_is_directory=True)
    monkeypatch.setenv("NUGGETS_ASSETS", str(tmp_path))
    return tmp_path


def test_builtin_name_wins_over_a_folder_of_that_name(assets, tiny_copy, monkeypatch):
    monkeypatch.chdir(tiny_copy().parent)
    ref = resolve("teacher")
    assert (ref.source, ref.path) == ("teacher", assets / "teacher")


def test_folder_and_hub_id_pass_through(tiny):
    assert resolve(str(tiny())).path == tiny()
    assert resolve("org/name@main").hub_id == "org/name"


def test_misspelt_name_lists_the_builtin_models():
    with pytest.raises(BadInput, match=r"'techer' is not a model.*teacher, independent, sibling"):
        resolve("techer")


def test_wrong_path_is_not_taken_for_a_builtin_name():
    with pytest.raises(
        BadInput, match=r"There is no folder or file '\./techer'\. Check the path\.$"
    ):
        resolve("./techer")

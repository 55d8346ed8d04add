"""What is checked is what is loaded: on every odd folder both say the same, and none is silent."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nuggets import api
from nuggets.disk import untrusted
from nuggets.errors import BadInput
from nuggets.models import tried
from nuggets.models.loading import check_loading, load_model, load_tokenizer
from nuggets.models.references import parse_ref
from tests.unit.models.odd_models import ODD, ONLY_VALUES, edit


def refusal(look, folder: Path) -> str:
    """What is said of a folder; an empty text when it is taken."""
    try:
        look(parse_ref(str(folder)))
    except BadInput as refused:
        text = str(refused)
        assert "\n" not in text, text
        assert text.endswith("."), text
        return text
    return ""


def load(ref) -> None:
    """Loads both and runs the model, against which nothing may stand any more."""
    model = load_model(ref)
    load_tokenizer(ref)
    logits = model(torch.zeros(1, 2, dtype=torch.long)).logits
    assert logits.shape == (1, 2, 40)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", ODD)
def test_checking_and_loading_say_the_same(name, tiny_copy):
    folder = tiny_copy()
    ODD[name](folder)
    checked, loaded = refusal(check_loading, folder), refusal(load, folder)
    if name in ONLY_VALUES:
        assert not checked
        assert ONLY_VALUES[name] in loaded
    else:
        assert checked == loaded


def test_the_corpus_is_large():
    assert len(ODD) >= 150


def test_the_preflight_of_commands_and_pages_gives_the_sentence_of_loading(
    tiny, tiny_copy, tmp_path, monkeypatch
):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    folder = tiny_copy()
    assert api.preflight(str(folder), str(tiny())).ok
    edit("config.json", hidden_act="nosuch")(folder)
    said = refusal(check_loading, folder)
    assert "nosuch" in said
    assert api.preflight(str(folder), str(tiny())).problems == (said,)


def test_a_folder_is_tried_again_after_any_byte_of_it_changed(tiny_copy, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(tried, "limited", lambda *_, **__: calls.append(1))
    monkeypatch.setattr(untrusted, "SETTLED_S", -60)  # as if nothing had changed just now
    ref = parse_ref(str(folder := tiny_copy()))
    for _ in range(3):
        tried.try_loading(ref, tmp_path / "cache")
    assert len(calls) == 1
    weights = folder / "model.safetensors"
    for file, at in ((weights, -1), (folder / "tokenizer.json", 40)):
        changed = bytearray(file.read_bytes())
        changed[at] ^= 1
        file.write_bytes(changed)
        tried.try_loading(ref, tmp_path / "cache")
    assert len(calls) == 3

"""What is checked is what is loaded: on every odd folder both say the same, and none is silent."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers.models.llama import modeling_llama

from nuggets import api
from nuggets.disk import untrusted
from nuggets.errors import BadInput, Damaged
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


@pytest.mark.parametrize(
    "name", [pytest.param(o, marks=[pytest.mark.slow] * (n % 5 > 0)) for n, o in enumerate(ODD)]
)
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


@pytest.mark.slow
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
    monkeypatch.setattr(tried, "limited", lambda *_, **__: calls.append(1) or [""])
    monkeypatch.setattr(untrusted, "SETTLED_S", -60)  # as if nothing had changed just now
    ref = parse_ref(str(folder := tiny_copy()))
    for _ in range(3):
        assert tried.refusals([ref], tmp_path / "cache") == [""]
    assert len(calls) == 1
    weights = folder / "model.safetensors"
    for file, at in ((weights, -1), (folder / "tokenizer.json", 40)):
        changed = bytearray(file.read_bytes())
        changed[at] ^= 1
        file.write_bytes(changed)
        assert tried.refusals([ref], tmp_path / "cache") == [""]
    assert len(calls) == 3


def test_a_model_that_ends_the_child_is_told_from_the_one_beside_it(tiny, tmp_path, monkeypatch):
    calls = []

    def limited(_function, sources, **_):
        calls.append(sources)
        if str(bad) in sources:
            raise Damaged(f"{len(sources)} of them took too much.")
        return [""] * len(sources)

    monkeypatch.setattr(tried, "limited", limited)
    monkeypatch.setattr(untrusted, "SETTLED_S", -60)  # as if nothing had changed just now
    bad, good = tiny("llama"), tiny("qwen2")
    refs = [parse_ref(str(folder)) for folder in (bad, good)]
    assert tried.refusals(refs, tmp_path) == ["1 of them took too much.", ""]
    assert calls == [[str(bad), str(good)], [str(bad)], [str(good)]]
    assert tried.refusals(refs[::-1], tmp_path) == ["", "1 of them took too much."]
    assert len(calls) == 3


def test_checking_runs_the_model_to_its_end(tiny, monkeypatch):
    def reached(*_):
        raise ValueError("its last layer was reached")

    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", reached)
    assert "its last layer was reached" in refusal(check_loading, tiny())

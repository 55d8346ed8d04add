"""`nuggets convert`: pickles become safetensors in a child process, and nothing in them runs."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nuggets.models import unpickle_worker
from nuggets.models.loading import load_model
from nuggets.models.references import parse_ref


def pickled(folder: Path, shards: int = 1) -> dict[str, torch.Tensor]:
    """Puts pickles in the place of a model's safetensors."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    for i in range(shards):
        own = {name: tensors[name] for name in names[i::shards]}
        tail = f"-{i + 1:05}-of-{shards:05}" if shards > 1 else ""
        torch.save(own, folder / f"pytorch_model{tail}.bin")
    (folder / "pytorch_model.bin.index.json").write_text("{}")
    (folder / "modeling.py").write_text("raise SystemExit")
    return tensors


@pytest.mark.parametrize("shards", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_pickled_model_is_the_same_in_safetensors(shards, tiny, tiny_copy, tmp_path, nuggets):
    folder, out = tiny_copy(), tmp_path / "out"
    pickled(folder, shards)
    ended = nuggets("convert", folder, "--out", out, "--json")
    assert ended.code == 0, ended.err
    assert ended.json["tensors"] == 21
    found, expected = (load_model(parse_ref(str(f))).state_dict() for f in (out, tiny()))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    names = {file.name for file in out.iterdir()}
    assert not {"modeling.py", "pytorch_model.bin.index.json"} & names


class Bomb:
    """What a malicious pickle holds: a call that is made while it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_code_in_a_pickle_does_not_run_and_nothing_is_written(tiny_copy, tmp_path, nuggets):
    folder, mark = tiny_copy(), tmp_path / "it-ran"
    (folder / "model.safetensors").unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"a": Bomb(mark)}, file)
    ended = nuggets("convert", folder, "--out", tmp_path / "out")
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
    assert "pytorch_model.bin cannot be converted" in ended.err
    assert "weights_only=False" not in ended.err, "no advice to open it anyway"
    assert not mark.exists()
    assert not (tmp_path / "out").exists()


def run_child(content: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    torch.save(content, tmp_path / "in.bin")
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path / "in.bin"), str(tmp_path / "out")])
    return unpickle_worker.main()


def test_views_and_tied_tensors_get_their_own_memory(tmp_path, monkeypatch):
    large = torch.arange(12.0).reshape(3, 4)
    content = {"a": large, "tied": large, "row": large[1], "turned": large.T}
    assert run_child({"state_dict": content}, tmp_path, monkeypatch) == 0
    found = load_file(tmp_path / "out")
    assert all(torch.equal(found[name], content[name]) for name in content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "no named tensors"),
        ({}, "no named tensors"),
        ({"a": 3}, "'a' is a int"),
        ({1: torch.ones(2)}, "1 is a Tensor"),
    ],
)
def test_what_is_no_checkpoint_is_refused(content, reason, tmp_path, monkeypatch, capsys):
    assert run_child(content, tmp_path, monkeypatch) == 1
    assert reason in capsys.readouterr().err


def test_a_folder_without_or_with_several_pickles_is_refused(tiny, tiny_copy, tmp_path, nuggets):
    for source, words in (
        (tiny(), "nothing to convert"),
        (tmp_path / "none", "no folder or file"),
        (tiny() / "config.json", "is not a pickle"),
    ):
        ended = nuggets("convert", source, "--out", tmp_path / "out")
        assert (ended.code, ended.err.count("\n")) == (2, 1)
        assert words in ended.err
    folder = tiny_copy()
    for name in ("one.bin", "two.bin", "optimizer.pt"):
        torch.save({}, folder / name)
    ended = nuggets("convert", folder, "--out", tmp_path / "out")
    assert "several pickled models (one.bin, two.bin)" in ended.err


def test_an_adapter_keeps_its_name(tmp_path, nuggets):
    source = tmp_path / "adapter"
    source.mkdir()
    torch.save({"base_model.x.lora_A.weight": torch.ones(2, 3)}, source / "adapter_model.bin")
    (source / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    ended = nuggets("convert", source, "--out", tmp_path / "out", "--json")
    assert ended.json["files"] == ["adapter_model.safetensors"]
    assert (tmp_path / "out" / "adapter_config.json").is_file()
    assert load_file(tmp_path / "out" / "adapter_model.safetensors").keys() == {
        "base_model.x.lora_A.weight"
    }

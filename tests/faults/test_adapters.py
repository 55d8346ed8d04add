"""F7: a damaged adapter is refused before it is used, whatever became of it."""

import copy
import random
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from nuggets.disk.manifest import MANIFEST, verify_folder, write_manifest
from nuggets.errors import BadInput, Damaged
from nuggets.extraction.adapter import load_adapter, save_adapter
from nuggets.models.architecture import ArchSpec
from nuggets.stages.evaluating import _opener

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(1)
    config = LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=19,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def committed(student, tmp_path_factory):
    """An adapter as a run commits it."""
    folder = tmp_path_factory.mktemp("cell")
    spec = ArchSpec.from_config(student.config.to_dict())
    draw = torch.Generator().manual_seed(2)
    weights = {}
    for role in ("q", "v", "down"):
        for layer in range(2):
            rows, columns = spec.shape(role)
            a, b = torch.randn(2, columns, generator=draw), torch.randn(rows, 2, generator=draw)
            weights[spec.module(role, layer)] = (a, b)
    save_adapter(folder, weights, dict.fromkeys(weights, 1.0), spec, "student", "card")
    write_manifest(folder)
    return folder


def use(folder, student):
    """What every reader of a run does first: files as committed, then a strict load."""
    if (folder / MANIFEST).exists():
        verify_folder(folder)
    load_adapter(copy.deepcopy(student), folder)


def test_an_arm_that_changed_after_its_commit_is_not_evaluated(committed, student, tmp_path):
    shutil.copytree(committed, tmp_path / "cell" / "adapter")
    write_manifest(tmp_path / "cell")
    flip_a_bit(tmp_path / "cell" / "adapter", random.Random(1))
    opened = _opener(tmp_path / "cell", lambda: (copy.deepcopy(student), None), "cpu")()
    with pytest.raises(Damaged, match="does not match its sha256"):
        opened.__enter__()


def cut_short(folder, draw):
    path = draw.choice([folder / WEIGHTS, folder / "adapter_config.json"])
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def flip_a_bit(folder, draw):
    path = draw.choice([path for path in sorted(folder.iterdir()) if path.is_file()])
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def tensors(change):
    def damage(folder, draw):
        (folder / MANIFEST).unlink()  # as somebody else's adapter, which has none
        found = load_file(folder / WEIGHTS)
        change(found, draw.choice(sorted(found)), draw)
        save_file(found, folder / WEIGHTS, metadata={"format": "pt"})

    damage.__name__ = change.__name__
    return damage


def drop_a_key(found, name, draw):
    del found[name]


def add_a_layer(found, name, draw):
    layer = name.split("layers.")[1].split(".")[0]
    found[name.replace(f"layers.{layer}", f"layers.{draw.randrange(2, 90)}")] = found[name].clone()


def spoil_a_value(found, name, draw):
    flat = found[name].view(-1)
    flat[draw.randrange(len(flat))] = draw.choice([float("nan"), float("inf"), float("-inf")])


def narrow_a_matrix(found, name, draw):
    found[name] = found[name][:, :-1].clone()


DAMAGES = [cut_short, flip_a_bit] + [
    tensors(change) for change in (drop_a_key, add_a_layer, spoil_a_value, narrow_a_matrix)
]


def test_every_damaged_adapter_is_refused_and_the_whole_one_is_not(
    committed, student, tmp_path, rounds, counted
):
    use(committed, student)
    n, draw = 13 * rounds // 10, random.Random(5)
    for number in range(n):
        damage = DAMAGES[number % len(DAMAGES)]
        folder = tmp_path / str(number)
        shutil.copytree(committed, folder)
        damage(folder, draw)
        with pytest.raises(BadInput) as refused:
            use(folder, student)
        assert str(folder) in str(refused.value), (number, damage.__name__)
        shutil.rmtree(folder)
    counted("F7", "damaged adapters", n)

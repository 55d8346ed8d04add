"""Fused modules taken apart: the same function, the same files, the right rows for every role."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from nuggets.models.architecture import ARCHITECTURES
from nuggets.models.fused import join_fused, split_fused, stored_factors, stored_layout
from nuggets.models.layout import expected_tensors, optional_tensors, place_of
from nuggets.models.loading import load_model
from nuggets.models.pair import read_spec
from nuggets.models.references import parse_ref
from nuggets.models.safetensors_headers import check_keys, count_parameters

FUSED = ("phi3", "gpt_neox", "gpt2")


def whole(tiny, kind):
    folder = tiny(kind)
    return AutoModelForCausalLM.from_pretrained(folder).eval(), read_spec(parse_ref(str(folder)))


def prompt():
    return torch.arange(3, 12)[None]


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_split_model_has_one_linear_per_role_and_computes_the_same(tiny, kind):
    model, spec = whole(tiny, kind)
    expected = model(prompt()).logits
    split_fused(model, spec)
    for module, role, layer in spec.modules():
        found = model.get_submodule(module)
        assert tuple(found.weight.shape) == spec.shape(role), module
        assert layer is None or isinstance(found, nn.Linear)
    torch.testing.assert_close(model(prompt()).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_join_undoes_split_bit_for_bit(tiny, kind):
    model, spec = whole(tiny, kind)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    join_fused(split_fused(split_fused(model, spec), spec), spec)
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("kind", FUSED)
def test_saving_a_split_model_writes_the_files_it_came_from(tiny, kind, tmp_path):
    model, spec = whole(tiny, kind)
    split_fused(model, spec)
    with stored_layout(model, spec):
        model.save_pretrained(tmp_path)
    assert isinstance(model.get_submodule(spec.module("k", 1)), nn.Linear)
    ours, theirs = (load_file(f / "model.safetensors") for f in (tmp_path, tiny(kind)))
    assert sorted(ours) == sorted(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_place_of_reads_every_role_out_of_the_stored_tensors(tiny, kind):
    model, spec = whole(tiny, kind)
    stored = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    split_fused(model, spec)
    for module, _, _ in spec.modules():
        name, rows, transposed = place_of(spec, module)
        weight = stored[f"{name}.weight"]
        weight = weight.T if transposed else weight
        weight = weight if rows is None else weight[torch.from_numpy(rows)]
        assert torch.equal(weight, model.get_submodule(module).weight), module


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_tensors_are_described_as_transformers_names_and_shapes_them(tiny, kind):
    model, spec = whole(tiny, kind)
    theirs = {name: tuple(p.shape) for name, p in model.named_parameters()}
    required = dict(expected_tensors(spec))
    allowed = required | dict(optional_tensors(spec))
    assert set(required) <= set(theirs)
    assert {name: allowed[name] for name in theirs} == theirs


def test_neox_rows_are_interleaved_head_by_head(tiny):
    _, spec = whole(tiny, "gpt_neox")
    rows = {role: place_of(spec, spec.module(role, 0)).rows.tolist() for role in "qkv"}
    assert rows["q"][:10] == [0, 1, 2, 3, 4, 5, 6, 7, 24, 25]
    assert rows["k"][:9] == [8, 9, 10, 11, 12, 13, 14, 15, 32]
    assert rows["v"][:2] == [16, 17]
    assert sorted(row for own in rows.values() for row in own) == list(range(96))


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox"])
def test_files_as_they_were_published_load_too(tiny, tiny_copy, kind):
    """GPT-2 without the decoder's prefix; both with the masks that old versions stored."""
    folder = tiny_copy(kind)
    path = folder / "model.safetensors"
    old = {name.removeprefix("transformer."): t for name, t in load_file(path).items()}
    block = "h.{}.attn" if kind == "gpt2" else "gpt_neox.layers.{}.attention"
    for layer in range(2):
        old[f"{block.format(layer)}.bias"] = torch.ones(1, 1, 64, 64).tril()
        old[f"{block.format(layer)}.masked_bias"] = torch.tensor(-1e4)
    save_file(old, path, metadata={"format": "pt"})
    ref, plain = parse_ref(str(folder)), parse_ref(str(tiny(kind)))
    spec = read_spec(ref)
    counts = [count_parameters(spec, check_keys(r, spec)) for r in (ref, plain)]
    assert counts[0] == counts[1]
    assert torch.equal(load_model(ref)(prompt()).logits, load_model(plain)(prompt()).logits)


def test_gpt2_stores_its_matrices_transposed(tiny):
    model, spec = whole(tiny, "gpt2")
    stored = model.get_submodule("transformer.h.1.mlp.c_fc").weight.clone()
    split_fused(model, spec)
    assert torch.equal(model.get_submodule(spec.module("up", 1)).weight, stored.T)


@pytest.mark.parametrize("kind", FUSED)
def test_factors_put_together_are_the_roles_products_in_their_rows(tiny, kind):
    """With a rank and a scale of its own per role: W + s·B·A of the whole is that of the parts."""
    model, spec = whole(tiny, kind)
    generator = torch.Generator().manual_seed(5)
    weights, scales = {}, {}
    for rank, role in enumerate(("k", "q", "o", "v"), start=2):
        out, into = spec.shape(role)
        name = spec.module(role, 1)
        weights[name] = (
            torch.randn(rank, into, generator=generator),
            torch.randn(out, rank, generator=generator),
        )
        scales[name] = 0.5 + rank
    found, factors = stored_factors(weights, scales, spec)
    assert len(found) == 2
    changed = split_fused(copy.deepcopy(model), spec)
    for name, (a, b) in weights.items():
        changed.get_submodule(name).weight.data += scales[name] * b @ a
    join_fused(changed, spec)
    for name, (a, b) in found.items():
        product = factors[name] * b @ a
        product = product.T if ARCHITECTURES[kind].matrices[0].transposed else product
        expected = changed.get_submodule(name).weight - model.get_submodule(name).weight
        torch.testing.assert_close(product, expected.detach(), atol=1e-5, rtol=1e-4)
    fused = spec.architecture.matrix("q").stored
    assert next(a.shape[0] for name, (a, _) in found.items() if name.endswith(fused)) == 2 + 3 + 5

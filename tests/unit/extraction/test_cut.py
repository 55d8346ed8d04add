"""Cutting a model by a consistent choice: exactness, invariance, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from nuggets.errors import BadInput
from nuggets.extraction.consistent import ConsistentChoice
from nuggets.extraction.cut import cut_model, permute_matrices
from nuggets.models.architecture import ArchSpec

SHAPE = {
    "vocab_size": 37,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 4,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
MODELS = {
    "llama-mha": ("llama", {"num_key_value_heads": 6}),
    "llama-gqa": ("llama", {}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "mistral": ("mistral", {}),
    "qwen2-biases": ("qwen2", {"head_dim": None, "hidden_size": 24}),
    "qwen3-qk-norms": ("qwen3", {}),
    "gemma": ("gemma", {"tie_word_embeddings": True}),
    "gemma2": ("gemma2", {"tie_word_embeddings": True, "query_pre_attn_scalar": 4}),
    "gemma3": ("gemma3_text", {"tie_word_embeddings": True, "query_pre_attn_scalar": 4}),
}
IDS = torch.tensor([[3, 14, 15, 9, 2, 6, 5, 35], [8, 9, 7, 9, 3, 2, 3, 8]])


def make(name: str):
    """A random model whose norms and biases are random too, so that slicing them shows."""
    kind, extra = MODELS[name]
    settings_ = {k: v for k, v in (SHAPE | extra).items() if v is not None or k != "head_dim"}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings_)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.5 if parameter.ndim == 1 else 0.0, 0.3)
    return model


def spec_of(model) -> ArchSpec:
    return ArchSpec.from_config(model.config.to_dict())


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(input_ids=IDS, use_cache=False).logits


def full(spec: ArchSpec) -> ConsistentChoice:
    """Keeps everything."""
    layers = range(spec.n_layers)
    return ConsistentChoice(
        layers=tuple(layers),
        resid=np.arange(spec.hidden_size),
        heads=tuple(np.arange(spec.n_heads) for _ in layers),
        kv_heads=tuple(np.arange(spec.n_kv_heads) for _ in layers),
        ffn=tuple(np.arange(spec.intermediate_size) for _ in layers),
        head_dim=spec.head_dim,
        vocab=spec.vocab_size,
    )


def shuffled(spec: ArchSpec, rng: np.random.Generator) -> ConsistentChoice:
    """Keeps everything, in another order."""
    layers = range(spec.n_layers)
    kv_heads = [rng.permutation(spec.n_kv_heads) for _ in layers]
    heads = [
        np.concatenate([kv * spec.group + rng.permutation(spec.group) for kv in kept])
        for kept in kv_heads
    ]
    return replace(
        full(spec),
        resid=rng.permutation(spec.hidden_size),
        heads=tuple(heads),
        kv_heads=tuple(kv_heads),
        ffn=tuple(rng.permutation(spec.intermediate_size) for _ in layers),
    )


@pytest.mark.parametrize("name", MODELS)
def test_full_cut_has_bit_identical_logits(name):
    model = make(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    student = cut_model(model, full(spec_of(model)))
    assert torch.equal(logits(student), logits(model))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", MODELS)
def test_consistent_permutation_leaves_the_function_unchanged(name):
    model = make(name)
    choice = shuffled(spec_of(model), np.random.default_rng(1))
    torch.testing.assert_close(
        logits(cut_model(model, choice)), logits(model), rtol=1e-5, atol=1e-5
    )


def test_permuted_control_keeps_spectra_and_breaks_the_function():
    model = make("llama-gqa")
    before, spectra = logits(model), {}
    for module, _, _ in spec_of(model).modules():
        spectra[module] = torch.linalg.svdvals(model.get_submodule(module).weight)
    permute_matrices(model, seed=3)
    for module, values in spectra.items():
        found = torch.linalg.svdvals(model.get_submodule(module).weight)
        torch.testing.assert_close(found, values, rtol=1e-4, atol=1e-5)
    assert (logits(model) - before).abs().max() > 1e-2
    twin = make("llama-gqa")
    permute_matrices(twin, seed=3)
    assert torch.equal(logits(twin), logits(model))


@pytest.mark.parametrize("axis", ["resid", "kv_heads", "ffn"])
def test_permuting_one_weight_alone_changes_the_function(axis):
    """The invariance above is no accident of small weights."""
    model = make("llama-gqa")
    changed = logits(model)
    with torch.no_grad():
        weight = {
            "resid": model.model.norm.weight,
            "kv_heads": model.model.layers[0].self_attn.k_proj.weight,
            "ffn": model.model.layers[0].mlp.down_proj.weight.T,
        }[axis]
        weight.copy_(weight.flip(0).clone())
    assert (logits(model) - changed).abs().max() > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_dropping_zeroed_parts_leaves_the_function_unchanged(name):
    """Layers, heads and neurons that write nothing can be cut away: an oracle for real cuts."""
    model = make(name)
    spec = spec_of(model)
    kept_layers, kept_kv, kept_ffn = (0, 2), np.array([0, 2]), np.arange(1, 20, 2)
    kept_q = np.concatenate([kv * spec.group + np.arange(spec.group) for kv in kept_kv])
    columns = (kept_q[:, None] * spec.head_dim + np.arange(spec.head_dim)).ravel()
    with torch.no_grad():
        for index, layer in enumerate(model.model.layers):
            o_proj, down = layer.self_attn.o_proj, layer.mlp.down_proj
            for module, kept in ((o_proj, columns), (down, kept_ffn)):
                wanted = torch.zeros(module.weight.shape[1], dtype=torch.bool)
                if index in kept_layers:
                    wanted[torch.from_numpy(kept)] = True
                module.weight[:, ~wanted] = 0
                if index not in kept_layers and module.bias is not None:
                    module.bias.zero_()
    choice = replace(
        full(spec),
        layers=kept_layers,
        heads=(kept_q,) * 2,
        kv_heads=(kept_kv,) * 2,
        ffn=(kept_ffn,) * 2,
    )
    student = cut_model(model, choice)
    torch.testing.assert_close(logits(student), logits(model), rtol=1e-5, atol=1e-5)
    assert student.config.num_hidden_layers == 2
    assert student.config.num_attention_heads == 2 * spec.group
    assert student.model.layers[1].mlp.up_proj.weight.shape == (10, 24)


def test_residual_dimensions_are_sliced_everywhere():
    model = make("qwen2-biases")
    resid = np.array([5, 0, 17, 23, 8])
    student = cut_model(model, replace(full(spec_of(model)), resid=resid))
    teacher_layer, layer = model.model.layers[1], student.model.layers[1]
    assert torch.equal(student.model.embed_tokens.weight, model.model.embed_tokens.weight[:, resid])
    assert torch.equal(student.lm_head.weight, model.lm_head.weight[:, resid])
    assert torch.equal(student.model.norm.weight, model.model.norm.weight[resid])
    assert torch.equal(
        layer.post_attention_layernorm.weight, teacher_layer.post_attention_layernorm.weight[resid]
    )
    assert torch.equal(layer.self_attn.o_proj.weight, teacher_layer.self_attn.o_proj.weight[resid])
    assert torch.equal(layer.self_attn.q_proj.bias, teacher_layer.self_attn.q_proj.bias)
    assert student.config.hidden_size == 5
    assert student.config.head_dim == 4


def test_cut_saves_and_reloads_alone(tmp_path):
    model = make("gemma2")
    choice = replace(
        full(spec_of(model)),
        layers=(3, 0),
        resid=np.arange(8),
        heads=(np.array([3, 5]),) * 2,
        kv_heads=(np.array([1, 2]),) * 2,
        ffn=(np.arange(7), np.arange(13, 20)),
    )
    student = cut_model(model, choice)
    student.save_pretrained(tmp_path)
    again, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert torch.equal(logits(again.eval()), logits(student))
    assert again.config.layer_types == [model.config.layer_types[i] for i in (3, 0)]
    assert again.config.layer_types[0] != again.config.layer_types[1]


def test_cut_leaves_the_global_random_state_alone():
    model = make("llama-gqa")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    cut_model(model, full(spec_of(model)))
    assert torch.equal(torch.rand(3), expected)


LLAMA = make("llama-gqa")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"resid": np.array([0, 24])}, "resid has indices from 0 to 24"),
        ({"resid": np.array([-1, 3])}, "resid has indices from -1"),
        ({"resid": np.array([3, 3])}, "twice"),
        ({"resid": np.array([], dtype=int)}, "non-empty"),
        ({"layers": (0, 1, 2, 4)}, "layers has indices from 0 to 4"),
        ({"vocab": 36}, "all 37 tokens"),
        ({"ffn": (np.arange(3),) * 3}, "each of the 4 kept layers"),
        ({"ffn": (np.arange(3),) * 3 + (np.arange(2),)}, r"lengths \[3, 3, 3, 2\]"),
        ({"heads": (np.array([0, 2, 4]),) * 3 + (np.array([0, 1, 4]),)}, "keep whole groups"),
        ({"heads": (np.array([0, 1, 2, 3]),) * 4}, "keep whole groups"),
    ],
)
def test_impossible_choices_are_refused_in_one_sentence(change, words):
    choice = replace(full(spec_of(LLAMA)), **change)
    with pytest.raises(BadInput, match=words):
        cut_model(LLAMA, choice)

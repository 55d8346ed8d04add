"""The text decoder inside a model that also sees: loaded, measured, streamed, and its adapter."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText

from nuggets.extraction.adapter import (
    inject,
    load_adapter,
    read_factors,
    save_adapter,
    stack_factors,
    untie_adapter,
)
from nuggets.extraction.factors import extract_factors
from nuggets.extraction.plan import ExtractionConfig, LoraConfig, make_plan
from nuggets.models.kinds.wrappers import outer_name
from nuggets.models.loading import load_model, load_tokenizer
from nuggets.models.pair import Model, ModelPair, read_spec
from nuggets.models.references import parse_ref
from nuggets.models.stored_weights import StoredWeights
from nuggets.preflight.headers import preflight
from nuggets.sensitivity.hooks import compute_sensitivity
from nuggets.sensitivity.streaming import stream_sensitivity
from nuggets.train.export import save_model
from tests.conftest import TINY, write_tokenizer

INSIDE = {
    "gemma3": "gemma3_text",
    "mistral3": "mistral",
    "qwen2_vl": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen3_vl": "qwen3",
}
TIED = ("gemma3", "qwen2_vl", "qwen3_vl")
MROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1]}
OWN = {
    "gemma3": {"query_pre_attn_scalar": 8},
    "mistral3": {"model_type": "mistral"},
    "qwen2_vl": {"rope_parameters": MROPE},
    "qwen2_5_vl": {"rope_parameters": MROPE},
    "qwen3_vl": {"rope_parameters": MROPE},
}
SIGHT = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "depth": 1, "num_heads": 2, "image_size": 14, "patch_size": 7,
}  # fmt: skip
LORA = LoraConfig(r=3, alpha=7)
SAMPLES = [
    ([3, 5, 7, 9, 11, 2], [-100, -100, -100, 9, 11, 2]),
    ([4, 6, 8, 10, 2], [-100, -100, -100, 10, 2]),
]
IDS = torch.tensor([[3, 14, 15, 9, 21, 6, 5, 35]])

each = pytest.mark.parametrize("kind", INSIDE)


@pytest.fixture(scope="module")
def wrapped(tmp_path_factory):
    """`wrapped("gemma3", hidden_size=16)`: the folder of a random wrapper with a tokenizer."""
    made = {}

    def make(kind, **sizes):
        key = (kind, *sizes.items())
        if key not in made:
            made[key] = _write(tmp_path_factory.mktemp(kind), kind, sizes)
        return made[key]

    return make


def _write(folder, kind, sizes):
    tied = {"tie_word_embeddings": kind in TIED}
    text = TINY | OWN[kind] | tied | sizes
    if INSIDE[kind] == "qwen2":
        del text["head_dim"]
    sight = SIGHT | {"out_hidden_size": text["hidden_size"]}
    sight |= {"model_type": "pixtral"} if kind == "mistral3" else {}
    sight |= {"deepstack_visual_indexes": [0]} if kind == "qwen3_vl" else {}
    images = {"mm_tokens_per_image": 4} if kind == "gemma3" else {}
    config = AutoConfig.for_model(kind, text_config=text, vision_config=sight, **tied, **images)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def whole(folder):
    return AutoModelForImageTextToText.from_pretrained(folder).eval()


@each
def test_the_decoder_computes_what_the_wrapper_does_on_text(kind, wrapped):
    ref = parse_ref(str(wrapped(kind)))
    spec = read_spec(ref)
    assert (spec.model_type, spec.wrapped, spec.tied) == (INSIDE[kind], True, kind in TIED)
    text, seeing = load_model(ref), whole(wrapped(kind))
    torch.testing.assert_close(text(IDS).logits, seeing(input_ids=IDS).logits, rtol=0, atol=1e-6)
    assert load_tokenizer(ref).eos_token == "<eos>"
    found = preflight(ModelPair(Model(ref), Model(ref)))
    assert found.problems == ()
    assert found.teacher is not None
    assert found.teacher.parameters == text.num_parameters() < seeing.num_parameters()


@each
def test_sensitivity_is_that_of_the_untouched_wrapper_in_memory_and_streamed(kind, wrapped):
    folder = wrapped(kind)
    ref = parse_ref(str(folder))
    spec, seeing = read_spec(ref), whole(folder)
    sums = {name: torch.zeros_like(p) for name, p in seeing.named_parameters()}
    for ids, labels in SAMPLES:
        seeing.zero_grad()
        seeing(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.backward()
        for name, p in seeing.named_parameters():
            sums[name] += 0 if p.grad is None else (p.detach() * p.grad).abs()
    found = compute_sensitivity(load_model(ref), spec, SAMPLES)
    for module, _, _ in spec.modules():
        expected = sums[f"{outer_name(module)}.weight"]
        np.testing.assert_allclose(found.full[module], expected, rtol=2e-4, atol=1e-7)
    streamed = stream_sensitivity(ref, SAMPLES)
    for module, values in found.full.items():
        np.testing.assert_array_equal(streamed.full[module], values)


@pytest.mark.filterwarnings("ignore:Input and output embeddings are no longer tied")
@pytest.mark.filterwarnings("ignore:Model (has|with) `tie_word_embeddings")  # as its card says
@each
def test_a_trained_adapter_loads_on_the_untouched_wrapper(kind, wrapped, tmp_path):
    """By plain transformers and PEFT, and on the text model that Nuggets loads."""
    teacher = parse_ref(str(wrapped(kind, num_hidden_layers=3)))
    small = {"hidden_size": 16, "intermediate_size": 48, "num_attention_heads": 2}
    folder = wrapped(kind, **small, num_key_value_heads=1)
    student = parse_ref(str(folder))
    specs = read_spec(teacher), read_spec(student)
    map = compute_sensitivity(load_model(teacher), specs[0], SAMPLES)
    roles = ("embed", "q", "down") if specs[1].tied else ("q", "down", "head")
    plan = make_plan(map, specs[1], ExtractionConfig(roles=roles), LORA)
    factors = extract_factors(StoredWeights(teacher, specs[0]).weight, plan, map)
    model = load_model(student)
    peft = inject(copy.deepcopy(model), factors, LORA)
    torch.testing.assert_close(peft(IDS).logits, model(IDS).logits, atol=5e-5, rtol=0)
    with torch.no_grad():
        for parameter in peft.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.3)
    expected = peft.eval()(IDS).logits
    assert (expected - model(IDS).logits).abs().max() > 1e-2
    scales = {name: LORA.scale(factor.rank) for name, factor in factors.items()}
    weights = stack_factors(read_factors(peft), factors)
    save_adapter(tmp_path, weights, scales, specs[1], str(folder), "card")
    loaded = load_adapter(load_model(student), tmp_path).eval()
    torch.testing.assert_close(loaded(IDS).logits, expected, atol=2e-4, rtol=0)
    plain = PeftModel.from_pretrained(whole(folder), str(tmp_path)).eval()
    torch.testing.assert_close(plain(input_ids=IDS).logits, expected, atol=2e-4, rtol=0)

    untie_adapter(tmp_path, specs[1], lambda: model.get_input_embeddings().weight.detach())
    merged = PeftModel.from_pretrained(whole(folder), str(tmp_path)).eval().merge_and_unload()
    torch.testing.assert_close(merged(input_ids=IDS).logits, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("prefix", ["model.language_model.", "language_model.model."])
def test_files_under_either_of_their_names_load(wrapped, tmp_path, prefix):
    """As the hub has them of different years; what sees is neither read nor counted."""
    source = wrapped("mistral3")
    outside = "lm_head." if prefix.startswith("model.") else "language_model.lm_head."
    weights = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        name = name.replace("language_model.model.", prefix)
        weights[name.replace("language_model.lm_head.", outside)] = tensor
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    ref = parse_ref(str(tmp_path))
    expected = load_model(parse_ref(str(source)))(IDS).logits
    torch.testing.assert_close(load_model(ref)(IDS).logits, expected, rtol=0, atol=0)


def test_a_merged_student_is_a_text_model(wrapped, tmp_path):
    ref = parse_ref(str(wrapped("qwen2_5_vl")))
    model = load_model(ref)
    save_model(model, load_tokenizer(ref), tmp_path, "card")
    again = parse_ref(str(tmp_path))
    assert not read_spec(again).wrapped
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "qwen2"
    torch.testing.assert_close(load_model(again)(IDS).logits, model(IDS).logits, rtol=0, atol=1e-6)

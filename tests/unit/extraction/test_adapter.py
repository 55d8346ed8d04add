import copy
import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from nuggets.compute.svd import truncated_svd
from nuggets.errors import BadInput, Unsupported
from nuggets.extraction.adapter import (
    add_lora,
    inject,
    load_adapter,
    read_factors,
    save_adapter,
    stack_factors,
    untie_adapter,
)
from nuggets.extraction.adapter_options import check_options
from nuggets.extraction.plan import LoraConfig
from nuggets.models.architecture import ROLES, ArchSpec

LORAS = [
    LoraConfig(r=4),
    LoraConfig(r=4, alpha=6),
    LoraConfig(r=4, alpha=3, ranks={"k": 2, "down": 5}),
]


def student(tied=False):
    torch.manual_seed(1)
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=19,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config).eval()
    return model, ArchSpec.from_config(json.loads(config.to_json_string()))


def make_factors(spec, lora, roles=ROLES):
    generator = torch.Generator().manual_seed(2)
    factors = {}
    for role in roles:
        for layer in range(spec.n_layers) if role not in ("embed", "head") else [None]:
            shape = spec.shape(role)[::-1] if role == "embed" else spec.shape(role)
            weight = torch.randn(shape, generator=generator) * 0.3
            factors[spec.module(role, layer)] = truncated_svd(weight, lora.rank(role, shape))
    return factors


def test_a_base_in_bfloat16_stays_as_it_is_and_the_start_is_taken_off_in_float32():
    model, spec = student()
    model = model.bfloat16()
    lora = LoraConfig(r=4, alpha=6, dropout=0.5)  # of the trained adapter, while it trains
    factors = make_factors(spec, lora, ("embed", "q", "down", "head"))
    before = {name: p.clone() for name, p in model.named_parameters()}
    ids = torch.arange(19)[None]
    with torch.no_grad():
        wanted = model(input_ids=ids).logits
        peft = inject(model, factors, lora).eval()
        torch.testing.assert_close(peft(input_ids=ids).logits, wanted, rtol=0, atol=0.01)
    plain = {name.replace(".base_layer", ""): p for name, p in model.named_parameters()}
    assert all(torch.equal(plain[name], p) for name, p in before.items())
    trained = {name: p for name, p in peft.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * len(factors)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    for name, (a, b) in read_factors(peft).items():
        torch.testing.assert_close(b @ a, factors[name].product())
    peft.base_model.set_adapter("default")  # without it the start is there twice
    with torch.no_grad():
        assert (peft(input_ids=ids).logits - wanted).abs().max() > 0.1


def prompt():
    return torch.tensor([[1, 4, 7, 2, 9], [3, 3, 8, 0, 5]])


def disturb(peft):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in peft.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def trained(tied, lora):
    model, spec = student(tied)
    untouched = copy.deepcopy(model)
    factors = make_factors(spec, lora)
    peft = inject(model, factors, lora)
    disturb(peft)
    return untouched, spec, factors, peft


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("lora", LORAS)
def test_student_logits_unchanged_at_step_zero(tied, lora):
    model, spec = student(tied)
    expected = model(prompt()).logits
    peft = inject(model, make_factors(spec, lora), lora)
    found = peft(prompt()).logits
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    with peft.disable_adapter():  # and the base was really changed
        assert (peft(prompt()).logits - expected).abs().max() > 0.05


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("lora", LORAS)
def test_rank_2r_adapter_on_the_untouched_student_equals_the_trained_model(tied, lora, tmp_path):
    untouched, spec, factors, peft = trained(tied, lora)
    expected = peft(prompt()).logits
    stacked = stack_factors(read_factors(peft), factors)
    scales = {name: lora.scale(factor.rank) for name, factor in factors.items()}
    save_adapter(tmp_path, stacked, scales, spec, "student", "card")
    for name, (a, b) in stacked.items():
        assert a.shape[0] == b.shape[1] == 2 * factors[name].rank
    loaded = load_adapter(copy.deepcopy(untouched), tmp_path)
    torch.testing.assert_close(loaded(prompt()).logits, expected, atol=5e-5, rtol=0)
    with pytest.warns(UserWarning, match="tied layer") if tied else nullcontext():
        plain = PeftModel.from_pretrained(copy.deepcopy(untouched), str(tmp_path))
    torch.testing.assert_close(plain(prompt()).logits, expected, atol=5e-5, rtol=0)
    # What the field usually saves, the trained half alone, is a different function.
    alone = tmp_path / "alone"
    alone.mkdir()
    save_adapter(alone, read_factors(peft), scales, spec, "student", "card")
    wrong = load_adapter(copy.deepcopy(untouched), alone)
    assert (wrong(prompt()).logits - expected).abs().max() > 0.05


@pytest.mark.parametrize("tied", [False, True])
def test_merged_model_reloads_and_equals_the_trained_model(tied, tmp_path):
    _, _, _, peft = trained(tied, LORAS[1])
    expected = peft(prompt()).logits
    peft.merge_and_unload().save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(again(prompt()).logits, expected, atol=5e-5, rtol=0)


PEFT_ON_TIED = "ignore:.*(tied layer|tie_word_embeddings|no longer tied)"


def exported(roles, folder, tied=True):
    """An adapter of some roles, trained, and written as `nuggets export` does it."""
    lora = LORAS[2]
    model, spec = student(tied)
    untouched = copy.deepcopy(model)
    factors = make_factors(spec, lora, roles)
    peft = inject(model, factors, lora)
    disturb(peft)
    scales = {name: lora.scale(factor.rank) for name, factor in factors.items()}
    save_adapter(folder, stack_factors(read_factors(peft), factors), scales, spec, "base", "card")
    written = {file.name: file.read_bytes() for file in folder.iterdir()}
    untie_adapter(folder, spec, lambda: untouched.get_input_embeddings().weight.detach())
    return untouched, peft(prompt()).logits, written


@pytest.mark.filterwarnings(PEFT_ON_TIED)
@pytest.mark.parametrize("roles", [("embed", "q", "head"), ("embed",), ("v", "head"), ROLES])
def test_peft_alone_loads_merges_and_saves_what_was_trained_on_a_tied_student(roles, tmp_path):
    untouched, expected, _ = exported(roles, tmp_path)
    peft = PeftModel.from_pretrained(untouched, str(tmp_path)).eval()
    torch.testing.assert_close(peft(prompt()).logits, expected, atol=5e-5, rtol=0)
    merged = peft.merge_and_unload()
    torch.testing.assert_close(merged(prompt()).logits, expected, atol=5e-5, rtol=0)
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(again(prompt()).logits, expected, atol=5e-5, rtol=0)
    card = (tmp_path / "README.md").read_text()
    assert "loads and merges it as it was trained" in card
    assert "would add both changes" not in card


@pytest.mark.filterwarnings(PEFT_ON_TIED)
def test_an_adapter_of_a_tied_student_that_was_not_exported_warns_of_merging(tmp_path):
    untouched, expected, written = exported(("embed", "head"), tmp_path)
    for name, content in written.items():
        (tmp_path / name).write_bytes(content)
    assert b"`merge_and_unload` would add both changes to both" in written["README.md"]
    peft = PeftModel.from_pretrained(untouched, str(tmp_path)).eval()
    assert (peft.merge_and_unload()(prompt()).logits - expected).abs().max() > 0.05


@pytest.mark.parametrize(("roles", "tied"), [(("q", "down"), True), (ROLES, False)])
def test_adapters_that_peft_merges_anyway_are_exported_as_they_are(roles, tied, tmp_path):
    _, _, written = exported(roles, tmp_path, tied)
    assert written == {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert written["README.md"] == b"card"


def test_a_tied_head_alone_is_refused_with_the_way_that_works(tmp_path):
    with pytest.raises(BadInput, match="Export the whole model with --merged"):
        exported(("head",), tmp_path)


def test_adapter_folder_speaks_pefts_names(tmp_path):
    _, spec, factors, _peft = trained(False, LORAS[0])
    weights = {name: (f.a, f.b) for name, f in factors.items()}
    base = "org/student@v1.0"  # AutoPeftModel reads the revision apart
    save_adapter(tmp_path, weights, dict.fromkeys(weights, 1.0), spec, base, "a card")
    stored = load_file(tmp_path / "adapter_model.safetensors")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/student", "v1.0")
    assert (config["r"], config["lora_alpha"]) == (4, 4)
    key = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"
    torch.testing.assert_close(stored[key], factors["model.layers.1.mlp.up_proj"].a)
    embedding = "base_model.model.model.embed_tokens.lora_embedding_"
    assert stored[f"{embedding}A"].shape == (4, 19)
    assert stored[f"{embedding}B"].shape == (16, 4)
    assert (tmp_path / "README.md").read_text() == "a card"


def test_alpha_over_r_is_the_scale_peft_uses():
    model, _ = student()
    name = "model.layers.0.self_attn.q_proj"
    ranks = {name: 2, "model.layers.0.mlp.down_proj": 5}
    peft = add_lora(model, ranks, LoraConfig(r=4, alpha=3))
    layers = {n: peft.base_model.model.get_submodule(n) for n in ranks}
    assert {n: layer.scaling["default"] for n, layer in layers.items()} == {
        n: 3 / rank for n, rank in ranks.items()
    }
    assert {n: layer.r["default"] for n, layer in layers.items()} == ranks


def saved(tmp_path):
    untouched, spec, factors, _ = trained(False, LORAS[0])
    weights = {name: (f.a, f.b) for name, f in factors.items()}
    save_adapter(tmp_path, weights, dict.fromkeys(weights, 1.0), spec, "student", "card")
    return untouched, tmp_path / "adapter_model.safetensors"


@pytest.mark.parametrize("fault", ["missing", "extra", "shape", "nan"])
def test_an_adapter_that_does_not_fit_is_refused(tmp_path, fault):
    model, path = saved(tmp_path)
    tensors = load_file(path)
    name = next(name for name in sorted(tensors) if "layers.0" in name)
    if fault == "missing":
        del tensors[name]
    elif fault == "extra":
        tensors[name.replace("layers.0", "layers.7")] = tensors[name].clone()
    elif fault == "shape":
        tensors[name] = tensors[name][:, :-1].clone()
    else:
        tensors[name][0, 0] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"does not fit this model|NaN or infinite"):
        load_adapter(model, tmp_path)


def test_untouched_weights_are_not_shared_with_the_factors():
    model, spec = student()
    lora = LoraConfig(r=4)
    factors = make_factors(spec, lora, ("q",))
    before = {name: f.a.clone() for name, f in factors.items()}
    disturb(inject(model, factors, lora))
    for name, factor in factors.items():
        np.testing.assert_array_equal(factor.a.numpy(), before[name].numpy())


def kept(tmp_path):
    """A trained adapter on disk, the student it is for, and what it computes."""
    untouched, spec, factors, peft = trained(False, LORAS[0])
    save_adapter(tmp_path, read_factors(peft), dict.fromkeys(factors, 1.0), spec, "s", "card")
    return untouched, load_adapter(copy.deepcopy(untouched), tmp_path)(prompt()).logits


def test_an_adapter_of_a_wrapper_fits_the_text_model_inside_it(tmp_path):
    untouched, logits = kept(tmp_path)
    file, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    inner = {k.replace(".model.model.", ".model.model.language_model."): v
             for k, v in load_file(file).items()}  # fmt: skip
    save_file(inner, file)
    config.write_text(config.read_text().replace('"model.layers', '"model.language_model.layers'))
    torch.testing.assert_close(load_adapter(untouched, tmp_path)(prompt()).logits, logits)


@pytest.mark.parametrize(
    ("option", "value", "fits"),
    [
        ("peft_type", "IA3", False),
        ("bias", "all", False),
        ("init_lora_weights", "pissa", False),
        ("init_lora_weights", False, True),
        ("use_dora", True, False),
        ("use_dora", False, True),
        ("megatron_core", "megatron.core", True),
        ("an_option_of_tomorrow", 1, False),
        ("an_option_of_tomorrow", None, True),
    ],
)
def test_only_plain_lora_is_loaded(option, value, fits, tmp_path):
    untouched, _ = kept(tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {option: value}))
    if fits and option != "an_option_of_tomorrow":
        load_adapter(untouched, tmp_path)
        return
    ranks = {LORAS[0].r}
    if fits:
        check_options(config, ranks, ())
        return
    with pytest.raises(Unsupported, match=f"sets {option} to"):
        load_adapter(untouched, tmp_path)


def test_a_long_option_is_told_by_its_beginning(tmp_path):
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({"n" * 100: "v" * 100}))
    told = f"sets {'n' * 60} to '{'v' * 60}'; only plain LoRA"
    with pytest.raises(Unsupported, match=told):
        check_options(config, {4}, ())

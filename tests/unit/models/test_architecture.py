import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from nuggets.errors import BadInput, Unsupported
from nuggets.models.architecture import ARCHITECTURES, ArchSpec
from nuggets.models.fused import split_fused

each = pytest.mark.parametrize("kind", ARCHITECTURES)


def make(kind):
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 50,
        "pad_token_id": 0,
    }
    if kind not in ("qwen2", "gpt_neox", "gpt2", "stablelm"):
        sizes["head_dim"] = 8
    if kind in ("gpt_neox", "gpt2"):  # every head has its own keys and values
        del sizes["num_key_value_heads"]
    if kind == "gpt2":
        sizes["n_inner"] = sizes.pop("intermediate_size")
    return CONFIG_MAPPING[kind](**sizes)


def test_the_readme_counts_the_architectures():
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    assert f"of {len(ARCHITECTURES)} architectures" in readme


@each
def test_heads_are_free_of_the_width_where_the_real_model_lets_them(kind):
    config = make(kind)
    config.head_dim = 16
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    spec = ArchSpec.from_config(json.loads(config.to_json_string()))
    named = dict(split_fused(model, spec).named_parameters())
    q, o = (named[f"{spec.module(role, 0)}.weight"].shape for role in ("q", "o"))
    assert spec.architecture.free_heads == (q[0] == o[1] == 4 * 16)


@each
def test_the_description_names_every_parameter_of_the_real_model(kind):
    config = make(kind)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    spec = ArchSpec.from_config(json.loads(config.to_json_string()))
    named = dict(split_fused(model, spec).named_parameters())
    for module, role, layer in spec.modules():
        assert tuple(named.pop(f"{module}.weight").shape) == spec.shape(role)
        assert spec.layer_of(f"{module}.weight") == layer
    for name, parameter in named.items():  # what is left are norms and biases
        row, layer = spec.architecture, spec.layer_of(name)
        if layer is None:
            rows = {
                f"{row.positions}.weight": ("positions", "resid"),
                f"{row.head}.bias": ("vocab",),
            }
            axes = rows.get(name, ("resid",))
            assert name in rows or name.rpartition(".")[0] == row.final_norm
        else:
            module, _, last = name.split(f".{layer}.", 1)[1].rpartition(".")
            biases = {m.suffix: m.out for m in row.matrices} if last == "bias" else {}
            axes = ({**row.vectors, **biases}[module],)
        assert parameter.shape == tuple(spec.size(axis) for axis in axes)


@each
def test_what_a_saved_config_leaves_out_is_the_classs_default(kind, tmp_path):
    make(kind).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    full = json.loads(make(kind).to_json_string(use_diff=False))
    assert ArchSpec.from_config(saved) == ArchSpec.from_config({**saved, **full})


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "mamba", "state_size": 16}, "it is a state-space model"),
        ({"model_type": "falcon_h1", "mamba_d_ssm": 16}, "or a hybrid with one"),
        ({"model_type": "mixtral", "num_local_experts": 8}, "it is a mixture of experts"),
        ({"model_type": "olmoe", "num_experts": 64}, "no single counterpart"),
        (
            {"model_type": "deepseek_v3", "kv_lora_rank": 512, "n_routed_experts": 256},
            "latent attention.*no key/value heads to cut",
        ),
        (
            {"model_type": "llama4", "text_config": {"model_type": "llama4_text",
                                                     "num_local_experts": 16}},
            "it wraps a text model of the type 'llama4_text': it is a mixture of experts",
        ),
        ({"model_type": "t5", "is_encoder_decoder": True}, "it has an encoder"),
        ({"model_type": "bloom"}, "its modules and their axes are not described here"),
    ],
)  # fmt: skip
def test_an_unknown_architecture_is_refused_by_name_and_kind(config, why):
    kind = config["model_type"]
    with pytest.raises(Unsupported, match=rf"'{kind}' is not supported: .*{why}.*: llama, mistral"):
        ArchSpec.from_config(config)


@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers", "num_attention_heads"])
@pytest.mark.parametrize("value", [None, 0, "many", 10**9])
def test_an_absurd_dimension_is_refused(field, value):
    config = json.loads(make("llama").to_json_string()) | {field: value}
    with pytest.raises(BadInput, match=r"config\.json of this llama model"):
        ArchSpec.from_config(config)

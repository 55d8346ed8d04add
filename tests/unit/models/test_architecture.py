import json

import pytest
import torch
from transformers import (
    ArceeConfig,
    AutoModelForCausalLM,
    Cohere2Config,
    CohereConfig,
    Ernie4_5Config,
    Exaone4Config,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    Glm4Config,
    GlmConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    HeliumConfig,
    HunYuanDenseV1Config,
    LlamaConfig,
    Ministral3Config,
    MinistralConfig,
    MistralConfig,
    NemotronConfig,
    Olmo2Config,
    Olmo3Config,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
    SeedOssConfig,
    SmolLM3Config,
    StableLmConfig,
    Starcoder2Config,
)

from nuggets.errors import BadInput, Unsupported
from nuggets.models.architecture import ARCHITECTURES, ArchSpec
from nuggets.models.fused import split_fused

CONFIGS = [
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    GemmaConfig,
    Gemma2Config,
    Gemma3TextConfig,
    Phi3Config,
    GPTNeoXConfig,
    GPT2Config,
    ArceeConfig,
    Cohere2Config,
    CohereConfig,
    Ernie4_5Config,
    Exaone4Config,
    Glm4Config,
    GlmConfig,
    GraniteConfig,
    HeliumConfig,
    HunYuanDenseV1Config,
    Ministral3Config,
    MinistralConfig,
    NemotronConfig,
    Olmo2Config,
    Olmo3Config,
    PhiConfig,
    SeedOssConfig,
    SmolLM3Config,
    StableLmConfig,
    Starcoder2Config,
]


def make(config_class):
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 50,
        "pad_token_id": 0,
    }
    if config_class not in (Qwen2Config, GPTNeoXConfig, GPT2Config, StableLmConfig):
        sizes["head_dim"] = 8
    if config_class in (GPTNeoXConfig, GPT2Config):  # every head has its own keys and values
        del sizes["num_key_value_heads"]
    if config_class is GPT2Config:
        sizes["n_inner"] = sizes.pop("intermediate_size")
    return config_class(**sizes)


def test_every_row_of_the_table_is_tested():
    assert {config.model_type for config in CONFIGS} == set(ARCHITECTURES)


@pytest.mark.parametrize("config_class", CONFIGS)
def test_heads_are_free_of_the_width_where_the_real_model_lets_them(config_class):
    config = make(config_class)
    config.head_dim = 16
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    spec = ArchSpec.from_config(json.loads(config.to_json_string()))
    named = dict(split_fused(model, spec).named_parameters())
    q, o = (named[f"{spec.module(role, 0)}.weight"].shape for role in ("q", "o"))
    assert spec.architecture.free_heads == (q[0] == o[1] == 4 * 16)


@pytest.mark.parametrize("config_class", CONFIGS)
def test_the_description_names_every_parameter_of_the_real_model(config_class):
    config = make(config_class)
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
            module, _, kind = name.split(f".{layer}.", 1)[1].rpartition(".")
            biases = {m.suffix: m.out for m in row.matrices} if kind == "bias" else {}
            axes = ((row.vectors | biases)[module],)
        assert parameter.shape == tuple(spec.size(axis) for axis in axes)


@pytest.mark.parametrize("config_class", CONFIGS)
def test_what_a_saved_config_leaves_out_is_the_classs_default(config_class, tmp_path):
    make(config_class).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    full = json.loads(make(config_class).to_json_string(use_diff=False))
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
    config = json.loads(make(LlamaConfig).to_json_string()) | {field: value}
    with pytest.raises(BadInput, match=r"config\.json of this llama model"):
        ArchSpec.from_config(config)

"""The architectures that Nuggets knows: names of modules, and which axis every weight lives on.

One row each: shapes, parameter counts, cuts and the `consistent` selector all follow from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from nuggets.frozen import Frozen

Axis = Literal["resid", "q_heads", "kv_heads", "ffn", "vocab", "head_dim", "positions"]
"""Spaces a weight's rows or columns index: residual stream, stacked query or key/value heads,
FFN neurons, vocabulary, the inside of one head, learned positions."""
WHOLE_AXES: tuple[Axis, ...] = ("vocab", "head_dim", "positions")
"""Axes that no cut shortens."""
Layout = Literal["alone", "blocks", "heads"]
"""How a role lies in its stored module: alone, in a block of rows below the roles before it, or
with its rows interleaved with theirs head by head."""

ATTENTION = ("q", "k", "v", "o")
FFN = ("gate", "up", "down")
LAYER_ROLES = ATTENTION + FFN
ROLES = ("embed", *LAYER_ROLES, "head")
"""Matrix roles, in the order in which they are drawn."""


class Matrix(Frozen):
    """One weight matrix of a layer: its role, where it is stored, and its axes `[out, in]`.

    Attributes:
        role: what it does, one of `LAYER_ROLES`.
        stored: suffix of the module that holds it in transformers and on disk.
        out: what its rows index.
        into: what its columns index.
        layout: whether it shares that module with other roles, and how.
        transposed: whether it is stored `[in, out]`.
    """

    role: str
    stored: str
    out: Axis
    into: Axis
    layout: Layout = "alone"
    transposed: bool = False

    @property
    def suffix(self) -> str:
        """The module's suffix in a model as `nuggets.models.fused` lays it out: one per role."""
        return self.stored if self.layout == "alone" else f"{self.stored}.{self.role}"


class Architecture(Frozen):
    """Module names and axes shared by all models of one `model_type`.

    Attributes:
        model_type: the name in `config.json`.
        matrices: the layer's matrices, in the order in which fused ones are stored.
        vectors: norm suffix → axis, in every layer.
        layers: module list of the layers.
        embed: the token embedding.
        head: the output head.
        final_norm: the norm before the head.
        positions: the table of learned positions, if there is one.
        norm_bias: whether norms have a bias.
        head_bias: whether the output head has one.
        grouped: whether query heads may share key/value heads.
        free_heads: whether heads × head size may differ from the width.
        ffn_ratio: FFN width in widths, where the config leaves it out.
        keys: our name of a dimension → the config's, where it is not transformers' usual one.
        aliases: stored prefix → module prefix, where files use another name.
        tables: suffixes of what old files store and transformers computes.
        defaults: config values where the config leaves them out.
    """

    model_type: str
    matrices: tuple[Matrix, ...]
    vectors: Mapping[str, Axis]
    layers: str = "model.layers"
    embed: str = "model.embed_tokens"
    head: str = "lm_head"
    final_norm: str = "model.norm"
    positions: str | None = None
    norm_bias: bool = False
    head_bias: bool = False
    grouped: bool = True
    free_heads: bool = True
    ffn_ratio: int | None = None
    keys: Mapping[str, str] = Field(default_factory=dict)
    aliases: Mapping[str, str] = Field(default_factory=dict)
    tables: tuple[str, ...] = ("rotary_emb.inv_freq",)
    defaults: Mapping[str, Any] = Field(default_factory=dict)

    @property
    def roles(self) -> tuple[str, ...]:
        """The matrix roles of a layer that this architecture has, in drawing order."""
        own = {matrix.role for matrix in self.matrices}
        return tuple(role for role in LAYER_ROLES if role in own)

    def matrix(self, role: str) -> Matrix | None:
        """The matrix with a role; None where there is none (no gate without a gated FFN)."""
        return next((m for m in self.matrices if m.role == role), None)

    def sharing(self, stored: str) -> tuple[Matrix, ...]:
        """The matrices that lie in one stored module, in the order of their rows."""
        return tuple(m for m in self.matrices if m.stored == stored)


def _attention(q: str, k: str, v: str, o: str) -> tuple[Matrix, ...]:
    return (
        Matrix(role="q", stored=q, out="q_heads", into="resid"),
        Matrix(role="k", stored=k, out="kv_heads", into="resid"),
        Matrix(role="v", stored=v, out="kv_heads", into="resid"),
        Matrix(role="o", stored=o, out="resid", into="q_heads"),
    )


def _fused(stored: str, layout: Layout, rows: Mapping[str, Axis]) -> tuple[Matrix, ...]:
    return tuple(
        Matrix(role=role, stored=stored, out=axis, into="resid", layout=layout)
        for role, axis in rows.items()
    )


_QKV: dict[str, Axis] = {"q": "q_heads", "k": "kv_heads", "v": "kv_heads"}
_MATRICES = (
    *_attention(*(f"self_attn.{x}_proj" for x in "qkvo")),
    Matrix(role="gate", stored="mlp.gate_proj", out="ffn", into="resid"),
    Matrix(role="up", stored="mlp.up_proj", out="ffn", into="resid"),
    Matrix(role="down", stored="mlp.down_proj", out="resid", into="ffn"),
)
_PHI3 = (
    *_fused("self_attn.qkv_proj", "blocks", _QKV),
    Matrix(role="o", stored="self_attn.o_proj", out="resid", into="q_heads"),
    *_fused("mlp.gate_up_proj", "blocks", {"gate": "ffn", "up": "ffn"}),
    Matrix(role="down", stored="mlp.down_proj", out="resid", into="ffn"),
)
_NEOX = (
    *_fused("attention.query_key_value", "heads", _QKV),
    Matrix(role="o", stored="attention.dense", out="resid", into="q_heads"),
    Matrix(role="up", stored="mlp.dense_h_to_4h", out="ffn", into="resid"),
    Matrix(role="down", stored="mlp.dense_4h_to_h", out="resid", into="ffn"),
)
_UNGATED = tuple(matrix for matrix in _MATRICES if matrix.role != "gate")
_GLM = (
    *_MATRICES[:4],
    *_fused("mlp.gate_up_proj", "blocks", {"gate": "ffn", "up": "ffn"}),
    Matrix(role="down", stored="mlp.down_proj", out="resid", into="ffn"),
)
_STARCODER = (
    *_MATRICES[:4],
    Matrix(role="up", stored="mlp.c_fc", out="ffn", into="resid"),
    Matrix(role="down", stored="mlp.c_proj", out="resid", into="ffn"),
)
_PHI = (
    *_MATRICES[:3],
    Matrix(role="o", stored="self_attn.dense", out="resid", into="q_heads"),
    Matrix(role="up", stored="mlp.fc1", out="ffn", into="resid"),
    Matrix(role="down", stored="mlp.fc2", out="resid", into="ffn"),
)
_GPT2 = tuple(
    matrix.model_copy(update={"transposed": True})
    for matrix in (
        *_fused("attn.c_attn", "blocks", _QKV),
        Matrix(role="o", stored="attn.c_proj", out="resid", into="q_heads"),
        Matrix(role="up", stored="mlp.c_fc", out="ffn", into="resid"),
        Matrix(role="down", stored="mlp.c_proj", out="resid", into="ffn"),
    )
)
_NORMS: dict[str, Axis] = {"input_layernorm": "resid", "post_attention_layernorm": "resid"}
_HEAD_NORMS: dict[str, Axis] = {"self_attn.q_norm": "head_dim", "self_attn.k_norm": "head_dim"}
_FFN_NORMS: dict[str, Axis] = {
    "pre_feedforward_layernorm": "resid",
    "post_feedforward_layernorm": "resid",
}
_ONE_NORM: dict[str, Axis] = {"input_layernorm": "resid"}
"""Attention and FFN side by side."""
_AFTER: dict[str, Axis] = {
    "post_attention_layernorm": "resid",
    "post_feedforward_layernorm": "resid",
}
"""Norms behind attention and FFN, and none before them."""
_WHOLE_NORMS: dict[str, Axis] = {"self_attn.q_norm": "q_heads", "self_attn.k_norm": "kv_heads"}
_HUNYUAN_NORMS: dict[str, Axis] = {
    "self_attn.query_layernorm": "head_dim",
    "self_attn.key_layernorm": "head_dim",
}
_GLM4_NORMS: dict[str, Axis] = {
    "post_self_attn_layernorm": "resid",
    "post_mlp_layernorm": "resid",
}
_GEMMA3 = {"num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 262_208}
_GEMMA = {"tie_word_embeddings": True, "head_dim": 256}
_TIED = {"tie_word_embeddings": True}


def _llama_like(
    model_type: str,
    vectors: Mapping[str, Axis] = _NORMS,
    matrices: tuple[Matrix, ...] = _MATRICES,
    **fields: Any,
) -> Architecture:
    """A row of modules named as in Llama."""
    return Architecture(model_type=model_type, matrices=matrices, vectors=vectors, **fields)


def _usual(n_kv_heads: int, head_dim: int | None = None, **others: Any) -> dict[str, Any]:
    """What a config means where it leaves out key/value heads and the size of a head."""
    size = {} if head_dim is None else {"head_dim": head_dim}
    return {"num_key_value_heads": n_kv_heads, **size, **others}


ARCHITECTURES: dict[str, Architecture] = {
    row.model_type: row
    for row in (
        _llama_like("llama"),
        _llama_like("mistral"),
        _llama_like("ministral", defaults=_usual(8)),
        _llama_like("ministral3", defaults=_usual(8, 128)),
        _llama_like("qwen2"),
        _llama_like("qwen3", _NORMS | _HEAD_NORMS, defaults={"head_dim": 128}),
        _llama_like("gemma", defaults=_GEMMA),
        _llama_like("gemma2", _NORMS | _FFN_NORMS, defaults=_GEMMA),
        _llama_like("gemma3_text", _NORMS | _FFN_NORMS | _HEAD_NORMS, defaults=_GEMMA | _GEMMA3),
        _llama_like("smollm3", defaults=_usual(4, **_TIED)),
        _llama_like("granite"),
        _llama_like("olmo2", _AFTER | _WHOLE_NORMS),
        _llama_like("olmo3", _AFTER | _WHOLE_NORMS),
        _llama_like("exaone4", _AFTER | _HEAD_NORMS, defaults=_usual(32)),
        _llama_like("ernie4_5", defaults=_usual(2, 128, **_TIED)),
        _llama_like("seed_oss", defaults=_usual(8, 128)),
        _llama_like("hunyuan_v1_dense", _NORMS | _HUNYUAN_NORMS),
        _llama_like("helium", free_heads=False, defaults=_usual(20)),
        _llama_like("cohere", _ONE_NORM, defaults=_TIED),
        _llama_like("cohere2", _ONE_NORM, defaults=_TIED),
        _llama_like("glm", matrices=_GLM, defaults=_usual(2, 128)),
        _llama_like("glm4", _NORMS | _GLM4_NORMS, _GLM, defaults=_usual(2, 128)),
        _llama_like("arcee", matrices=_UNGATED),
        _llama_like("nemotron", matrices=_UNGATED, norm_bias=True),
        _llama_like("stablelm", norm_bias=True, free_heads=False, defaults=_usual(32)),
        _llama_like("starcoder2", matrices=_STARCODER, norm_bias=True, defaults=_usual(2, **_TIED)),
        _llama_like(
            "phi",
            _ONE_NORM,
            _PHI,
            final_norm="model.final_layernorm",
            norm_bias=True,
            head_bias=True,
        ),
        _llama_like("phi3", matrices=_PHI3),
        Architecture(
            model_type="gpt_neox",
            matrices=_NEOX,
            vectors=_NORMS,
            layers="gpt_neox.layers",
            embed="gpt_neox.embed_in",
            final_norm="gpt_neox.final_layer_norm",
            norm_bias=True,
            grouped=False,
            free_heads=False,
            aliases={"embed_out.": "lm_head."},
            tables=("rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias"),
        ),
        Architecture(
            model_type="gpt2",
            matrices=_GPT2,
            vectors={"ln_1": "resid", "ln_2": "resid"},
            layers="transformer.h",
            embed="transformer.wte",
            final_norm="transformer.ln_f",
            positions="transformer.wpe",
            norm_bias=True,
            grouped=False,
            free_heads=False,
            ffn_ratio=4,
            keys={
                "num_hidden_layers": "n_layer",
                "hidden_size": "n_embd",
                "num_attention_heads": "n_head",
                "intermediate_size": "n_inner",
                "max_position_embeddings": "n_positions",
            },
            # The published files leave out the prefix of the decoder.
            aliases={name: f"transformer.{name}" for name in ("h.", "wte.", "wpe.", "ln_f.")},
            tables=(".attn.bias", ".attn.masked_bias"),
            defaults={"tie_word_embeddings": True, "n_positions": 1024},
        ),
    )
}

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_STATE_SPACE = (
    "state_size", "ssm_cfg", "mamba_d_state", "mamba_d_ssm", "ssm_state_size", "conv_L_cache",
    "linear_num_value_heads", "lru_width", "attention_hidden_size",
)  # fmt: skip


def why_unsupported(config: Mapping[str, Any]) -> str:
    """What kind of model a config describes, and why nothing can be cut out of or into it.

    Args:
        config: a parsed `config.json` whose `model_type` is not in the table.
    """
    inner = config.get("text_config") or config.get("language_config") or config.get("llm_config")
    if isinstance(inner, Mapping):
        kind = inner.get("model_type", "unknown")
        return f"it wraps a text model of the type {kind!r}: {_why(inner)}"
    return _why(config)


def _why(config: Mapping[str, Any]) -> str:
    if config.get("kv_lora_rank"):
        return (
            "it compresses keys and values into a latent state (latent attention), so that it has "
            "no key/value heads to cut"
        )
    if any(config.get(name) for name in _STATE_SPACE) or config.get("model_type") == "rwkv":
        return (
            "it is a state-space model or a hybrid with one, whose layers have other matrices than "
            "attention and FFN"
        )
    if any(config.get(name) for name in _EXPERTS):
        return (
            "it is a mixture of experts, of which a sample reads only a few: most weights have no "
            "gradient, and a student's FFN has no single counterpart"
        )
    if config.get("is_encoder_decoder") or "decoder" in config:
        return "it has an encoder, and the method reads a decoder's answers"
    return "its modules and their axes are not described here"

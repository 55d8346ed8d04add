"""What a decoder is made of: one table row per architecture, no conditionals on names.

Every weight is described by the axes it lives on. Shapes, parameter counts, cuts and the
`consistent` selector all follow from these axes, so a new architecture is one row here.
Everything is read from `config.json`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from nuggets.errors import BadInput, Unsupported
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
_GEMMA = {"tie_word_embeddings": True, "head_dim": 256}

ARCHITECTURES: dict[str, Architecture] = {
    row.model_type: row
    for row in (
        Architecture(model_type="llama", matrices=_MATRICES, vectors=_NORMS),
        Architecture(model_type="mistral", matrices=_MATRICES, vectors=_NORMS),
        Architecture(model_type="qwen2", matrices=_MATRICES, vectors=_NORMS),
        Architecture(
            model_type="qwen3",
            matrices=_MATRICES,
            vectors=_NORMS | _HEAD_NORMS,
            defaults={"head_dim": 128},
        ),
        Architecture(model_type="gemma", matrices=_MATRICES, vectors=_NORMS, defaults=_GEMMA),
        Architecture(
            model_type="gemma2", matrices=_MATRICES, vectors=_NORMS | _FFN_NORMS, defaults=_GEMMA
        ),
        Architecture(
            model_type="gemma3_text",
            matrices=_MATRICES,
            vectors=_NORMS | _FFN_NORMS | _HEAD_NORMS,
            defaults=_GEMMA,
        ),
        Architecture(model_type="phi3", matrices=_PHI3, vectors=_NORMS),
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


class ArchSpec(Frozen):
    """The dimensions of one model, read from its `config.json`."""

    model_type: str
    n_layers: int = Field(ge=1, le=1000)
    hidden_size: int = Field(ge=1, le=1_000_000)
    intermediate_size: int = Field(ge=1, le=10_000_000)
    n_heads: int = Field(ge=1, le=100_000)
    n_kv_heads: int = Field(ge=1, le=100_000)
    head_dim: int = Field(ge=1, le=100_000)
    vocab_size: int = Field(ge=1, le=10_000_000)
    tied: bool
    n_positions: int | None = Field(default=None, ge=1, le=10_000_000)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ArchSpec:
        """Reads the dimensions from a parsed `config.json`.

        Raises:
            Unsupported: if the architecture is not in `ARCHITECTURES`.
            BadInput: if a dimension is missing or absurd.
        """
        kind = config.get("model_type")
        if not isinstance(kind, str) or kind not in ARCHITECTURES:
            raise Unsupported(
                f"Architecture {kind!r} is not supported. Supported: {', '.join(ARCHITECTURES)}."
            )
        row = ARCHITECTURES[kind]
        values = {**row.defaults, **config}

        def get(key: str) -> Any:
            return values.get(row.keys.get(key, key), values.get(key))

        try:
            heads, width = int(get("num_attention_heads")), int(get("hidden_size"))
            return cls(
                model_type=kind,
                n_layers=int(get("num_hidden_layers")),
                hidden_size=width,
                intermediate_size=int(get("intermediate_size") or (row.ffn_ratio or 0) * width),
                n_heads=heads,
                n_kv_heads=int((row.grouped and get("num_key_value_heads")) or heads),
                head_dim=int((row.free_heads and get("head_dim")) or width // heads),
                vocab_size=int(get("vocab_size")),
                tied=bool(values.get("tie_word_embeddings", False)),
                n_positions=int(get("max_position_embeddings")) if row.positions else None,
            )
        except (TypeError, ValueError, ZeroDivisionError) as problem:
            detail = "; ".join(str(problem).splitlines()[:3])
            raise BadInput(f"config.json of this {kind} model is incomplete: {detail}.") from None

    @property
    def architecture(self) -> Architecture:
        """The table row of this model's architecture."""
        return ARCHITECTURES[self.model_type]

    @property
    def group(self) -> int:
        """Query heads per key/value head."""
        return self.n_heads // self.n_kv_heads

    def size(self, axis: Axis) -> int:
        """The length of an axis."""
        return {
            "resid": self.hidden_size,
            "q_heads": self.n_heads * self.head_dim,
            "kv_heads": self.n_kv_heads * self.head_dim,
            "ffn": self.intermediate_size,
            "vocab": self.vocab_size,
            "head_dim": self.head_dim,
            "positions": self.n_positions or 0,
        }[axis]

    def has(self, role: str) -> bool:
        """Whether models of this architecture have a matrix with this role."""
        return role in ("embed", "head") or self.architecture.matrix(role) is not None

    def axes(self, role: str) -> tuple[Axis, Axis]:
        """The `(out, in)` axes of a role's weight."""
        if role in ("embed", "head"):
            return ("vocab", "resid")
        matrix = self._matrix(role)
        return (matrix.out, matrix.into)

    def _matrix(self, role: str) -> Matrix:
        matrix = self.architecture.matrix(role)
        assert matrix is not None, f"{self.model_type} has no {role}; ask has() first"
        return matrix

    def shape(self, role: str) -> tuple[int, int]:
        """The `[out, in]` shape of a role's weight (embedding: `[vocab, hidden]`)."""
        out, into = self.axes(role)
        return (self.size(out), self.size(into))

    def module(self, role: str, layer: int | None = None) -> str:
        """The module name of a role, such as `model.layers.3.mlp.up_proj`.

        Fused roles get one each, `….qkv_proj.q`: see `nuggets.models.fused`.
        """
        if role == "embed":
            return self.architecture.embed
        if role == "head":
            return self.architecture.head
        return f"{self.architecture.layers}.{layer}.{self._matrix(role).suffix}"

    def modules(self) -> Iterator[tuple[str, str, int | None]]:
        """Every matrix as `(module, role, layer)`: embedding, layers in order, head.

        A tied head has no weight of its own and is left out.
        """
        yield self.module("embed"), "embed", None
        for layer in range(self.n_layers):
            for role in self.architecture.roles:
                yield self.module(role, layer), role, layer
        if not self.tied:
            yield self.module("head"), "head", None

    def layer_of(self, parameter: str) -> int | None:
        """The layer that a parameter name belongs to, or None outside the layers."""
        prefix = self.architecture.layers + "."
        if not parameter.startswith(prefix):
            return None
        return int(parameter[len(prefix) :].split(".", 1)[0])

    @property
    def n_matrix_parameters(self) -> int:
        """Entries of all matrices (norms and biases are not counted)."""
        shapes = (self.shape(role) for _, role, _ in self.modules())
        return sum(rows * cols for rows, cols in shapes)

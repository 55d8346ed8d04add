"""What a decoder is made of: one table row per architecture, no conditionals on names.

Every weight is described by the axes it lives on. Shapes, parameter counts, cuts and the
`consistent` selector all follow from these axes, so a new architecture is one row here.
Torch-free: everything is read from `config.json`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from nuggets.errors import BadInput, Unsupported

Axis = Literal["resid", "q_heads", "kv_heads", "ffn", "vocab", "head_dim"]
"""Spaces a weight's rows or columns index: residual stream, stacked query or key/value heads,
FFN neurons, vocabulary, the inside of one head."""

ATTENTION = ("q", "k", "v", "o")
FFN = ("gate", "up", "down")
LAYER_ROLES = ATTENTION + FFN
ROLES = ("embed", *LAYER_ROLES, "head")
"""Matrix roles, in the order in which they are drawn."""


class Frozen(BaseModel):
    """Base of the values that are written to disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Matrix(Frozen):
    """One weight matrix of a layer: its role, module suffix, and axes `[out, in]`."""

    role: str
    suffix: str
    out: Axis
    into: Axis


class Architecture(Frozen):
    """Module names and axes shared by all models of one `model_type`."""

    model_type: str
    layers: str = "model.layers"
    embed: str = "model.embed_tokens"
    head: str = "lm_head"
    final_norm: str = "model.norm"
    matrices: tuple[Matrix, ...]
    vectors: Mapping[str, Axis]
    defaults: Mapping[str, Any] = Field(default_factory=dict)


_MATRICES = (
    Matrix(role="q", suffix="self_attn.q_proj", out="q_heads", into="resid"),
    Matrix(role="k", suffix="self_attn.k_proj", out="kv_heads", into="resid"),
    Matrix(role="v", suffix="self_attn.v_proj", out="kv_heads", into="resid"),
    Matrix(role="o", suffix="self_attn.o_proj", out="resid", into="q_heads"),
    Matrix(role="gate", suffix="mlp.gate_proj", out="ffn", into="resid"),
    Matrix(role="up", suffix="mlp.up_proj", out="ffn", into="resid"),
    Matrix(role="down", suffix="mlp.down_proj", out="resid", into="ffn"),
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

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ArchSpec:
        """Reads the dimensions from a parsed `config.json`.

        Raises:
            Unsupported: if the architecture is not in `ARCHITECTURES`.
            BadInput: if a dimension is missing or absurd.
        """
        kind = config.get("model_type")
        if kind not in ARCHITECTURES:
            raise Unsupported(
                f"Architecture {kind!r} is not supported. Supported: {', '.join(ARCHITECTURES)}."
            )
        get = {**ARCHITECTURES[kind].defaults, **config}.get
        try:
            heads, width = int(get("num_attention_heads")), int(get("hidden_size"))  # type: ignore[arg-type]
            return cls(
                model_type=kind,
                n_layers=int(get("num_hidden_layers")),  # type: ignore[arg-type]
                hidden_size=width,
                intermediate_size=int(get("intermediate_size")),  # type: ignore[arg-type]
                n_heads=heads,
                n_kv_heads=int(get("num_key_value_heads") or heads),
                head_dim=int(get("head_dim") or width // heads),
                vocab_size=int(get("vocab_size")),  # type: ignore[arg-type]
                tied=bool(get("tie_word_embeddings", False)),
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
        }[axis]

    def axes(self, role: str) -> tuple[Axis, Axis]:
        """The `(out, in)` axes of a role's weight as stored."""
        if role in ("embed", "head"):
            return ("vocab", "resid")
        matrix = next(m for m in self.architecture.matrices if m.role == role)
        return (matrix.out, matrix.into)

    def shape(self, role: str) -> tuple[int, int]:
        """The `[out, in]` shape of a role's weight as stored (embedding: `[vocab, hidden]`)."""
        out, into = self.axes(role)
        return (self.size(out), self.size(into))

    def module(self, role: str, layer: int | None = None) -> str:
        """The module name of a role, such as `model.layers.3.mlp.up_proj`."""
        if role == "embed":
            return self.architecture.embed
        if role == "head":
            return self.architecture.head
        matrix = next(m for m in self.architecture.matrices if m.role == role)
        return f"{self.architecture.layers}.{layer}.{matrix.suffix}"

    def modules(self) -> Iterator[tuple[str, str, int | None]]:
        """Every matrix as `(module, role, layer)`: embedding, layers in order, head.

        A tied head has no weight of its own and is left out.
        """
        yield self.module("embed"), "embed", None
        for layer in range(self.n_layers):
            for matrix in self.architecture.matrices:
                yield self.module(matrix.role, layer), matrix.role, layer
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

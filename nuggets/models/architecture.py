"""The dimensions of a model, and its weights by role, read from `config.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from nuggets.errors import BadInput, Unsupported
from nuggets.frozen import Frozen
from nuggets.models.kinds.architectures import (
    ARCHITECTURES,
    ATTENTION,
    FFN,
    LAYER_ROLES,
    ROLES,
    WHOLE_AXES,
    Architecture,
    Axis,
    Matrix,
    why_unsupported,
)
from nuggets.models.kinds.wrappers import text_config

__all__ = [
    "ARCHITECTURES",
    "ATTENTION",
    "FFN",
    "LAYER_ROLES",
    "ROLES",
    "WHOLE_AXES",
    "ArchSpec",
    "Architecture",
    "Axis",
    "Matrix",
]


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
    wrapped: bool = False
    """Whether it is the text decoder inside a model of several kinds of input."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ArchSpec:
        """Reads the dimensions from a parsed `config.json`.

        Raises:
            Unsupported: if the architecture is not in `ARCHITECTURES`.
            BadInput: if a dimension is missing or absurd.
        """
        if (text := text_config(config)) is not None and text.get("model_type") in ARCHITECTURES:
            return cls.from_config(text).model_copy(update={"wrapped": True})
        kind = config.get("model_type")
        if not isinstance(kind, str) or kind not in ARCHITECTURES:
            raise Unsupported(
                f"Architecture {kind!r} is not supported: {why_unsupported(config)}. Supported: "
                f"{', '.join(ARCHITECTURES)}."
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

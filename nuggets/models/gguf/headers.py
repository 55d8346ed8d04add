"""The header of a GGUF file, read by hand: dimensions, vocabulary and tensor shapes.

No weight is read and the `gguf` package is not needed, so a hostile or truncated file ends in a
sentence. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from nuggets.disk.untrusted import check_not_lfs, damaged, open_file, stamp
from nuggets.errors import Unsupported

MAX_HEADER_BYTES = 60_000_000
MAX_ENTRIES = 5_000_000
"""Of all arrays together; the largest vocabularies have 260,000 words, with scores and types."""
MAX_TENSORS = 20_000
MAX_FIELDS = 10_000
MAX_ROPE = 4096
ROPE = "rope_freqs.weight"
_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}

# Type number → (name, values per block, bytes per block).
_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
}

_MODEL_TYPES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
}
_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_INSIDE = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# llama.cpp calls the norm before the FFN `ffn_norm`; which module that is depends on whether the
# architecture has norms on both sides of each block, as Gemma 2 and 3 do.
_ONE_SIDED = {"ffn_norm": "post_attention_layernorm"}
_TWO_SIDED = {
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says about itself.

    Attributes:
        fields: metadata; arrays as lists.
        tensors: llama.cpp's name → `(type, shape)`, shapes in PyTorch's order.
        rope_factors: by what the rotations of Llama 3 are slowed, one per pair of dimensions.
    """

    fields: Mapping[str, Any]
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    rope_factors: tuple[float, ...] = ()

    @property
    def kind(self) -> str:
        """The architecture in llama.cpp's names, which is the prefix of its fields."""
        return str(self.fields.get("general.architecture"))

    @property
    def model_type(self) -> str:
        """The architecture in transformers' names.

        Raises:
            Unsupported: if it is none of those that Nuggets knows.
        """
        if self.kind not in _MODEL_TYPES:
            raise Unsupported(
                f"GGUF architecture {self.kind!r} is not supported. "
                f"Supported: {', '.join(_MODEL_TYPES)}."
            )
        return _MODEL_TYPES[self.kind]

    def config(self) -> dict[str, Any]:
        """The dimensions under the keys of a `config.json`."""
        model_type = self.model_type

        def field(name: str) -> Any:
            return self.fields.get(f"{self.kind}.{name}")

        tokens = self.fields.get("tokenizer.ggml.tokens", ())
        return {
            "model_type": model_type,
            "num_hidden_layers": field("block_count"),
            "hidden_size": field("embedding_length"),
            "intermediate_size": field("feed_forward_length"),
            "num_attention_heads": field("attention.head_count"),
            "num_key_value_heads": field("attention.head_count_kv"),
            "head_dim": field("attention.key_length"),
            "max_position_embeddings": field("context_length"),
            "vocab_size": self._vocabulary_size() or field("vocab_size") or len(tokens),
            "tie_word_embeddings": "output.weight" not in self.tensors,
        }

    def _vocabulary_size(self) -> int | None:
        """Rows of the embedding: it may be padded beyond the words of the tokenizer."""
        shape = self.tensors.get("token_embd.weight", ("", ()))[1]
        return shape[0] if len(shape) == 2 else None

    def shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Transformers' parameter name → `(type, shape)`; rotary tables are left out."""
        two_sided = self.model_type in ("gemma2", "gemma3_text")
        inside = _INSIDE | (_TWO_SIDED if two_sided else _ONE_SIDED)
        named = {}
        for name, tensor in self.tensors.items():
            if name == ROPE:  # `nuggets.models.gguf.function` makes it again from the config
                continue
            module, _, leaf = name.rpartition(".")
            block = module.split(".")
            if len(block) == 3 and block[0] == "blk" and block[2] in inside:
                module = f"model.layers.{block[1]}.{inside[block[2]]}"
            named[f"{_OUTSIDE.get(module, module)}.{leaf}"] = tensor
        return named


def read_gguf(path: Path) -> GgufHeader:
    """Reads the header of a GGUF file.

    Raises:
        Damaged: if the file is truncated, empty, a Git LFS pointer, absurd or no GGUF file.
        Unsupported: for version 1, big-endian files and unknown weight types.
    """
    check_not_lfs(path)
    return _read(path, stamp(path))


@lru_cache(maxsize=4)
def _read(path: Path, _stamp: str) -> GgufHeader:
    # Remembered: walking over a vocabulary takes half a second, and a preflight asks four times.
    with open_file(path) as file:
        try:
            return _Reader(path, file).header()
        except (struct.error, UnicodeDecodeError, OverflowError):
            raise damaged(path, "the GGUF header is cut short or garbled") from None


class _Reader:
    """Walks through a header; a short read raises `struct.error`."""

    def __init__(self, path: Path, file: IO[bytes]):
        self._path = path
        self._file = file
        self._size = path.stat().st_size
        self._entries = 0

    def header(self) -> GgufHeader:
        magic, version = self._bytes(4), self._one("I")
        if magic != b"GGUF":
            raise damaged(self._path, "not a GGUF file")
        if version not in (2, 3):
            raise Unsupported(
                f"{self._path.name} is GGUF version {version}; versions 2 and 3 can be read. "
                "Convert it again with a current llama.cpp."
            )
        n_tensors, n_fields = self._one("Q"), self._one("Q")
        if n_tensors > MAX_TENSORS or n_fields > MAX_FIELDS:
            raise damaged(
                self._path, f"it claims {n_tensors:,} tensors and {n_fields:,} metadata fields"
            )
        fields = {}
        for _ in range(n_fields):
            name = self._string()
            fields[name] = self._value(self._one("I"), name)
        if (parts := fields.get("split.count", 1)) != 1:
            raise Unsupported(
                f"{self._path.name} is one of {parts} files of a model. Join them first: "
                f"llama-gguf-split --merge {self._path.name} whole.gguf"
            )
        return GgufHeader(fields, *self._tensors(n_tensors, fields.get("general.alignment", 32)))

    def _tensors(
        self, count: int, alignment: Any
    ) -> tuple[dict[str, tuple[str, tuple[int, ...]]], tuple[float, ...]]:
        """The tensors, and the numbers of the one that holds rotations."""
        tensors, end, rope = {}, 0, 0
        for _ in range(count):
            name, n_dims = self._string(), self._one("I")
            if n_dims > 4 or name in tensors:
                raise damaged(self._path, f"tensor {name!r} is garbled or named twice")
            shape = tuple(reversed([self._one("Q") for _ in range(n_dims)]))
            kind, offset = self._one("I"), self._one("Q")
            if kind not in _TYPES:
                raise Unsupported(f"{self._path.name}: tensor {name!r} has unknown type {kind}.")
            label, block, width = _TYPES[kind]
            end = max(end, offset + math.prod(shape) * width // block)
            tensors[name] = (label, shape)
            rope = offset if name == ROPE else rope
        if not isinstance(alignment, int) or alignment < 1:
            raise damaged(self._path, f"alignment {alignment!r}")
        start = -(-self._file.tell() // alignment) * alignment
        if start + end > self._size:
            raise damaged(
                self._path, f"it needs {start + end:,} bytes and has {self._size:,}; cut short?"
            )
        if ROPE not in tensors:
            return tensors, ()
        label, shape = tensors[ROPE]
        if label != "F32" or len(shape) != 1 or shape[0] > MAX_ROPE:
            raise damaged(self._path, f"{ROPE} is {label} {list(shape)}")
        self._file.seek(start + rope)
        code = f"<{shape[0]}f"
        return tensors, struct.unpack(code, self._file.read(struct.calcsize(code)))

    def _value(self, kind: int, name: str) -> Any:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._one(self._scalar(kind, name))
        inner, count = self._one("I"), self._one("Q")
        self._entries += count
        if self._entries > MAX_ENTRIES:
            raise damaged(self._path, f"field {name!r} claims {count:,} entries")
        if inner == _STRING:
            return [self._string() for _ in range(count)]
        code = f"<{count}{self._scalar(inner, name)}"
        return list(struct.unpack(code, self._bytes(struct.calcsize(code))))

    def _scalar(self, kind: int, name: str) -> str:
        if kind not in _SCALARS:
            raise damaged(self._path, f"field {name!r} has unknown type {kind}")
        return _SCALARS[kind]

    def _one(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self._bytes(struct.calcsize(f"<{code}")))[0]

    def _string(self) -> str:
        return self._bytes(self._one("Q")).decode()

    def _bytes(self, count: int) -> bytes:
        if count > self._size or self._file.tell() + count > MAX_HEADER_BYTES:
            raise damaged(self._path, "a length in the GGUF header is absurd")
        data = self._file.read(count)
        if len(data) < count:
            raise struct.error
        return data

"""Llamas with random weights, of the sizes that the benchmarks need."""

from __future__ import annotations

import json
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nuggets.data.samples import Encoded
from nuggets.models.architecture import ArchSpec

LARGE = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 14}
"""245 million parameters."""
MEDIUM = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 8}
SMALL = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 4}
VOCABULARY = 32000


def llama_config(sizes: dict[str, int], **more: Any) -> LlamaConfig:
    """The configuration of a Llama with heads of 64."""
    heads = max(1, sizes["hidden_size"] // 64)
    fields = {"vocab_size": VOCABULARY, "num_attention_heads": heads, **sizes, **more}
    return LlamaConfig(**fields)


def random_llama(
    sizes: dict[str, int], dtype: torch.dtype = torch.float32, device: str = "cpu", **more: Any
) -> tuple[Any, ArchSpec]:
    """A model with random weights, made on its device, and its dimensions."""
    config = llama_config(sizes, **more)
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM._from_config(config, dtype=dtype)
    return model.eval(), spec_of(config)


def spec_of(config: Any) -> ArchSpec:
    """The dimensions in a configuration."""
    return ArchSpec.from_config(json.loads(config.to_json_string()))


def samples(n: int, tokens: int, vocabulary: int = VOCABULARY) -> list[Encoded]:
    """Random samples; the loss is on the last three quarters of their tokens."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, vocabulary, (n, tokens), generator=generator).tolist()
    return [(row, [-100] * (tokens // 4) + row[tokens // 4 :]) for row in rows]


def flops(spec: ArchSpec, n: int, tokens: int) -> float:
    """Multiplications and additions of forward and backward passes: 6 per weight and token.

    The embedding is looked up; attention adds 12 × layers × width × tokens per token.
    """
    weights = spec.n_matrix_parameters - spec.vocab_size * spec.hidden_size * (not spec.tied)
    attention = 12 * spec.n_layers * spec.size("q_heads") * tokens / 2  # causal: half of it
    return n * tokens * (6.0 * weights + attention)

"""Which architectures a test tries: `make test` one of each build, `make slow` all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from nuggets.models.architecture import ARCHITECTURES

BUILDS = {
    "llama": "as the built-in models",
    "qwen3": "norms of queries and keys",
    "gemma2": "four norms, capped logits, an embedding that multiplies",
    "olmo2": "norms behind, none before",
    "cohere": "attention and feed-forward side by side",
    "phi": "biases everywhere, in the head too",
    "granite": "multipliers",
    "phi3": "queries, keys and values in one matrix, gate and up in another",
    "gpt_neox": "the same interleaved head by head",
    "gpt2": "transposed matrices, positions that are learned",
}


assert ARCHITECTURES.keys() >= BUILDS.keys()


def spared(kind: str) -> Sequence[pytest.MarkDecorator]:
    """What marks a test of an architecture that is built like another."""
    return () if kind in BUILDS else (pytest.mark.slow,)


EACH: list[Any] = [pytest.param(kind, marks=spared(kind)) for kind in ARCHITECTURES]
"""Every architecture, as a parameter."""

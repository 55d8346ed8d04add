"""What a GGUF file computes beside its weights, which transformers would leave at its defaults.

Llama 3.1 and 3.2 keep their scaled rotations in a tensor, others name a scaling in the header;
a model loaded without them has the right weights and computes another function. What cannot be
reconstructed is refused. Source: `convert_hf_to_gguf.py` and `llama-hparams` of llama.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from nuggets.errors import Unsupported
from nuggets.models.gguf.headers import GgufHeader

_KNOWN = (
    "block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size",
    "tensor_data_layout", "attention.head_count", "attention.head_count_kv",
    "attention.key_length", "attention.value_length", "attention.layer_norm_rms_epsilon",
    "rope.freq_base", "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor",
    "rope.scaling.original_context_length", "rope.scaling.finetuned",
    "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
)  # fmt: skip
_COMPARED = {
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
"""Fields that transformers reads or has a default for, and its config's name."""
_BASE = 10_000.0
_LOW, _HIGH = 1.0, 4.0
"""Llama 3's wavelengths below and above which a rotation is scaled; only their ratio to the
original context counts, which is what is looked for."""


def rope_scaling(header: GgufHeader) -> dict[str, Any] | None:
    """The scaling of the rotations as transformers names it; None where there is none.

    Raises:
        Unsupported: if it is of a kind that cannot be reconstructed.
    """

    def field(name: str, default: Any = None) -> Any:
        return header.fields.get(f"{header.kind}.{name}", default)

    scaling, factor = field("rope.scaling.type", "none"), field("rope.scaling.factor", 1.0)
    if header.rope_factors and scaling == "none":
        found = _llama3(header.rope_factors, float(field("rope.freq_base", _BASE)))
        if found is not None:
            return found
    elif header.rope_factors or scaling not in ("none", "linear", "yarn"):
        pass
    elif scaling == "none" or factor == 1.0:
        return None
    elif scaling == "linear":
        return {"rope_type": "linear", "factor": factor}
    elif original := field("rope.scaling.original_context_length"):
        betas = {name: field(f"rope.scaling.yarn_{name}") for name in ("beta_fast", "beta_slow")}
        given = {name: value for name, value in betas.items() if value is not None}
        known = {"factor": factor, "original_max_position_embeddings": original}
        return {"rope_type": "yarn", **known, **given}
    raise Unsupported(
        f"The GGUF file scales its rotations ({scaling!r} with factor {factor:g}) in a way that "
        "cannot be reconstructed. Use the original weights."
    )


def _llama3(factors: Sequence[float], base: float) -> dict[str, Any] | None:
    """Llama 3's scaling that gives these factors; None if no context of a power of two does."""
    largest = max(factors)
    for original in (2**power for power in range(4, 21)):
        made = [_llama3_factor(i, len(factors), base, largest, original)
                for i in range(len(factors))]  # fmt: skip
        if all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(made, factors, strict=True)):
            return {
                "rope_type": "llama3",
                "factor": largest,
                "low_freq_factor": _LOW,
                "high_freq_factor": _HIGH,
                "original_max_position_embeddings": original,
            }
    return None


def _llama3_factor(i: int, n: int, base: float, factor: float, original: int) -> float:
    turns = original * base ** (-i / n) / (2 * math.pi)  # of dimension i within the context
    smooth = min(max((turns - _LOW) / (_HIGH - _LOW), 0.0), 1.0)
    return 1 / ((1 - smooth) / factor + smooth)


def check_fields(header: GgufHeader) -> None:
    """Refuses a header that says something of the function which nobody here reads.

    Raises:
        Unsupported: naming the field.
    """
    rope_scaling(header)
    prefix = f"{header.kind}."
    for name, value in header.fields.items():
        suffix = name.removeprefix(prefix)
        if not name.startswith(prefix) or suffix in _KNOWN or suffix in _COMPARED or not value:
            continue
        raise Unsupported(
            f"The GGUF file sets {name} = {value!r:.40}, which would be left out, so that the "
            "model would compute something else. Use the original weights."
        )


def restore_function(model: Any, header: GgufHeader) -> None:
    """Gives a loaded model the rotations of its file, and checks the other fields.

    Raises:
        Unsupported: if a field of the file is not what the model computes with.
    """
    config = model.config
    for suffix, name in _COMPARED.items():
        wanted = header.fields.get(f"{header.kind}.{suffix}")
        if wanted is not None and wanted != getattr(config, name, None):
            raise Unsupported(
                f"The GGUF file sets {suffix} to {wanted}, but transformers computes with "
                f"{getattr(config, name, None)}. Use the original weights."
            )
    if (scaling := rope_scaling(header)) is None:
        return
    parameters = config.rope_parameters
    by_kind = "full_attention" in parameters  # Gemma 3 scales those of its global layers alone
    scaled = parameters["full_attention"] if by_kind else parameters
    scaled |= scaling
    decoder = model.model
    decoder.rotary_emb = type(decoder.rotary_emb)(config)

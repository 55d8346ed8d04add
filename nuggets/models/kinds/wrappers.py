"""Text decoders inside models of several kinds of input: read, measured and cut as text models.

On text alone the wrapper computes what its decoder does: no image token is there, and rotations in
three directions (M-RoPE) turn all three by the same position. Only the decoder is loaded. Adapters
are written under the wrapper's names, so that they load on the wrapper as transformers builds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_INSIDE = {
    "gemma3": "gemma3_text",
    "mistral3": None,
    "qwen2_vl": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen3_vl": "qwen3",
}
"""Wrapper → the type of the text model that computes the same; None if its own says so."""
_OUTSIDE = ("vision_tower.", "multi_modal_projector.", "visual.")
_STORED = (
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
)
"""Prefixes that files have had → the text model's."""
WRAPPER_KEYS = {f"^{theirs}": ours for theirs, ours in _STORED}
"""The same as `from_pretrained` takes them (`key_mapping`)."""


def text_config(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The config of the text model inside a wrapper; None for any other model."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in _INSIDE:
        return None
    inner = config.get("text_config")
    if not isinstance(inner, Mapping):  # Qwen 2 wrote both in one
        inner = {name: value for name, value in config.items() if not name.startswith("vision")}
    text = {"tie_word_embeddings": config[_TIED]} if _TIED in config else {}
    text |= {name: value for name, value in inner.items() if name not in _DROPPED}
    text["model_type"] = _INSIDE[kind] or text.get("model_type")
    for name in ("rope_parameters", "rope_scaling"):
        if isinstance(rope := text.get(name), Mapping) and "mrope_section" in rope:
            text[name] = _one_direction(rope)
    return text


_TIED = "tie_word_embeddings"
_DROPPED = ("architectures", "auto_map")


def _one_direction(rope: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: x for name, x in rope.items() if not name.startswith("mrope")}
    kinds = {name: "default" for name in ("type", "rope_type") if kept.get(name) == "mrope"}
    return kept | kinds


def inner_name(name: str) -> str:
    """A stored tensor's name in the text model."""
    for theirs, ours in _STORED:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def outer_name(name: str) -> str:
    """A module's name in the wrapper as transformers builds it."""
    return f"model.language_model.{name.removeprefix('model.')}" if name[:6] == "model." else name


def is_beside_text(name: str) -> bool:
    """Whether a stored tensor belongs to what looks at images."""
    return name.removeprefix("model.").startswith(_OUTSIDE)


def names_a_wrapper(names: Iterable[str]) -> bool:
    """Whether any of an adapter's keys is under a wrapper's names."""
    return any(".model.language_model." in f".{name}" for name in names)

"""What the configs alone say about a model and a pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from nuggets.disk.untrusted import read_json
from nuggets.errors import BadInput, Unsupported
from nuggets.models.architecture import ArchSpec
from nuggets.models.gguf.function import check_fields
from nuggets.models.gguf.headers import read_gguf
from nuggets.models.references import CONFIG, TOKENIZER_CONFIG, ModelRef, model_file
from nuggets.models.safetensors_headers import TensorHeader, check_keys
from nuggets.models.vocabulary import (
    TOKENIZERS,
    check_ids,
    tokenizer_settings,
    vocabulary,
    vocabulary_digest,
)

# Keys of config.json that make transformers fetch other weights or other code.
_STEERING = ("transformers_weights", "configuration_files", "fusion_config", "kernel_config")
_EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon")
_IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")


@dataclass(frozen=True)
class Model:
    """A model that was found; what is read of it is read when first asked for, and once.

    Attributes:
        ref: where it is.
    """

    ref: ModelRef

    @cached_property
    def spec(self) -> ArchSpec:
        """Its dimensions, as `read_spec` gives them."""
        return read_spec(self.ref)

    @cached_property
    def headers(self) -> dict[str, TensorHeader]:
        """Its tensors, exactly those that the config describes; see `check_keys`."""
        return check_keys(self.ref, self.spec)

    @cached_property
    def has_tokenizer(self) -> bool:
        """Whether there is anything that a tokenizer could be loaded from."""
        if self.ref.format == "gguf":
            return vocabulary(self.ref) is not None
        return any(model_file(self.ref, name) is not None for name in TOKENIZERS)

    @cached_property
    def vocabulary(self) -> str | None:
        """Hash of every token and its id; None if it cannot be read without loading.

        Raises:
            BadInput: for damaged files, and for ids that the embedding has no row for.
        """
        if (settings := model_file(self.ref, TOKENIZER_CONFIG)) is not None:
            tokenizer_settings(settings)
        found = vocabulary(self.ref)
        if found is None:
            return None
        words = {word: i for word, i in found.words.items() if word not in found.added}
        check_ids(self.ref, words, self.spec.vocab_size)
        return vocabulary_digest(found)


@dataclass(frozen=True)
class ModelPair:
    """A teacher and a student, known from configs, headers and tokenizer files only."""

    teacher: Model
    student: Model

    @property
    def vocabularies(self) -> Literal["agree", "differ", "unknown"]:
        """Whether the two tokenizers give each word the same id.

        Unknown if one of them cannot be read without loading it, or is missing.

        Raises:
            BadInput: if a tokenizer is damaged.
        """
        digests = self.teacher.vocabulary, self.student.vocabulary
        if None in digests:
            return "unknown"
        return "agree" if digests[0] == digests[1] else "differ"


def read_config(ref: ModelRef) -> dict[str, Any]:
    """The model's config: `config.json`, or the same keys from a GGUF header.

    Raises:
        BadInput: if there is none, it is damaged or too large.
        Unsupported: if the weights are quantised, or it would make the loader fetch other files.
    """
    if ref.format == "gguf":
        assert ref.path is not None, "GGUF files are local"
        header = read_gguf(ref.path)
        config = header.config()
        check_fields(header)
        return config
    file = model_file(ref, CONFIG)
    if file is None:
        raise BadInput(f"{ref.source} has no {CONFIG}.")
    config = read_json(file)
    if quantised := config.get("quantization_config"):
        method = quantised.get("quant_method") if isinstance(quantised, Mapping) else quantised
        raise Unsupported(
            f"The weights of {ref.source} are quantised ({method}); sensitivities need real "
            "numbers. Use the original weights."
        )
    _check_steering(ref, config)
    _check_switches(ref, config)
    return config


def _check_steering(ref: ModelRef, config: Mapping[str, Any]) -> None:
    steering = [key for key in _STEERING if config.get(key)]
    for key, value in config.items():
        # A kernel can be named as a hub repository; loading such a model would run its code.
        named = value if isinstance(value, str) else "/" if value else ""
        if any(name in key for name in _IMPLEMENTATIONS) and "/" in named:
            steering.append(key)
    if steering:
        raise Unsupported(
            f"The {CONFIG} of {ref.source} sets {steering[0]}, which makes the loader use other "
            "files or code. Remove it."
        )


def _check_switches(ref: ModelRef, config: Mapping[str, Any]) -> None:
    """Refuses what builds a model that cannot be run, or gives no finite number."""
    faults = [key for key in _EPSILONS if key in config and not _is_positive(config[key])]
    faults += [key for key in ("return_dict",) if not config.get(key, True)]
    if faults:
        raise BadInput(
            f"The {CONFIG} of {ref.source} sets {faults[0]} to {config[faults[0]]!r}, with which "
            "no model can be run. Remove it."
        )


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and value > 0


def read_spec(ref: ModelRef) -> ArchSpec:
    """The dimensions of a model, from its config alone.

    Raises:
        BadInput: if the config is missing, damaged, incomplete or absurd.
        Unsupported: if the architecture is not known.
    """
    try:
        spec = ArchSpec.from_config(read_config(ref))
    except Unsupported:
        raise
    except BadInput as problem:
        raise type(problem)(f"{ref.source}: {problem}") from None
    if spec.n_heads % spec.n_kv_heads:
        raise BadInput(
            f"{ref.source}: {spec.n_heads} query heads cannot share {spec.n_kv_heads} key/value "
            "heads evenly; its config is damaged."
        )
    return spec


def check_vocabularies(pair: ModelPair, what: str) -> None:
    """Refuses a pair whose tokenizers give words different ids; an unknown one is let through.

    Args:
        pair: the two models.
        what: who needs the same ids, for the sentence.

    Raises:
        BadInput: with both vocabulary sizes and what to do.
    """
    if pair.vocabularies == "differ":
        raise BadInput(
            f"The tokenizers of {pair.teacher.ref.source} and {pair.student.ref.source} map tokens "
            f"to different ids (vocabularies of {pair.teacher.spec.vocab_size} and "
            f"{pair.student.spec.vocab_size}), but {what} compares the two models token by token. "
            f"Choose two models with the same tokenizer, or do without {what}."
        )

"""Loading models and tokenizers so that nothing is silently random, packed, foreign or infinite."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tokenizers
import torch
import transformers  # its parts are imported when they are first used
from tokenizers import Tokenizer
from transformers.utils import logging as transformers_logging

from nuggets.data.samples import EMBEDDING_ROWS
from nuggets.disk.commit import commit_folder
from nuggets.disk.home import cache_dir
from nuggets.disk.untrusted import read_json
from nuggets.errors import BadInput, Damaged, NuggetsError, Unsupported
from nuggets.models.architecture import ArchSpec
from nuggets.models.fused import split_fused
from nuggets.models.gguf.function import restore_function
from nuggets.models.gguf.headers import read_gguf
from nuggets.models.gguf.reading import read_once
from nuggets.models.kinds.wrappers import WRAPPER_KEYS, text_config
from nuggets.models.layout import is_table
from nuggets.models.pair import read_spec
from nuggets.models.references import (
    CONFIG,
    TOKENIZER_CONFIG,
    ModelRef,
    model_files,
    model_path,
    parse_ref,
)
from nuggets.models.safetensors_headers import check_keys, some
from nuggets.models.stored_weights import StoredWeights
from nuggets.models.tried import try_tokenizer
from nuggets.models.vocabulary import check_ids, tokenizer_settings

_PRIVATE = re.compile(r"[^\s'\"]*nuggets-model-[^/\s'\"]*")
"""The folder that a loader is given and names in its messages; nobody else knows it."""
DTYPES = ("float32", "bfloat16", "float16")


def load_model(
    ref: ModelRef, dtype: str = "float32", device: torch.device | str = "cpu"
) -> transformers.PreTrainedModel:
    """Loads a model whose weights are exactly those its config describes.

    GGUF weights are unpacked to `dtype`, so every parameter has a gradient.

    Args:
        ref: the model; a hub model is downloaded if need be.
        dtype: number format of the parameters: float32, bfloat16 or float16.
        device: where the whole model goes; it is never spread or offloaded.

    Returns:
        The model in evaluation mode, all parameters trainable, with one module per role (see
        `nuggets.models.fused`).

    Raises:
        BadInput: if it cannot be found, or is damaged: a key missing, left over or of another
            shape, a value that is not finite. The sentence names the file or the tensor.
        Unsupported: if its architecture or number format is not supported.
    """
    if dtype not in DTYPES:
        raise BadInput(f"dtype {dtype!r} is unknown; write {', '.join(DTYPES)}.")
    spec = check_model_loads(ref)
    model = _read(ref, spec, getattr(torch, dtype))
    if ref.format == "gguf":
        restore_function(model, read_gguf(model_path(ref)))
    model.name_or_path = model.config.name_or_path = str(_home(ref))
    _check_tied(ref, model, spec.tied)
    check_trainable(model, ref.source)
    check_finite(model, ref.source)
    model.loss_type = "ForCausalLM"  # GPT-2's class name does not say so, and warns at every loss
    return split_fused(model.to(device), spec).eval()


def check_loading(ref: ModelRef) -> None:
    """Refuses whatever loading the model or its tokenizer would, but for values: reads no weight.

    Raises:
        BadInput: as `load_model` and `load_tokenizer` do, with the same sentence.
    """
    check_model_loads(ref)
    load_tokenizer(ref)


def check_sources(sources: Sequence[str]) -> list[str]:
    """As `check_loading`, for a child process that knows names alone: sentences, or ""."""
    sentences = []
    for source in sources:
        try:
            check_loading(parse_ref(source))
        except BadInput as problem:
            sentences.append(str(problem))
        else:
            sentences.append("")
    return sentences


def check_model_loads(ref: ModelRef) -> ArchSpec:
    """Builds a model as loading does and runs it once, both without numbers.

    Raises:
        BadInput: as `load_model` does, but for values that are not finite.
    """
    spec = read_spec(ref)
    check_keys(ref, spec)
    if ref.format == "gguf":  # its numbers are unpacked while it is built
        return spec
    _check_stored_head(ref, spec)
    model = _read(ref, spec, torch.float32, device_map="meta")
    for name, part in model.named_modules():
        if "RotaryEmbedding" in type(part).__name__:  # its numbers follow from the config alone
            check_finite(type(part)(model.config), ref.source, f"{name}.")
    tokens = torch.zeros(1, 2, dtype=torch.long, device="meta")
    seen = torch.zeros(1, 1, 2, 2, device="meta")  # any other mask is looked at, and has no values
    with _reported(f"The model {ref.source} cannot be run"), torch.no_grad():
        try:
            logits = model(tokens, attention_mask=seen, use_cache=False).logits
        except (RuntimeError, NotImplementedError) as problem:
            if "meta" not in str(problem):  # it looks at values, as GPT-2 does; it has none here
                raise
            return spec
        if logits.shape != (1, 2, spec.vocab_size):
            raise Damaged(f"The model {ref.source} gives {list(logits.shape)} logits.")
    return spec


def _read(ref: ModelRef, spec: ArchSpec, dtype: torch.dtype, **options: Any) -> Any:
    """What transformers makes of the checked files, nothing filled or dropped."""
    packed = ref.format == "gguf"
    options |= _gguf_kwargs(model_path(ref)) if packed else {"use_safetensors": True}
    if spec.wrapped:
        options["key_mapping"] = WRAPPER_KEYS
    with (
        _reported(f"The model {ref.source} cannot be loaded"),
        checked_folder(ref) as folder,
        read_once() if packed else nullcontext(),
    ):
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    model, info = loaded
    _check_loading_info(ref, info, spec)
    return model


@contextmanager
def checked_folder(ref: ModelRef) -> Iterator[Path]:
    """A private folder that holds exactly the files that were checked, as links, for a loader.

    transformers applies an adapter that lies beside the weights, and follows other files that a
    config names; here there are none. Of a wrapper it holds the text model's config. Weights
    stay where they are and are mapped from there.

    Raises:
        BadInput: as `model_files` does.
    """
    with TemporaryDirectory(prefix="nuggets-model-") as private:
        folder = Path(private)
        for name, file in model_files(ref).items():
            if name == CONFIG and (text := text_config(read_json(file))) is not None:
                (folder / name).write_text(json.dumps(text))
            elif name == TOKENIZER_CONFIG:
                (folder / name).write_text(json.dumps(tokenizer_settings(file)))
            else:
                (folder / name).symlink_to(file.resolve())
        yield folder


def _home(ref: ModelRef) -> Path:
    """The folder that a loaded model is told it comes from, since the private one is gone."""
    path = model_path(ref)
    return path.parent if ref.format == "gguf" else path


def _gguf_kwargs(path: Path) -> dict[str, Any]:
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise BadInput(
            "GGUF files need an additional package: pip install 'nuggets[gguf]'."
        ) from None
    packed = transformers.GgufConfig(gguf_file=path.name, dequantize=True)
    return {"gguf_file": path.name, "quantization_config": packed}


def _check_loading_info(ref: ModelRef, info: dict[str, Any], spec: ArchSpec) -> None:
    """Refuses a model of which transformers filled or dropped anything."""
    faults = {
        "are missing": info["missing_keys"],
        "are not part of this architecture": [
            key for key in info["unexpected_keys"] if not is_table(spec, key)
        ],
        "have a different shape from the config": info["mismatched_keys"],
    }
    for fault, keys in faults.items():
        names = sorted(key if isinstance(key, str) else key[0] for key in keys)
        if names:
            raise Damaged(f"{len(names)} weights of {ref.source} {fault}: {some(names)}.")
    if info.get("error_msgs"):
        raise Damaged(
            f"The weights of {ref.source} do not match the model: {info['error_msgs'][0]}"
        )


def _check_tied(ref: ModelRef, model: Any, tied: bool) -> None:
    """Refuses a head that transformers untied without a word, because another one is stored."""
    if (model.get_output_embeddings().weight is model.get_input_embeddings().weight) != tied:
        raise _two_heads(ref)


def _check_stored_head(ref: ModelRef, spec: ArchSpec) -> None:
    """Refuses the same from the files: a tied head may be stored, as a copy of the embedding."""
    if spec.tied and (stored := StoredWeights(ref, spec)).has(head := spec.module("head")):
        embedding, copy = (stored.weight(name) for name in (spec.module("embed"), head))
        if not torch.equal(embedding, copy.to(embedding.dtype)):
            raise _two_heads(ref)


def _two_heads(ref: ModelRef) -> Damaged:
    return Damaged(
        f"The config of {ref.source} ties head and embedding, but the weights contain two "
        "different matrices. Set tie_word_embeddings to false, or remove lm_head.weight."
    )


def check_trainable(model: torch.nn.Module, name: str) -> None:
    """Refuses a model with parameters that have no gradient, such as packed GGUF blocks.

    Raises:
        Unsupported: naming the parameters.
    """
    packed = [key for key, p in model.named_parameters() if not p.is_floating_point()]
    if packed:
        raise Unsupported(
            f"{len(packed)} weights of {name} are not real numbers: {some(packed)}. Use the "
            "original weights."
        )


@torch.no_grad()
def check_finite(model: torch.nn.Module, name: str, prefix: str = "") -> None:
    """Refuses a model, or its part below `prefix`, with a NaN or infinite value.

    Parameters and buffers count alike.

    Raises:
        Damaged: naming the tensor and how many of its values are not finite.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for key, tensor in tensors:
        if not tensor.is_floating_point():
            continue
        if not (finite := torch.isfinite(tensor)).all():
            count = int((~finite).sum())
            raise Damaged(
                f"{prefix}{key} of {name} holds {count:,} NaN or infinite values of "
                f"{tensor.numel():,}; the model is damaged, or its values do not fit this dtype."
            )


def load_tokenizer(ref: ModelRef) -> Any:
    """Loads a model's tokenizer, with an end-of-sequence token and a padding token.

    Padding becomes the end-of-sequence token where none is set.

    Raises:
        BadInput: if there is none, it cannot be read, has no end-of-sequence token, or has ids
            beyond the model's embedding.
    """
    try_tokenizer(ref)
    rows = read_spec(ref).vocab_size
    with _reported(f"The tokenizer of {ref.source} cannot be loaded"):
        if ref.format == "gguf":
            tokenizer = _gguf_tokenizer(ref, rows)
        else:
            with checked_folder(ref) as folder:
                tokenizer = _tokenizer(folder)
        words = tokenizer.get_vocab()
    tokenizer.name_or_path = str(_home(ref))
    if file := getattr(tokenizer, "vocab_file", None):  # copied where the tokenizer is saved
        tokenizer.vocab_file = str(_home(ref) / Path(file).name)
    if not words:
        raise BadInput(
            f"{ref.source} has no tokenizer; put tokenizer.json into the folder of its weights."
        )
    if tokenizer.eos_token is None:
        raise BadInput(
            f"The tokenizer of {ref.source} has no end-of-sequence token; set eos_token in "
            "tokenizer_config.json."
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    ends = {tokenizer.eos_token, tokenizer.pad_token}
    beside = set(tokenizer.get_added_vocab()) - ends
    check_ids(ref, {word: i for word, i in words.items() if word not in beside}, rows)
    setattr(tokenizer, EMBEDDING_ROWS, rows)
    return tokenizer


def _tokenizer(folder: Path, **kwargs: Any) -> Any:
    return transformers.AutoTokenizer.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True, **kwargs
    )


def _gguf_tokenizer(ref: ModelRef, rows: int) -> Any:
    """The tokenizer of a GGUF file, which is built once: a large vocabulary takes minutes."""
    path = model_path(ref)
    fields = {k: v for k, v in read_gguf(path).fields.items() if k.startswith("tokenizer.")}
    versions = [transformers.__version__, tokenizers.__version__, rows]
    key = hashlib.sha256(json.dumps([versions, fields], sort_keys=True).encode()).hexdigest()
    kept = cache_dir() / "tokenizers" / key[:32]
    if not kept.is_dir():
        with checked_folder(ref) as folder:
            tokenizer = _tokenizer(folder, gguf_file=path.name)
        _forget_invented(tokenizer, rows)
        if not tokenizer.get_vocab():
            return tokenizer
        try:
            with commit_folder(kept) as folder:
                tokenizer.save_pretrained(folder)
        except NuggetsError:  # a full disk, or another process was faster
            return tokenizer
    return _tokenizer(kept)


def _forget_invented(tokenizer: Any, rows: int) -> None:
    """Takes out the `<|endoftext|>` that transformers adds to a byte-level GGUF vocabulary.

    Where the file has no such word (Llama 3), it gets the first id behind the embedding, and a text
    that contains it would read outside the weights.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    own = [word for word in state["added_tokens"] if word["id"] < rows]
    if len(own) < len(state["added_tokens"]):
        state["added_tokens"] = own
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))


@contextmanager
def _reported(what: str) -> Iterator[None]:
    """Keeps transformers quiet, and turns whatever it raises into one sentence.

    Broad on purpose: tokenizers raises bare `Exception`, and a hostile regular expression makes it
    panic with a BaseException of its own. Interrupts and memory errors pass.
    """
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    gguf_loading: Any = import_module("transformers.modeling_gguf_pytorch_utils")
    gguf_bar = gguf_loading.tqdm
    gguf_loading.tqdm = partial(gguf_bar, disable=True)  # it asks no setting
    try:
        yield
    except (NuggetsError, KeyboardInterrupt, SystemExit, MemoryError, torch.OutOfMemoryError):
        raise
    except BaseException as problem:
        if not isinstance(problem, Exception) and type(problem).__name__ != "PanicException":
            raise
        told = _PRIVATE.sub("its folder", " ".join(str(problem).split()))
        reason = told[:300] or type(problem).__name__
        raise Damaged(f"{what}: {reason.rstrip('.')}.") from problem
    finally:
        gguf_loading.tqdm = gguf_bar
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()

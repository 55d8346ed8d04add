"""Tokenizers and chat templates, tried in a child process before anything else reads them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nuggets.disk.commit import atomic_write, make_folder
from nuggets.disk.limited import limited
from nuggets.disk.untrusted import (
    MAX_TOKENIZER_BYTES,
    read_json,
    read_text,
    sha256_file,
    stamp,
)
from nuggets.errors import BadInput
from nuggets.models.gguf.headers import read_gguf
from nuggets.models.references import TOKENIZER_CONFIG, ModelRef, model_file, model_files
from nuggets.models.vocabulary import TOKENIZER

SECONDS = 20
TEMPLATE = "chat_template.jinja"
MAX_TEMPLATE = 200_000
_PROBE = ("Two words, 12 + 30 = 42.", "a" * 500, " " * 500, "𝔘ñí\t\n" * 100)
"""What makes a greedy expression run for ever: long repetitions beside ordinary text."""
_passed: set[str] = set()
"""Digests of what this process tried and may read."""
_TURNS = (
    {"role": "user", "content": "Two words?"},
    {"role": "assistant", "content": "Here, now."},
)


def try_tokenizer(ref: ModelRef) -> None:
    """Refuses a tokenizer or chat template that takes more than its share of time or memory.

    Raises:
        Damaged: if it does.
        BadInput: if a file of it is none, or larger than any known.
    """
    if ref.shipped:
        return
    file = model_file(ref, TOKENIZER)
    if file is not None and file.stat().st_size > MAX_TOKENIZER_BYTES:
        raise BadInput(f"{file} has more than {MAX_TOKENIZER_BYTES:,} bytes; no tokenizer does.")
    templates = _templates(ref)
    known = json.dumps([None if file is None else sha256_file(file), templates])
    if known not in _passed and (file is not None or templates):
        about = f"The tokenizer of {ref.source} with its chat template"
        given = None if file is None else str(file)
        limited(f"{__name__}:probe", given, templates, seconds=SECONDS, about=about)
        _passed.add(known)


def _templates(ref: ModelRef) -> list[str]:
    """Every chat template that a loader would find."""
    if ref.format == "gguf":
        assert ref.path is not None, "GGUF files are local"
        found: Any = read_gguf(ref.path).fields.get("tokenizer.chat_template")
    else:
        settings = model_file(ref, TOKENIZER_CONFIG)
        found = None if settings is None else read_json(settings).get("chat_template")
    named = found if isinstance(found, list) else [{"template": found}]
    texts = [each.get("template") for each in named if isinstance(each, Mapping)]
    if ref.format != "gguf" and (file := model_file(ref, TEMPLATE)) is not None:
        texts.append(read_text(file, MAX_TEMPLATE))
    if any(isinstance(text, str) and len(text) > MAX_TEMPLATE for text in texts):
        raise BadInput(
            f"A chat template of {ref.source} has more than {MAX_TEMPLATE:,} characters."
        )
    return [text for text in texts if isinstance(text, str)]


def refusals(refs: Sequence[ModelRef], cache: Path) -> list[str]:
    """Why loading would refuse models, but for their values; "" for each that it would not.

    One child process does all that loading them does except reading weights; what it found is
    remembered for as long as no byte changes of the files that it read.

    Args:
        refs: models on this machine, or of the hub's cache.
        cache: folder where answers are remembered.
    """
    answers = {ref: _answer_of(ref, cache) for ref in refs if not ref.shipped}
    unknown = [ref for ref, answer in answers.items() if not answer.is_file()]
    for ref, sentence in zip(unknown, _ask(unknown) if unknown else [], strict=True):
        make_folder(answers[ref].parent)
        atomic_write(answers[ref], sentence)
    return [answers[ref].read_text() if ref in answers else "" for ref in refs]


def _answer_of(ref: ModelRef, cache: Path) -> Path:
    lines = [version("transformers"), ref.source]
    for name, file in model_files(ref).items():
        weights = name.endswith((".safetensors", ".gguf"))
        lines.append(f"{name} {stamp(file) if weights else sha256_file(file)}")
    return cache / "tried" / hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _ask(refs: Sequence[ModelRef]) -> list[str]:
    sources = [ref.source if ref.path is None else str(ref.path) for ref in refs]
    about = f"The model {refs[0].source}"
    try:
        return limited("nuggets.models.loading:check_sources", sources, seconds=90, about=about)
    except BadInput as problem:
        if len(refs) == 1:
            return [str(problem)]
        return [*_ask(refs[:1]), *_ask(refs[1:])]  # one of them ended the child of both


def probe(file: str | None, templates: Sequence[str]) -> None:
    """The child's work; only time and memory count here, faults are told where they are met."""
    if file is not None:
        count(file, list(_PROBE))
    for text in templates:
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            render_jinja_template([list(_TURNS)], chat_template=text)
        except MemoryError:
            raise
        except Exception:  # noqa: S112 - a template may raise whatever it likes
            continue


def count(file: str, texts: list[str]) -> list[int] | None:
    """How many tokens a tokenizer's file makes of texts; None if it cannot be told so lightly."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(file)
        return [len(found.ids) for found in tokenizer.encode_batch(texts)]
    except MemoryError:
        raise
    except Exception:  # the package raises nothing more precise
        return None


def count_tokens(ref: ModelRef, texts: Sequence[str]) -> list[int] | None:
    """How many tokens a model's tokenizer makes of texts; None if it cannot be told so lightly.

    Only the `tokenizers` package is needed, in a child process unless the model comes with Nuggets.
    Faults are told where the model is loaded.
    """
    file = model_file(ref, TOKENIZER)
    if file is None:
        return None
    if ref.shipped:
        return count(str(file), list(texts))
    found = _counted(ref.source, str(file), sha256_file(file), json.dumps(list(texts)))
    return None if found is None else list(found)


@lru_cache(maxsize=16)
def _counted(source: str, file: str, _digest: str, texts: str) -> tuple[int, ...] | None:
    about = f"The tokenizer of {source}"
    try:
        found = limited(f"{__name__}:count", file, json.loads(texts), seconds=SECONDS, about=about)
    except BadInput:
        return None
    return None if found is None else tuple(found)

"""The words of a tokenizer, read from its file and compared without loading it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nuggets.disk.untrusted import MAX_TOKENIZER_BYTES, read_json
from nuggets.errors import BadInput, Damaged
from nuggets.models.gguf.headers import read_gguf
from nuggets.models.references import ModelRef, model_file

TOKENIZER = "tokenizer.json"
TOKENIZERS = (TOKENIZER, "tokenizer.model", "vocab.json")
"""Any of them is enough to load a tokenizer from."""
_ELSEWHERE = ("vocab", "merges", "tokenizer_object", "init_inputs")


class Vocabulary(NamedTuple):
    """Every token and its id; `added` are those beside the words that a text is cut into."""

    words: dict[str, int]
    added: dict[str, int]

    @property
    def tokens(self) -> dict[str, int]:
        """All of them."""
        return self.words | self.added


def vocabulary(ref: ModelRef) -> Vocabulary | None:
    """The tokens of `tokenizer.json` or of the GGUF header; None without either.

    Raises:
        Damaged: if the file is not a tokenizer.
    """
    if ref.format == "gguf":
        assert ref.path is not None, "GGUF files are local"
        tokens = read_gguf(ref.path).fields.get("tokenizer.ggml.tokens")
        named = ((str(token), i) for i, token in enumerate(tokens or ()))
        # llama.cpp's converter names the rows of the embedding that have no word: [PAD151936].
        words = {token: i for token, i in named if token != f"[PAD{i}]"}
        return Vocabulary(words, {}) if tokens else None
    file = model_file(ref, TOKENIZER)
    if file is None:
        return None
    content = read_json(file, MAX_TOKENIZER_BYTES)
    try:
        words = content["model"]["vocab"]
        if isinstance(words, list):  # a unigram model lists [token, score] in the order of the ids
            words = {token: i for i, (token, _) in enumerate(words)}
        added = {str(t["content"]): int(t["id"]) for t in content.get("added_tokens") or ()}
        return Vocabulary({str(token): int(i) for token, i in words.items()}, added)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Damaged(f"{file} is not a tokenizer: it has no vocabulary.") from None


def unknown_words(ref: ModelRef, texts: Iterable[str]) -> Counter[str]:
    """The pieces of texts that a model on this machine reads as its unknown token, with counts.

    Empty for tokenizers that know every byte, and where there is no `tokenizer.json` to ask.
    """
    from tokenizers import Tokenizer

    file = None if ref.path is None or ref.format == "gguf" else model_file(ref, TOKENIZER)
    unknown = (
        None if file is None else read_json(file, MAX_TOKENIZER_BYTES)["model"].get("unk_token")
    )
    found: Counter[str] = Counter()
    if file is None or not isinstance(unknown, str):
        return found
    tokenizer = Tokenizer.from_file(str(file))
    place = tokenizer.token_to_id(unknown)
    for text in texts:
        read = tokenizer.encode(text, add_special_tokens=False)
        pairs = zip(read.ids, read.offsets, strict=True)
        found.update(text[start:end] for id, (start, end) in pairs if id == place)
    return found


def tokenizer_settings(file: Path) -> dict[str, Any]:
    """What `tokenizer_config.json` says, without words and files to be read in place of ours.

    `fast_tokenizer_files`, for one, names a tokenizer for another version of transformers.

    Raises:
        Damaged: if it is not a JSON object.
    """
    return {
        name: value
        for name, value in read_json(file).items()
        if name not in _ELSEWHERE and not name.endswith(("_file", "_files"))
    }


def vocabulary_digest(found: Vocabulary) -> str:
    """A hash of every token and its id."""
    return hashlib.sha256(json.dumps(sorted(found.tokens.items())).encode()).hexdigest()


def check_ids(ref: ModelRef, words: Mapping[str, int], rows: int) -> None:
    """Refuses a tokenizer that cuts texts into words that the embedding has no row for.

    Added tokens may lie beyond it, as Gemma 3's image does: a text that contains one is refused
    where it is read.

    Args:
        ref: the model.
        words: those that every text is made of, and the end of sequence.
        rows: of the embedding.

    Raises:
        BadInput: naming the word, its id and the embedding's rows.
    """
    word, largest = max(words.items(), key=lambda item: item[1], default=("", -1))
    if largest >= rows:
        raise BadInput(
            f"The tokenizer of {ref.source} gives {word!r} the id {largest}, but the embedding has "
            f"only {rows} rows. Tokenizer and model do not belong together."
        )

"""Configs, pairs and vocabularies: what is read without torch, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nuggets.errors import BadInput, Damaged, Unsupported
from nuggets.models.pair import (
    Model,
    ModelPair,
    check_vocabularies,
    read_config,
    read_spec,
)
from nuggets.models.references import parse_ref

# Configs


def with_config(folder: Path, text: str | None = None, **changes) -> str:
    file = folder / "config.json"
    file.write_text(
        text if text is not None else json.dumps(json.loads(file.read_text()) | changes)
    )
    return str(folder)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text"])
def test_spec_has_the_dimensions_of_the_config(tiny, kind):
    spec = read_spec(parse_ref(str(tiny(kind))))
    assert (spec.model_type, spec.n_layers, spec.hidden_size) == (kind, 2, 32)
    assert (spec.n_heads, spec.n_kv_heads, spec.vocab_size) == (4, 2, 40)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", r"config\.json \(not JSON"),
        ("[]", "not a JSON object"),
        ("{" * 100_000, "not JSON|nested too deeply"),
        ('{"a":' + "[" * 100_000, "nested too deeply"),
        ('{"hidden_size": NaN}', "NaN is not a JSON number"),
        ('{"hidden_size": 1e999}', "1e999 is not a JSON number"),
        ('{"hidden_size": ' + "9" * 5000 + "}", "config.json"),
        ("version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ],
)
def test_damaged_config_is_named(tiny_copy, text, match):
    ref = parse_ref(with_config(tiny_copy(), text))
    with pytest.raises(Damaged, match=match):
        read_config(ref)


def test_config_that_is_not_text_is_damaged(tiny_copy):
    folder = tiny_copy()
    (folder / "config.json").write_bytes(b'{"a": "\xff\xfe"}')
    with pytest.raises(Damaged, match="not UTF-8"):
        read_config(parse_ref(str(folder)))


def test_huge_config_is_not_read(tiny_copy):
    folder = tiny_copy()
    with (folder / "config.json").open("wb") as file:
        file.truncate(10_000_001)
    with pytest.raises(BadInput, match="at most 10,000,000 are read"):
        read_config(parse_ref(str(folder)))


def test_missing_config_is_named(tiny_copy):
    folder = tiny_copy()
    (folder / "config.json").unlink()
    with pytest.raises(BadInput, match=r"has no config\.json"):
        read_spec(parse_ref(str(folder)))


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        (
            {"model_type": "mamba"},
            Unsupported,
            "'mamba' is not supported: .*Supported: llama",
        ),
        ({"num_hidden_layers": 1_000_000}, BadInput, "n_layers"),
        ({"vocab_size": 30_000_000}, BadInput, "vocab_size"),
        ({"hidden_size": None}, BadInput, "incomplete"),
        ({"num_attention_heads": 5}, BadInput, "5 query heads cannot share 2 key/value heads"),
        ({"quantization_config": {"quant_method": "gptq"}}, Unsupported, r"quantised \(gptq\)"),
        ({"transformers_weights": "x.bin"}, Unsupported, "sets transformers_weights"),
        ({"_attn_implementation": "org/kernel"}, Unsupported, "sets _attn_implementation"),
        ({"attn_implementation": {"": "org/kernel"}}, Unsupported, "sets attn_implementation"),
    ],
)
def test_configs_that_cannot_work_are_refused(tiny_copy, changes, error, match):
    ref = parse_ref(with_config(tiny_copy(), **changes))
    with pytest.raises(error, match=match):
        read_spec(ref)


def test_plain_attention_choice_in_a_config_is_fine(tiny_copy):
    assert read_spec(parse_ref(with_config(tiny_copy(), _attn_implementation="eager")))


# Pairs


def pair_of(*folders: Path) -> ModelPair:
    return ModelPair(*(Model(parse_ref(str(folder))) for folder in folders))


def swap_words(folder: Path) -> Path:
    """Gives two words each other's ids: the vocabulary keeps its size."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    words = content["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    file.write_text(json.dumps(content))
    return folder


def test_vocabularies_of_equal_size_with_other_words_differ(tiny, tiny_copy):
    pair = pair_of(tiny(), swap_words(tiny_copy()))
    assert pair.teacher.vocabulary != pair.student.vocabulary
    assert pair.vocabularies == "differ"
    with pytest.raises(
        BadInput, match=r"map tokens to different ids \(vocabularies of 40 and 40\), but the arm d"
    ):
        check_vocabularies(pair, "the arm distill")


def test_order_of_words_in_the_file_does_not_matter(tiny, tiny_copy):
    folder = tiny_copy()
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"] = dict(reversed(content["model"]["vocab"].items()))
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert pair_of(tiny(), folder).vocabularies == "agree"


def test_missing_tokenizer_makes_the_agreement_unknown(tiny, tiny_copy):
    folder = tiny_copy()
    (folder / "tokenizer.json").unlink()
    pair = pair_of(tiny(), folder)
    assert pair.vocabularies == "unknown"
    check_vocabularies(pair, "the arm distill")


@pytest.mark.parametrize("text", ["{}", '{"model": 3}', '{"model": {"vocab": [1, 2]}}'])
def test_tokenizer_file_without_words_is_damaged(tiny_copy, text):
    folder = tiny_copy()
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(Damaged, match="is not a tokenizer: it has no vocabulary"):
        _ = Model(parse_ref(str(folder))).vocabulary


def test_unigram_words_are_numbered_in_their_order(tiny_copy):
    folder = tiny_copy()
    words = [["<unk>", 0.0], ["a", -1.0]]
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": words}}))
    first = Model(parse_ref(str(folder))).vocabulary
    listed = {"model": {"vocab": {"a": 1}}, "added_tokens": [{"content": "<unk>", "id": 0}]}
    (folder / "tokenizer.json").write_text(json.dumps(listed))
    assert Model(parse_ref(str(folder))).vocabulary == first

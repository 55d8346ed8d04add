"""Bad and odd model folders: how a good one is changed, by name; used by the corpus's test."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Spoil = Callable[[Path], Any]
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"
GENERATION, SPECIAL, TEMPLATE = (
    "generation_config.json", "special_tokens_map.json", "chat_template.jinja",
)  # fmt: skip


def edit(name: str, **changes: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / name
        held = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**held, **changes}))

    return spoil


def drop(name: str, *keys: str) -> Spoil:
    def spoil(folder: Path) -> None:
        held = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({k: v for k, v in held.items() if k not in keys}))

    return spoil


def put(name: str, data: bytes | str) -> Spoil:
    content = data.encode() if isinstance(data, str) else data
    return lambda folder: (folder / name).write_bytes(content)


def gone(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


def recoded(name: str, coding: str) -> Spoil:
    return lambda folder: (folder / name).write_bytes((folder / name).read_text().encode(coding))


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Spoil:
    def spoil(folder: Path) -> None:
        held = load_file(folder / WEIGHTS)
        change(held)
        save_file({k: v.contiguous() for k, v in held.items()}, folder / WEIGHTS,
                  metadata={"format": "pt"})  # fmt: skip

    return spoil


def raw(header: object, data: bytes = b"") -> Spoil:
    text = json.dumps(header).encode()
    return put(WEIGHTS, struct.pack("<Q", len(text)) + text + data)


def empty_tensors(folder: Path) -> None:
    """Made when it is asked for: every collection of tests would wait for it."""
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    raw({f"t{i}": entry for i in range(10**5)})(folder)


def words(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    def spoil(folder: Path) -> None:
        held = json.loads((folder / TOKENIZER).read_text())
        change(held)
        (folder / TOKENIZER).write_text(json.dumps(held))

    return spoil


def linked(name: str) -> Spoil:
    """A link that leads out of the folder, to the very file that was there."""

    def spoil(folder: Path) -> None:
        outside = folder.parent / f"outside-{name}"
        path = folder / name
        outside.write_bytes(path.read_bytes() if path.exists() else b"{}")
        path.unlink(missing_ok=True)
        path.symlink_to(outside)

    return spoil


def piped(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return spoil


def folder_named(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return spoil


def sharded(weight_map: Any, names: tuple[str, ...] = ()) -> Spoil:
    def spoil(folder: Path) -> None:
        data = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).unlink()
        for name in names:
            (folder / name).write_bytes(data)
        (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))

    return spoil


def fill(name: str, value: float) -> Spoil:
    return tensors(lambda held: held[name].view(-1)[3:4].fill_(value))


def _configs() -> dict[str, Spoil]:
    """Every dimension and switch with values of every wrong kind."""
    wrong = {
        "hidden_size": ["64", "x", 0, -32, 32.5, None, [32], {"a": 1}, 2**40, 33, True],
        "num_hidden_layers": ["2", 0, 3, 1, 10**6, None, 2.0, [2]],
        "num_attention_heads": ["4", 0, 3, 5, None, -4, 4.0, []],
        "num_key_value_heads": ["2", 0, 3, 8, None, -2, 2.5],
        "head_dim": ["8", 0, 7, -8, None, 8.0, 9],
        "intermediate_size": ["64", 0, 63, None, -1],
        "vocab_size": ["40", 0, 39, 41, 3 * 10**7, None, -1],
        "hidden_act": ["nosuch", None, 7, ["silu"], "gelu", ""],
        "rms_norm_eps": ["1e-6", None, -1.0, [1]],
        "rope_theta": ["x", 0, None, -1.0],
        "rope_parameters": [
            {"rope_type": "nosuch"}, {"rope_type": "linear"}, {"rope_type": "yarn", "factor": "x"},
            {"rope_type": "llama3", "factor": 8.0}, [], "linear", 7, {"rope_type": ["default"]},
            {"rope_type": "default", "rope_theta": 0},
            {"rope_type": "linear", "factor": 0.0, "rope_theta": 10000.0},
            {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
            {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
        ],
        "max_position_embeddings": ["64", 0, None, -1, 10**12],
        "tie_word_embeddings": [True, "yes", None, 1],
        "attention_bias": [True, "true", None],
        "mlp_bias": [True, "x"],
        "attention_dropout": ["x", None, 2.0],
        "initializer_range": ["x", None],
        "return_dict": [False, None, "no"],
        "use_cache": [False, "x"],
        "output_attentions": [True],
        "output_hidden_states": [True],
        "torch_dtype": ["float99", 7, None, "int8"],
        "dtype": ["float99", 7, "float16", ["float32"]],
        "model_type": [["llama"], None, 7, "", "Llama", "mistral", "qwen2", "bert", {"a": 1}],
        "architectures": [["BertModel"], "x", None, [7]],
        "auto_map": [{"AutoConfig": "evil.C"}, "x", 7],
        "quantization_config": [{"quant_method": "gptq"}, "x", 7, [1]],
        "pad_token_id": ["0", -1, 40, 10**9, None, [0]],
        "eos_token_id": ["2", -1, [2, 3], None, 10**9],
        "bos_token_id": ["x", 10**9],
        "attn_implementation": ["nosuch", "org/kernel", 7],
        "_attn_implementation": ["nosuch", "org/kernel"],
        "pretraining_tp": [2, "x"],
        "layer_types": [["nosuch"] * 2, ["full_attention"], "x"],
        "id2label": [{"x": 1}, [1]],
        "num_labels": ["x", -1],
        "transformers_weights": ["other.safetensors"],
        "use_bidirectional_attention": [True],
        "chunk_size_feed_forward": ["x"],
        "problem_type": ["nosuch"],
    }  # fmt: skip
    return {
        f"config {key} {place}: {json.dumps(value)[:40]}": edit(CONFIG, **{key: value})
        for key, values in wrong.items()
        for place, value in enumerate(values)
    }


def _names() -> dict[str, Spoil]:
    """Every file of a folder empty, garbled, of another coding, a link, a pipe or a folder."""
    found: dict[str, Spoil] = {}
    for name in (CONFIG, WEIGHTS, TOKENIZER, SETTINGS, GENERATION, SPECIAL, TEMPLATE):
        found |= {
            f"{name} empty": put(name, b""),
            f"{name} garbled": put(name, b"\x00\xff{"),
            f"{name} a list": put(name, b"[]"),
            f"{name} a link outside": linked(name),
            f"{name} a pipe": piped(name),
            f"{name} a folder": folder_named(name),
            f"{name} an LFS pointer": put(name, b"version https://git-lfs.github.com/spec/v1\n"),
            f"{name} deep": put(name, b'{"a":' * 100_000),
            f"{name} NaN": put(name, b'{"hidden_size": NaN}'),
        }
    for name in (CONFIG, TOKENIZER, SETTINGS):
        found |= {
            f"{name} gone": gone(name),
            f"{name} UTF-16": recoded(name, "utf-16"),
            f"{name} with a byte order mark": recoded(name, "utf-8-sig"),
        }
    return found


def _weights() -> dict[str, Spoil]:
    norm, up = "model.norm.weight", "model.layers.1.mlp.up_proj.weight"
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    outside = {norm: "../outside.safetensors"}
    return {
        "weights gone": gone(WEIGHTS),
        "weights pickled": lambda f: (f / WEIGHTS).rename(f / "pytorch_model.bin"),
        "weights cut short": lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-9]),
        "weights with a tail": lambda f: (f / WEIGHTS).write_bytes(
            (f / WEIGHTS).read_bytes() + b"\0" * 8
        ),
        "header huge": put(WEIGHTS, struct.pack("<Q", 2**60)),
        "header no object": raw([]),
        "overlap": raw({"a": entry, "b": entry}, b"\0" * 8),
        "shape overflows": raw({"a": entry | {"shape": [2**62, 2**62]}}, b"\0" * 8),
        "shape negative": raw({"a": entry | {"shape": [-2]}}, b"\0" * 8),
        "dtype unknown": raw({"a": entry | {"dtype": "F99"}}, b"\0" * 8),
        "dtype a list": raw({"a": entry | {"dtype": ["F32"]}}, b"\0" * 8),
        "no tensors": raw({}),
        "100,000 empty tensors": empty_tensors,
        "a weight missing": tensors(lambda h: h.pop(norm)),
        "a weight too many": tensors(lambda h: h.update(x=torch.ones(2))),
        "a weight of another shape": tensors(lambda h: h.update({norm: torch.ones(33)})),
        "a weight transposed": tensors(lambda h: h.update({up: h[up].T})),
        "a weight of no dimension": tensors(lambda h: h.update({norm: torch.tensor(1.0)})),
        "a weight as int8": tensors(lambda h: h.update({norm: h[norm].to(torch.int8)})),
        "a weight as float8": tensors(lambda h: h.update({norm: h[norm].to(torch.float8_e4m3fn)})),
        "weights as float64": tensors(lambda h: h.update({k: v.double() for k, v in h.items()})),
        "weights as bfloat16": tensors(lambda h: h.update({k: v.bfloat16() for k, v in h.items()})),
        "a rotary table stored": tensors(
            lambda h: h.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
        ),
        "a bias stored": tensors(
            lambda h: h.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(32)})
        ),
        "a NaN": fill(up, float("nan")),
        "an infinity": fill(norm, float("inf")),
        "a value float32 cannot hold": tensors(
            lambda h: h.update({norm: torch.full((32,), 1e300, dtype=torch.float64)})
        ),
        "index outside": sharded(outside),
        "index no names": sharded([]),
        "index of numbers": sharded({norm: 7}),
        "index of a missing shard": sharded({norm: "a.safetensors"}),
        "index of a pickle": sharded({norm: "a.bin"}, ("a.bin",)),
        "index empty": sharded({}),
        "index lists too little": sharded({norm: "a.safetensors"}, ("a.safetensors",)),
        "index lists too much": sharded(
            {norm: "a.safetensors", "x": "a.safetensors"}, ("a.safetensors",)
        ),
        "index beside whole weights": put(INDEX, json.dumps({"weight_map": outside})),
        "an adapter beside": put("adapter_config.json", b'{"peft_type": "LORA"}'),
        "code beside": put("modeling_evil.py", b"raise SystemExit"),
        "a pickle beside": put("pytorch_model.bin", b"\x80\x04"),
        "other shards beside": put("model-00001-of-00002.safetensors", b"x"),
        "many files beside": lambda f: [(f / f"{i}.txt").touch() for i in range(2000)],
    }


def _tokenizers() -> dict[str, Spoil]:
    def vocab(change: Callable[[dict[str, int]], Any]) -> Spoil:
        return words(lambda held: change(held["model"]["vocab"]))

    split = {"type": "Split", "behavior": "Isolated", "invert": False}
    return {
        "ids beyond the embedding": vocab(lambda v: v.update(zebra=40)),
        "an id that is text": vocab(lambda v: v.update(zebra="39")),
        "an id below zero": vocab(lambda v: v.update(zebra=-1)),
        "a huge id": vocab(lambda v: v.update(zebra=2**40)),
        "no words": words(lambda h: h["model"].update(vocab={})),
        "no model": words(lambda h: h.pop("model")),
        "another kind of model": words(lambda h: h["model"].update(type="Nosuch")),
        "an added word beyond": words(
            lambda h: h["added_tokens"].append({"id": 99, "content": "<x>", "special": True})
        ),
        "added words a text": words(lambda h: h.update(added_tokens="x")),
        "an unbalanced expression": words(
            lambda h: h.update(pre_tokenizer=split | {"pattern": {"Regex": "(((("}})
        ),
        "an expression that looks back": words(
            lambda h: h.update(pre_tokenizer=split | {"pattern": {"Regex": "(a+)+$"}})
        ),
        "another version": words(lambda h: h.update(version="9.0")),
        "a decoder unknown": words(lambda h: h.update(decoder={"type": "Nosuch"})),
        "a processor unknown": words(lambda h: h.update(post_processor={"type": "Nosuch"})),
        "a normaliser that lowers": words(lambda h: h.update(normalizer={"type": "Lowercase"})),
        "no end of sequence": edit(SETTINGS, eos_token=None),
        "an end that is no word": edit(SETTINGS, eos_token="<nosuch>"),
        "an end that is a number": edit(SETTINGS, eos_token=7),
        "an end that is a list": edit(SETTINGS, eos_token=["<eos>"]),
        "no padding": edit(SETTINGS, pad_token=None),
        "padding that is no word": edit(SETTINGS, pad_token="<nosuch>"),
        "a class unknown": edit(SETTINGS, tokenizer_class="NosuchTokenizer"),
        "a class that is a list": edit(SETTINGS, tokenizer_class=["x"]),
        "a class of code": edit(SETTINGS, auto_map={"AutoTokenizer": ["evil.T", None]}),
        "another tokenizer named": edit(SETTINGS, fast_tokenizer_files=["tokenizer.9.json"]),
        "a length that is text": edit(SETTINGS, model_max_length="x"),
        "a template that fails": edit(SETTINGS, chat_template="{{ raise_exception('no') }}"),
        "a template garbled": edit(SETTINGS, chat_template="{% for %}"),
        "a template that is a number": edit(SETTINGS, chat_template=7),
        "a template that is a mapping": edit(SETTINGS, chat_template={"a": "b"}),
        "templates by name": edit(SETTINGS, chat_template=[{"name": "default", "template": "x"}]),
        "templates without names": edit(SETTINGS, chat_template=[{"template": "x"}]),
        "extra words": edit(SETTINGS, additional_special_tokens=["<a>", "<b>"]),
        "extra words a number": edit(SETTINGS, additional_special_tokens=7),
        "words decoded": edit(SETTINGS, added_tokens_decoder={"39": {"content": "<z>"}}),
        "words decoded beyond": edit(SETTINGS, added_tokens_decoder={"99": {"content": "<z>"}}),
        "words decoded as text": edit(SETTINGS, added_tokens_decoder={"x": "y"}),
        "special words a list": put(SPECIAL, b'{"eos_token": ["<eos>"]}'),
        "special words other": put(SPECIAL, b'{"eos_token": "1"}'),
        "added words beside": put("added_tokens.json", b'{"<q>": 39}'),
        "added words beyond beside": put("added_tokens.json", b'{"<q>": 4000}'),
        "a slow tokenizer beside": put("vocab.json", b'{"a": 0}'),
        "merges beside": put("merges.txt", b"#version: 0.2\na b\n"),
        "sentencepiece beside": put("tokenizer.model", b"\0\1\2"),
        "sentencepiece alone": lambda f: (
            (f / TOKENIZER).unlink(), (f / "tokenizer.model").write_bytes(b"\0")
        ),
    }  # fmt: skip


def _generation() -> dict[str, Spoil]:
    values = [
        {"temperature": "x"}, {"max_length": -1}, {"num_beams": "x"}, {"eos_token_id": "x"},
        {"do_sample": False, "temperature": 0.5}, {"cache_implementation": "nosuch"},
        {"pad_token_id": 10**9}, {"transformers_version": "99"}, {"watermarking_config": 7},
        {"num_return_sequences": 5}, {"bad_words_ids": "x"}, {"nosuch": 1},
    ]  # fmt: skip
    number = count()
    return {f"generation {next(number)}: {v}": put(GENERATION, json.dumps(v)) for v in values}


ODD: dict[str, Spoil] = _configs() | _names() | _weights() | _tokenizers() | _generation()
"""Name → what is done to a good folder of a tiny Llama."""
ONLY_VALUES = {
    "a NaN": "NaN or infinite",
    "an infinity": "NaN or infinite",
    "a value float32 cannot hold": "NaN or infinite",
}
"""What only the values of weights show."""

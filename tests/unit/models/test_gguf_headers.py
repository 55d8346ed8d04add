"""GGUF: the header read by hand, the weights unpacked, and every fault a sentence."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from nuggets.errors import BadInput, Damaged, NuggetsError, Unsupported
from nuggets.models import loading
from nuggets.models.gguf.headers import read_gguf
from nuggets.models.loading import load_model, load_tokenizer
from nuggets.models.pair import Model, ModelPair, read_spec
from nuggets.models.references import parse_ref
from nuggets.models.safetensors_headers import check_keys
from nuggets.models.vocabulary import Vocabulary, vocabulary_digest
from nuggets.preflight.headers import preflight

TOKENS = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz0123456789", "ab"]
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.": "blk.",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.": "ffn_",
    "_proj": "",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def to_gguf(name: str) -> str:
    for theirs, ours in _NAMES.items():
        name = name.replace(theirs, ours)
    return name


def rotated(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order of rotary dimensions, which the loader has to undo."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


@pytest.fixture
def make_gguf(tiny, tmp_path, monkeypatch) -> Callable[..., Path]:
    """Writes the tiny Llama as a GGUF file; `leave_out` drops tensors by a part of their name.

    `extra` are fields of the architecture, `factors` what its rotations are divided by.
    """
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))  # where its tokenizer is kept

    def make(leave_out: str = "\0", quantise: bool = False, tokens: bool = True, **fields) -> Path:
        file = tmp_path / "tiny.gguf"
        writer = gguf.GGUFWriter(file, fields.get("arch", "llama"))
        writer.add_block_count(fields.get("layers", 2))
        writer.add_context_length(64)
        writer.add_embedding_length(32)
        writer.add_feed_forward_length(64)
        writer.add_head_count(4)
        writer.add_head_count_kv(2)
        writer.add_rope_dimension_count(8)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_vocab_size(40)
        if tokens:
            writer.add_tokenizer_model("gpt2")
            writer.add_token_list([*TOKENS[:-1], fields.get("last", TOKENS[-1])])
            writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
            writer.add_token_merges(["a b"])
            writer.add_bos_token_id(1)
            writer.add_eos_token_id(2)
        for name, value in fields.get("extra", {}).items():
            add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}
            add[type(value)](f"llama.{name}", value)
        if "parts" in fields:
            writer.add_uint16("split.count", fields["parts"])
        if "factors" in fields:
            writer.add_tensor("rope_freqs.weight", np.array(fields["factors"], np.float32))
        for name, weight in load_file(tiny() / "model.safetensors").items():
            if leave_out in name:
                continue
            if "q_proj" in name or "k_proj" in name:
                weight = rotated(weight, 4 if "q_proj" in name else 2)
            kind = gguf.GGMLQuantizationType.Q8_0
            if quantise and weight.ndim == 2:
                writer.add_tensor(to_gguf(name), gguf.quantize(weight, kind), raw_dtype=kind)
            else:
                writer.add_tensor(to_gguf(name), np.ascontiguousarray(weight))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return file

    return make


def test_header_agrees_with_the_gguf_package(make_gguf):
    file = make_gguf(quantise=True)
    ours, theirs = read_gguf(file), gguf.GGUFReader(file)
    assert {
        t.name: (t.tensor_type.name, tuple(map(int, t.shape[::-1]))) for t in theirs.tensors
    } == (dict(ours.tensors))
    for name in ("llama.block_count", "tokenizer.ggml.tokens", "llama.rope.dimension_count"):
        assert ours.fields[name] == theirs.fields[name].contents()


def test_spec_and_keys_of_a_gguf_are_those_of_the_folder(tiny, make_gguf):
    ref, folder = parse_ref(str(make_gguf())), parse_ref(str(tiny()))
    assert ref.format == "gguf"
    assert read_spec(ref).model_copy(update={"head_dim": 8}) == read_spec(folder)
    names = check_keys(ref, read_spec(ref))
    assert {n: t.shape for n, t in names.items()} == {
        n: t.shape for n, t in check_keys(folder, read_spec(folder)).items()
    }


def test_preflight_reads_a_gguf_from_its_header(make_gguf):
    ref = parse_ref(str(make_gguf(quantise=True)))
    found = preflight(ModelPair(Model(ref), Model(ref)))
    assert (found.problems, found.vocabularies) == ((), "agree")
    assert found.teacher is not None
    assert (found.teacher.format, found.teacher.stored[0]) == ("gguf", "Q8_0")
    assert found.teacher.parameters == load_model(ref).num_parameters()


def test_loaded_gguf_equals_the_folder_and_can_be_trained(tiny, make_gguf):
    model, folder = load_model(parse_ref(str(make_gguf()))), load_model(parse_ref(str(tiny())))
    for name, weight in folder.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], weight, rtol=0, atol=0, msg=name)
    assert not hasattr(model, "hf_quantizer")
    assert not hasattr(model.config, "quantization_config")


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


def llama3_factors(rope: dict[str, Any]) -> list[float]:
    """As llama.cpp's converter computes them, from wavelengths."""
    factors = []
    for i in range(0, 8, 2):
        wavelength = 2 * math.pi * 10_000 ** (i / 8)
        low = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
        high = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
        span = rope["high_freq_factor"] - rope["low_freq_factor"]
        turns = rope["original_max_position_embeddings"] / wavelength
        smooth = (turns - rope["low_freq_factor"]) / span
        between = 1 / ((1 - smooth) / rope["factor"] + smooth)
        ends = 1.0 if wavelength < high else rope["factor"] if wavelength > low else between
        factors.append(ends)
    return factors


@pytest.mark.parametrize(
    ("rope", "fields"),
    [
        (LLAMA3, {"factors": llama3_factors(LLAMA3)}),
        (
            {"rope_type": "linear", "factor": 4.0},
            {"extra": {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}},
        ),
        (
            YARN,
            {"extra": {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
                       "rope.scaling.original_context_length": 16}},
        ),
        ({"rope_type": "default", "rope_theta": 500.0}, {"extra": {"rope.freq_base": 500.0}}),
    ],
)  # fmt: skip
def test_scaled_rotations_are_those_of_the_folder(tiny, make_gguf, tmp_path, rope, fields):
    """The function, not only the weights: same logits, here and after saving."""
    source = tiny(rope_parameters={"rope_theta": 10_000.0} | rope)
    ids = torch.arange(3, 40)[None]
    expected = load_model(parse_ref(str(source)))(ids).logits
    model = load_model(parse_ref(str(make_gguf(**fields))))
    torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=1e-6)
    plain = load_model(parse_ref(str(tiny())))(ids).logits
    assert (plain - expected).abs().max() > 1e-2, "the test needs another function"
    model.save_pretrained(tmp_path / "saved")
    saved = load_model(parse_ref(str(tmp_path / "saved")))
    torch.testing.assert_close(saved(ids).logits, expected, rtol=0, atol=1e-6)


def test_one_of_several_files_is_told_as_such(make_gguf):
    with pytest.raises(Unsupported, match="is one of 3 files of a model"):
        read_spec(parse_ref(str(make_gguf(parts=3, leave_out="layers.1"))))
    assert read_spec(parse_ref(str(make_gguf(parts=1)))).n_layers == 2


def test_rows_of_the_embedding_without_a_word_are_no_words(make_gguf, tmp_path):
    """Qwen's models of one tokenizer have embeddings of several sizes."""
    padded = make_gguf(last="[PAD39]").rename(tmp_path / "padded.gguf")
    known = vocabulary_digest(Vocabulary({word: i for i, word in enumerate(TOKENS[:-1])}, {}))
    assert Model(parse_ref(str(padded))).vocabulary == known
    assert Model(parse_ref(str(make_gguf(last="[PAD40]")))).vocabulary != known  # a word so called


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"factors": [1.0, 1.0, 7.0, 2.0]}, "scales its rotations .* cannot be reconstructed"),
        (
            {"extra": {"rope.scaling.type": "longrope", "rope.scaling.factor": 4.0}},
            "'longrope' with factor 4",
        ),
        ({"extra": {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}}, "'yarn' with"),
        ({"extra": {"logit_scale": 0.5}}, r"sets llama\.logit_scale = 0\.5, which would be left"),
    ],
)
def test_a_function_that_cannot_be_reconstructed_is_refused_by_preflight(make_gguf, fields, match):
    ref = parse_ref(str(make_gguf(**fields)))
    with pytest.raises(Unsupported, match=match):
        read_spec(ref)


def test_a_field_that_transformers_computes_otherwise_is_refused(make_gguf):
    ref = parse_ref(str(make_gguf(extra={"attention.sliding_window": 16})))
    with pytest.raises(Unsupported, match=r"sets attention\.sliding_window to 16"):
        load_model(ref)


def test_loading_draws_no_bars(make_gguf, capfd):
    ref = parse_ref(str(make_gguf()))
    load_model(ref)
    load_tokenizer(ref)
    assert capfd.readouterr() == ("", "")


def test_a_file_is_read_once_by_a_loader_and_the_package_left_as_it_was(make_gguf, monkeypatch):
    reads, names = [], []

    class Reader(gguf.GGUFReader):
        def __init__(self, path, *rest):
            reads.append(path)
            super().__init__(path, *rest)

    derive = gguf.get_tensor_name_map
    monkeypatch.setattr(gguf, "GGUFReader", Reader)
    monkeypatch.setattr(gguf, "get_tensor_name_map", lambda *a: names.append(a) or derive(*a))
    ours, ref = gguf.get_tensor_name_map, parse_ref(str(make_gguf()))
    for loads in (1, 2):
        load_model(ref)
        assert (len(reads), len(names)) == (loads, loads)
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == (Reader, ours)


def test_a_tokenizer_is_built_once(make_gguf, monkeypatch):
    ref = parse_ref(str(make_gguf()))
    first = load_tokenizer(ref)
    monkeypatch.setattr(loading, "_forget_invented", None)  # building it again would fail
    again = load_tokenizer(ref)
    assert again.get_vocab() == first.get_vocab()
    assert again("ab<|endoftext|>c</s>").input_ids == first("ab<|endoftext|>c</s>").input_ids
    assert again.special_tokens_map == first.special_tokens_map


def test_packed_weights_are_unpacked_with_gradients(tiny, make_gguf, tmp_path):
    model = load_model(parse_ref(str(make_gguf(quantise=True))))
    exact = load_model(parse_ref(str(tiny()))).state_dict()
    for name, weight in model.state_dict().items():  # 8 bits per value, scaled by blocks of 32
        torch.testing.assert_close(weight, exact[name], rtol=0, atol=0.01, msg=name)
    model(input_ids=torch.tensor([[3, 4, 5]]), labels=torch.tensor([[3, 4, 5]])).loss.backward()
    assert all(p.grad is not None and p.dtype == torch.float32 for p in model.parameters())
    model.save_pretrained(tmp_path / "saved")
    saved = load_model(parse_ref(str(tmp_path / "saved")))
    assert torch.equal(saved.lm_head.weight, model.lm_head.weight)


def test_tied_head_is_recognised_by_its_absence(make_gguf):
    assert read_spec(parse_ref(str(make_gguf(leave_out="lm_head")))).tied


def test_tokenizer_comes_from_the_file(make_gguf):
    ref = parse_ref(str(make_gguf()))
    tokenizer = load_tokenizer(ref)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("</s>", "</s>")
    assert tokenizer.get_vocab() == {token: i for i, token in enumerate(TOKENS)}
    assert Model(ref).vocabulary is not None
    ids = tokenizer("ab<|endoftext|>c").input_ids  # transformers would give it an id of its own
    assert max(ids) < len(TOKENS)


def test_gguf_without_tokenizer_is_refused_only_where_one_is_needed(make_gguf):
    ref = parse_ref(str(make_gguf(tokens=False)))
    assert Model(ref).vocabulary is None
    assert load_model(ref)
    with pytest.raises(BadInput, match=r"[Tt]he tokenizer of .*tiny\.gguf|has no tokenizer"):
        load_tokenizer(ref)


def test_missing_tensor_is_named(make_gguf):
    ref = parse_ref(str(make_gguf(leave_out="layers.1.mlp.up_proj")))
    with pytest.raises(
        Damaged, match=r"lack 1 tensor\(s\): model\.layers\.1\.mlp\.up_proj\.weight"
    ):
        load_model(ref)


def test_unknown_architecture_is_named(make_gguf):
    ref = parse_ref(str(make_gguf(arch="falcon")))
    with pytest.raises(Unsupported, match="GGUF architecture 'falcon' is not supported"):
        read_spec(ref)


@pytest.mark.parametrize("keep", [0, 3, 20, 200, -1])
def test_truncated_file_is_refused_from_its_header(make_gguf, keep):
    file = make_gguf()
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(Damaged, match=r"File damaged or incomplete: tiny\.gguf"):
        read_spec(parse_ref(str(file)))


@pytest.mark.parametrize(
    ("start", "error", "match"),
    [
        (b"GGML" + struct.pack("<I", 3), Damaged, "not a GGUF file"),
        (
            b"GGUF" + struct.pack("<III", 1, 5, 5),
            Unsupported,
            "is GGUF version 1; versions 2 and 3",
        ),
        (b"GGUF" + struct.pack(">IQQ", 3, 1, 1), Unsupported, "is GGUF version 50331648"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), Damaged, "it claims 1,152,9"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**40), Damaged, "metadata fields"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62), Damaged, "a length .* is absurd"),
        (b"version https://git-lfs.github.com/spec/v1\n", Damaged, "is a Git LFS pointer"),
    ],
)
def test_hostile_headers_are_refused(tmp_path, start, error, match):
    file = tmp_path / "x.gguf"
    file.write_bytes(start + b"\0" * 64)
    with pytest.raises(error, match=match):
        read_gguf(file)


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_no_corruption_escapes_as_another_exception(make_gguf, tmp_path, data):
    whole = tmp_path / "tiny.gguf"
    content = bytearray((whole if whole.exists() else make_gguf()).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 3000))] = data.draw(st.integers(0, 255))
    file = tmp_path / f"{data.draw(st.integers(0, 10**9))}.gguf"
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        check_keys(ref := parse_ref(str(file)), read_spec(ref))
    except NuggetsError:
        return
    finally:
        file.unlink()


@pytest.mark.real
def test_smollm2_is_read_and_loaded(smollm2):
    ref = parse_ref(str(smollm2))
    spec = read_spec(ref)
    assert (spec.n_layers, spec.hidden_size, spec.group, spec.tied) == (30, 576, 3, True)
    model, tokenizer = load_model(ref), load_tokenizer(ref)
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    answer = model.generate(ids, max_new_tokens=2, do_sample=False)
    assert tokenizer.decode(answer[0]).endswith(" Paris.")

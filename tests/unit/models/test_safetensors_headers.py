"""Safetensors headers by hand: they agree with the library, and every fault is a sentence."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from nuggets.errors import BadInput, Damaged, NuggetsError, Unsupported
from nuggets.models.pair import read_spec
from nuggets.models.references import INDEX, WEIGHTS, parse_ref
from nuggets.models.safetensors_headers import (
    check_keys,
    count_parameters,
    read_header,
    tensor_shapes,
    weight_bytes,
)

KINDS = ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"]
GOOD = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def write(path: Path, header, data: bytes = b"\0" * 8, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    path.write_bytes(struct.pack("<Q", size) + text + data)
    return path


def entry(**changes):
    return {"a": GOOD["a"] | changes}


def test_header_agrees_with_the_library(tiny):
    file = tiny() / WEIGHTS
    ours = read_header(file)
    with safe_open(file, framework="np") as theirs:
        names = theirs.keys()
        assert set(ours) == set(names)
        for name in names:
            assert list(ours[name].shape) == theirs.get_slice(name).get_shape()
            assert ours[name].dtype == theirs.get_slice(name).get_dtype()


@pytest.mark.parametrize(
    ("header", "data", "reason"),
    [
        (b"", b"", "not JSON"),
        (b"[1]", b"", "the header is not a JSON object"),
        (b'{"a": ' + b"[" * 100_000, b"", "nested too deeply"),
        (b"\xff\xfe{}", b"", "not UTF-8 text|not JSON"),
        (entry(data_offsets=[0, 4]), b"\0" * 4, "'a' does not fill its 4 bytes"),
        (entry(data_offsets=[8, 0]), b"\0" * 8, "'a' does not fill its -8 bytes"),
        (entry(shape=[2**62, 2**62]), b"\0" * 8, "'a' does not fill its 8 bytes"),
        (entry(shape=[-2]), b"\0" * 8, "garbled"),
        (entry(shape=[True, 2]), b"\0" * 8, "garbled"),
        (entry(shape="ab"), b"\0" * 8, "garbled"),
        (entry(dtype="F33"), b"\0" * 8, "garbled"),
        (entry(dtype=["F32"]), b"\0" * 8, "garbled"),
        ({"a": 3}, b"", "garbled"),
        (GOOD, b"\0" * 4, "need 8 bytes and it has 4"),
        (GOOD, b"\0" * 9, "need 8 bytes and it has 9"),
        (GOOD | {"b": GOOD["a"]}, b"\0" * 8, "'b' overlaps another"),
        (entry(data_offsets=[4, 12]), b"\0" * 12, "'a' leaves a gap before it"),
    ],
)
def test_damaged_headers_are_named(tmp_path, header, data, reason):
    file = write(tmp_path / "x.safetensors", header, data)
    with pytest.raises(
        Damaged, match=rf"File damaged or incomplete: x\.safetensors \(.*({reason})"
    ):
        read_header(file)


def test_huge_header_is_refused_before_it_is_read(tmp_path):
    file = tmp_path / "x.safetensors"
    with file.open("wb") as sparse:
        sparse.write(struct.pack("<Q", 99_000_000))
        sparse.truncate(100_000_000)
    with pytest.raises(Damaged, match="its header claims 99,000,000 bytes"):
        read_header(file)


def test_length_beyond_the_file_is_refused(tmp_path):
    file = write(tmp_path / "x.safetensors", GOOD, length=2**63)
    with pytest.raises(Damaged, match=r"its header claims 9,223,372,036,854,775,808 bytes"):
        read_header(file)


def test_a_hundred_thousand_empty_tensors_are_refused(tmp_path):
    many = {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(100_000)}
    with pytest.raises(Damaged, match="100,000 tensors; at most 50,000 are read"):
        read_header(write(tmp_path / "x.safetensors", many, b""))


@pytest.mark.parametrize("size", [0, 5])
def test_empty_file_is_named(tmp_path, size):
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"\0" * size)
    with pytest.raises(Damaged, match=rf"x\.safetensors \(only {size} bytes\)"):
        read_header(file)


def test_lfs_pointer_is_called_one(tiny_copy):
    folder = tiny_copy()
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (folder / WEIGHTS).write_text(pointer)
    with pytest.raises(Damaged, match=r"model\.safetensors is a Git LFS pointer.*git lfs pull"):
        tensor_shapes(parse_ref(str(folder)))


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_no_corruption_escapes_as_another_exception(tmp_path, data):
    file = tmp_path / "x.safetensors"
    arrays = {"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float16)}
    save_file(arrays, file)
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        tensors = read_header(file)
    except NuggetsError:
        return
    # What passes must be what the library would read, too.
    loaded = load_file(file)
    assert {n: t.shape for n, t in tensors.items()} == {n: t.shape for n, t in loaded.items()}


# Shards


def shards(tiny_copy) -> Path:
    folder = tiny_copy(shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


def edit_index(folder: Path, change) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def test_shards_give_the_same_tensors_as_one_file(tiny, tiny_copy):
    one, many = parse_ref(str(tiny())), parse_ref(str(shards(tiny_copy)))
    assert tensor_shapes(one) == tensor_shapes(many)
    assert check_keys(many, read_spec(many)) == tensor_shapes(one)


@pytest.mark.parametrize(
    "target", ["../outside.safetensors", "/etc/x.safetensors", "a\\b", "x.bin"]
)
def test_index_pointing_elsewhere_is_refused(tiny_copy, target):
    folder = shards(tiny_copy)
    edit_index(folder, lambda listed: listed.update({next(iter(listed)): target}))
    with pytest.raises(BadInput, match=r"model\.safetensors\.index\.json in .* points to '"):
        tensor_shapes(parse_ref(str(folder)))


def test_link_out_of_the_folder_is_refused(tiny, tiny_copy):
    folder = tiny_copy()
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(tiny() / WEIGHTS)
    with pytest.raises(BadInput, match=r"model\.safetensors is a link to /"):
        tensor_shapes(parse_ref(str(folder)))


def test_config_linked_out_of_the_folder_is_refused(tiny, tiny_copy):
    folder = tiny_copy()
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(tiny() / "config.json")
    with pytest.raises(BadInput, match=r"config\.json is a link to .* outside its folder"):
        read_spec(parse_ref(str(folder)))


def test_links_inside_a_hub_cache_are_followed(tiny, tmp_path):
    blobs, snapshot = tmp_path / "models--o--n/blobs", tmp_path / "models--o--n/snapshots/abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(tiny().iterdir())):
        (blobs / str(number)).write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(os.path.relpath(blobs / str(number), snapshot))
    ref = parse_ref(str(snapshot))
    assert check_keys(ref, read_spec(ref)) == tensor_shapes(parse_ref(str(tiny())))


def test_missing_shard_is_named(tiny_copy):
    folder = shards(tiny_copy)
    victim = sorted(folder.glob("model-*.safetensors"))[1]
    victim.unlink()
    with pytest.raises(Damaged, match=f"{victim.name} is listed in .* but missing"):
        tensor_shapes(parse_ref(str(folder)))


def test_tensor_missing_from_its_shard_is_named(tiny_copy):
    folder = shards(tiny_copy)
    edit_index(folder, lambda listed: listed.update({"ghost": next(iter(listed.values()))}))
    with pytest.raises(Damaged, match="lacks ghost"):
        tensor_shapes(parse_ref(str(folder)))


def test_tensor_that_the_index_does_not_list_is_named(tiny_copy):
    folder = shards(tiny_copy)
    edit_index(folder, lambda listed: listed.pop("model.norm.weight"))
    with pytest.raises(Damaged, match=r"holds model\.norm\.weight, which"):
        tensor_shapes(parse_ref(str(folder)))


@pytest.mark.parametrize("content", ["{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}'])
def test_index_without_weight_map_is_refused(tiny_copy, content):
    folder = shards(tiny_copy)
    (folder / INDEX).write_text(content)
    with pytest.raises(Damaged, match="has no weight_map"):
        tensor_shapes(parse_ref(str(folder)))


# Config against weights


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_has_exactly_the_described_weights(tiny, kind):
    ref = parse_ref(str(tiny(kind)))
    assert check_keys(ref, read_spec(ref))


@pytest.mark.parametrize("tied", [True, False])
def test_tied_and_untied_heads_are_both_whole(tiny, tied):
    ref = parse_ref(str(tiny(tie_word_embeddings=tied)))
    assert ("lm_head.weight" in check_keys(ref, read_spec(ref))) is not tied


def test_biases_of_described_matrices_are_allowed(tiny):
    ref = parse_ref(str(tiny(attention_bias=True, mlp_bias=True)))
    assert "model.layers.0.mlp.up_proj.bias" in check_keys(ref, read_spec(ref))


def edit_weights(folder: Path, change) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def edit_config(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def refused(folder: Path, match: str, error=Damaged) -> None:
    ref = parse_ref(str(folder))
    with pytest.raises(error, match=match):
        check_keys(ref, read_spec(ref))


def test_missing_weight_is_named(tiny_copy):
    folder = tiny_copy()
    edit_weights(folder, lambda w: w.pop("model.layers.1.mlp.up_proj.weight"))
    refused(folder, r"lack 1 tensor\(s\): model\.layers\.1\.mlp\.up_proj\.weight\.")


def test_more_layers_in_the_config_than_in_the_weights(tiny_copy):
    folder = tiny_copy()
    edit_config(folder, num_hidden_layers=3)
    refused(
        folder, r"lack 9 tensor\(s\): model\.layers\.2\.self_attn\.q_proj\.weight, .* and 6 more"
    )


def test_fewer_layers_in_the_config_than_in_the_weights(tiny_copy):
    folder = tiny_copy()
    edit_config(folder, num_hidden_layers=1)
    refused(folder, r"have, unlike the config, 9 tensor\(s\): model\.layers\.1\.")


@pytest.mark.parametrize(
    ("kind", "key"), [("qwen3", "q_norm"), ("gemma2", "feedforward_layernorm")]
)
def test_another_architectures_config_over_llama_weights(tiny_copy, kind, key):
    folder = tiny_copy()
    edit_config(folder, model_type=kind)
    refused(folder, f"lack .*{key}")


def test_llama_config_over_another_architectures_weights(tiny_copy):
    folder = tiny_copy("qwen3")
    edit_config(folder, model_type="llama")
    refused(folder, r"have, unlike the config, 4 tensor\(s\): .*_norm\.weight")


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("vocab_size", 30_000_00, "embed_tokens"),
        ("hidden_size", 48, "embed_tokens|lm_head"),
        ("intermediate_size", 65, "gate_proj|up_proj|down_proj"),
        ("num_key_value_heads", 4, "k_proj|v_proj"),
        ("head_dim", 16, "_proj"),
    ],
)
def test_dimensions_that_the_weights_do_not_have(tiny_copy, field, value, name):
    folder = tiny_copy()
    edit_config(folder, **{field: value})
    refused(folder, rf"({name}|lm_head).* has shape \[.*\], but the config says \[")


def test_integer_weights_are_refused(tiny_copy):
    folder = tiny_copy()
    key = "model.layers.0.mlp.up_proj.weight"
    edit_weights(folder, lambda w: w.update({key: w[key].astype(np.int8)}))
    refused(folder, f"{key} of .* is stored as I8", Unsupported)


@pytest.mark.parametrize("dtype", [np.uint8, np.bool_, np.float32])
def test_mask_tables_of_any_kind_are_no_weights(tiny_copy, dtype):
    folder = tiny_copy("gpt_neox")
    table = {"gpt_neox.layers.0.attention.bias": np.ones((1, 1, 8, 8), dtype)}
    edit_weights(folder, lambda w: w.update(table))
    ref = parse_ref(str(folder))
    found = check_keys(ref, read_spec(ref))
    plain = parse_ref(str(tiny_copy("gpt_neox")))
    counted = [count_parameters(read_spec(r), check_keys(r, read_spec(r))) for r in (ref, plain)]
    assert counted[0] == counted[1]
    assert len(found) == len(check_keys(plain, read_spec(plain))) + 1


def test_rotary_tables_of_old_checkpoints_are_let_through(tiny_copy):
    folder = tiny_copy()
    table = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    edit_weights(folder, lambda w: w.update(table))
    ref = parse_ref(str(folder))
    assert check_keys(ref, read_spec(ref))


def test_bytes_are_those_on_disk(tiny):
    ref = parse_ref(str(tiny()))
    assert weight_bytes(ref, tensor_shapes(ref)) == (tiny() / WEIGHTS).stat().st_size

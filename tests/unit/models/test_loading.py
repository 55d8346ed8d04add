"""Loading: exact weights or a sentence, for folders and GGUF files of every kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from nuggets.data.samples import Sample, encode
from nuggets.errors import BadInput, Damaged, Unsupported
from nuggets.models.loading import check_finite, check_trainable, load_model, load_tokenizer
from nuggets.models.pair import Model, ModelPair
from nuggets.models.references import parse_ref
from nuggets.preflight.headers import preflight

IDS = torch.tensor([[3, 14, 15, 9, 2, 6, 5, 35]])
KINDS = ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"]


def ref(folder: Path):
    return parse_ref(str(folder))


def edit_json(file: Path, **changes) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in (content | changes).items() if v is not None}))


def edit_weights(folder: Path, change) -> Path:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("kind", KINDS)
def test_loaded_logits_equal_those_of_the_library(tiny, kind):
    model = load_model(ref(tiny(kind)))
    theirs = AutoModelForCausalLM.from_pretrained(tiny(kind), dtype=torch.float32).eval()
    torch.testing.assert_close(logits(model), logits(theirs), rtol=0, atol=0)
    assert not model.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize(
    "config", [{"tie_word_embeddings": True}, {"shard_size": "20KB"}, {"attention_bias": True}]
)
def test_tied_sharded_and_biased_folders_load(tiny, config):
    folder = tiny(**config)
    model = load_model(ref(folder))
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert tied is config.get("tie_word_embeddings", False)
    stored = {k: v for f in folder.glob("*.safetensors") for k, v in load_file(f).items()}
    for name, weight in stored.items():
        assert torch.equal(model.state_dict()[name], weight), name


def test_half_precision_weights_are_widened_exactly(tiny, tiny_copy):
    half = edit_weights(tiny_copy(), lambda w: w.update({k: v.bfloat16() for k, v in w.items()}))
    model = load_model(ref(half))
    whole = load_file(tiny() / "model.safetensors")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, whole[name].bfloat16().float())


def test_dtype_is_the_one_asked_for(tiny):
    assert {p.dtype for p in load_model(ref(tiny()), "bfloat16").parameters()} == {torch.bfloat16}
    with pytest.raises(BadInput, match="dtype 'int8' is unknown; write float32"):
        load_model(ref(tiny()), "int8")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(tiny_copy, value, counted):
    def spoil(weights):
        weights["model.layers.1.mlp.down_proj.weight"][3, 5:7] = value

    folder = edit_weights(tiny_copy(), spoil)
    match = (
        r"model\.layers\.1\.mlp\.down_proj\.weight of .* holds 2 NaN or infinite values of 2,048"
    )
    with pytest.raises(BadInput, match=match):
        load_model(ref(folder))
    counted("F9", "weights on disk that are not finite", 1)


def test_values_too_large_for_the_dtype_are_refused(tiny_copy):
    folder = edit_weights(tiny_copy(), lambda w: w["model.norm.weight"].fill_(1e30))
    load_model(ref(folder), "bfloat16")
    with pytest.raises(Damaged, match=r"model\.norm\.weight .* do not fit this dtype"):
        load_model(ref(folder), "float16")


def test_buffers_are_scanned_too():
    module = torch.nn.Module()
    module.register_buffer("table", torch.tensor([1.0, float("nan")]))
    with pytest.raises(Damaged, match="table of x holds 1 NaN"):
        check_finite(module, "x")


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8])
def test_packed_parameters_are_refused(kind):
    module = torch.nn.Module()
    packed = torch.nn.Parameter(torch.zeros(3, dtype=kind), requires_grad=False)
    module.register_parameter("blocks", packed)
    with pytest.raises(Unsupported, match="1 weights of x are not real numbers: blocks"):
        check_trainable(module, "x")


def test_stored_copy_of_a_tied_head_is_one_tensor(tiny_copy):
    def store_head(weights):
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()

    folder = edit_weights(tiny_copy(tie_word_embeddings=True), store_head)
    model = load_model(ref(folder))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    found = preflight(ModelPair(*2 * [Model(ref(folder))])).teacher
    assert found is not None
    assert found.parameters == model.num_parameters()


def test_tied_config_over_two_different_tensors_is_refused(tiny_copy):
    def store_another(weights):
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + 1

    folder = edit_weights(tiny_copy(tie_word_embeddings=True), store_another)
    with pytest.raises(Damaged, match=r"ties head and embedding, but the weights contain two"):
        load_model(ref(folder))


def test_biases_that_the_config_denies_are_refused(tiny, tiny_copy):
    folder = tiny_copy(attention_bias=True)
    edit_json(folder / "config.json", attention_bias=False)
    match = "8 weights of .* are not part of this architecture: .*bias"
    with pytest.raises(Damaged, match=match):
        load_model(ref(folder))


def test_biases_that_the_config_promises_are_missed(tiny_copy):
    folder = tiny_copy()
    edit_json(folder / "config.json", attention_bias=True)
    with pytest.raises(Damaged, match=r"8 weights of .* are missing: .*bias"):
        load_model(ref(folder))


def test_remote_code_is_never_run_nor_asked_for(tiny_copy, tmp_path):
    folder, trap = tiny_copy(), tmp_path / "ran"
    code = f"open({str(trap)!r}, 'w')\nclass C: pass\n"
    (folder / "evil.py").write_text(code)
    edit_json(
        folder / "config.json",
        auto_map={"AutoModelForCausalLM": "evil.C", "AutoConfig": "evil.C"},
    )
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.C", "evil.C"]})
    load_model(ref(folder))
    load_tokenizer(ref(folder))
    assert not trap.exists()


def test_config_fault_that_only_the_library_knows_is_one_sentence(tiny_copy):
    folder = tiny_copy()
    edit_json(folder / "config.json", hidden_act="no_such_function")
    with pytest.raises(
        Damaged, match=r"The model .* cannot be loaded: .*no_such_function"
    ) as caught:
        load_model(ref(folder))
    assert "\n" not in str(caught.value)


def test_pickle_beside_the_weights_is_not_touched(tiny_copy):
    folder = tiny_copy()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04not a model")
    assert load_model(ref(folder))


# Tokenizers


def test_tokenizer_has_end_and_padding(tiny, tiny_copy):
    tokenizer = load_tokenizer(ref(tiny()))
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<eos>", "<pad>")
    folder = tiny_copy()
    edit_json(folder / "tokenizer_config.json", pad_token=None)
    assert load_tokenizer(ref(folder)).pad_token == "<eos>"


def test_tokenizer_without_end_is_refused(tiny_copy):
    folder = tiny_copy()
    edit_json(folder / "tokenizer_config.json", eos_token=None)
    with pytest.raises(BadInput, match="has no end-of-sequence token; set eos_token"):
        load_tokenizer(ref(folder))


def test_ids_beyond_the_embedding_are_refused(tiny_copy):
    folder = tiny_copy()
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["zebra"] = 40
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(
        BadInput, match="gives 'zebra' the id 40, but the embedding has only 40 rows"
    ):
        load_tokenizer(ref(folder))


def with_token(folder: Path, id: int) -> Path:
    content = json.loads((folder / "tokenizer.json").read_text())
    beside = {**content["added_tokens"][-1], "id": id, "content": "<image>"}
    content["added_tokens"].append(beside)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def test_an_added_token_beyond_the_embedding_refuses_only_texts_that_contain_it(tiny_copy):
    folder = with_token(
        tiny_copy("gemma3_text", vocab_size=36), 36
    )  # as Gemma 3 without eyes: its image's token
    assert Model(ref(folder)).vocabulary is not None
    tokenizer = load_tokenizer(ref(folder))
    assert encode(Sample.of("a", "1 2", "3"), tokenizer)[0][-1] == tokenizer.eos_token_id
    for sample in (Sample.of("a", "1 <image>", "3"), Sample.of("a", "1", "<image> 3")):
        with pytest.raises(BadInput, match=r"'<image>', token 36 .* only 36 rows"):
            encode(sample, tokenizer)


def test_an_end_of_sequence_beyond_the_embedding_is_refused(tiny_copy):
    folder = with_token(tiny_copy(vocab_size=36), 36)
    edit_json(folder / "tokenizer_config.json", eos_token="<image>")
    with pytest.raises(BadInput, match=r"'<image>' the id 36, .* only 36 rows"):
        load_tokenizer(ref(folder))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "{" * 1000,
        '{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": -1}, "unk_token": "a"}}',
        '{"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Split", "pattern": '
        '{"Regex": "(((("}, "behavior": "Isolated", "invert": false}, "model": '
        '{"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}',
    ],
)
def test_damaged_tokenizers_are_one_sentence(tiny_copy, text):
    folder = tiny_copy()
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(BadInput, match=r"[Tt]he tokenizer of|has no tokenizer") as caught:
        load_tokenizer(ref(folder))
    assert "\n" not in str(caught.value)


def test_folder_without_tokenizer_is_one_sentence(tiny_copy):
    folder = tiny_copy()
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(BadInput, match=r"[Tt]he tokenizer of|has no tokenizer") as caught:
        load_tokenizer(ref(folder))
    assert "\n" not in str(caught.value)


class PanicException(BaseException):
    """What pyo3 raises when native code panics."""


@pytest.mark.parametrize(
    ("error", "expected", "match"),
    [
        (PanicException("boom\nat x"), Damaged, "The tokenizer of .* cannot be loaded: boom at x"),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
        (MemoryError("full"), MemoryError, "full"),
    ],
)
def test_native_panics_are_told_and_interrupts_pass(tiny, monkeypatch, error, expected, match):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", fail)
    with pytest.raises(expected, match=match):
        load_tokenizer(ref(tiny()))


def test_quantised_weights_are_refused_before_anything_is_built(tiny_copy):
    folder = tiny_copy()
    edit_json(folder / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(Unsupported, match=r"quantised \(bitsandbytes\)"):
        load_model(ref(folder))


@pytest.mark.gpu
def test_model_goes_to_the_gpu_whole(tiny):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = load_model(ref(tiny()), "bfloat16", "cuda:0")
    assert {str(p.device) for p in model.parameters()} == {"cuda:0"}

"""Every kind of bad input that we promise to name: one built case and one asserted sentence each.

Models are spoilt as folders and looked at twice where that is possible: by the preflight, which
reads configs and headers only, and by loading. Longer tests of single parts stand with the parts;
`tests/integration/test_bad_input.py` drives a choice of these through every command.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from nuggets.compute.svd import truncated_svd
from nuggets.data.jsonl import check_leakage, load_samples
from nuggets.data.samples import Sample, encode
from nuggets.disk.commit import commit_folder
from nuggets.disk.manifest import verify_folder
from nuggets.errors import NuggetsError
from nuggets.extraction.adapter import inject, load_adapter, read_factors, save_adapter
from nuggets.extraction.consistent import check_cut
from nuggets.extraction.plan import LoraConfig
from nuggets.extraction.sites import split_sites
from nuggets.models.architecture import LAYER_ROLES
from nuggets.models.loading import load_model, load_tokenizer
from nuggets.models.pair import Model, ModelPair, read_spec
from nuggets.models.references import parse_ref
from nuggets.preflight.headers import Preflight, preflight
from nuggets.preflight.resources import Machine
from nuggets.sensitivity.hooks import compute_sensitivity
from nuggets.workspace.samples import save_upload
from tests.unit.models.test_gguf_headers import make_gguf  # noqa: F401 - a fixture

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
SMALL |= {"num_key_value_heads": 1, "num_hidden_layers": 1}
ROOMY = Machine(memory_free=10**12, ram_free=10**12, disk_free=10**12)


def one_sentence(problem: object) -> str:
    text = str(problem)
    assert "\n" not in text, text
    assert text.endswith("."), text
    return text


# Models: what is spoilt, what is said, and whether configs and headers say it already


class ModelCase(NamedTuple):
    """How a good folder is spoilt, the sentence, and what finds it."""

    spoil: Callable[[Path], None]
    sentence: str
    found_by: str = "preflight"  # or "load", "tokenizer"


def edit(name: str, **changes: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return spoil


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        held = load_file(folder / WEIGHTS)
        change(held)
        save_file(held, folder / WEIGHTS, metadata={"format": "pt"})

    return spoil


def content(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


def raw(header: object, data: bytes = b"") -> Callable[[Path], None]:
    text = json.dumps(header).encode()
    return content(WEIGHTS, struct.pack("<Q", len(text)) + text + data)


def empty_tensors(folder: Path) -> None:
    """Made when it is asked for: every collection of tests would wait for it."""
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    raw({f"t{i}": entry for i in range(100_000)})(folder)


def renamed(new: str) -> Callable[[Path], None]:
    return lambda folder: (folder / WEIGHTS).rename(folder / new) and None


def cut_off(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def linked_out(folder: Path) -> None:
    outside = folder.parent / "outside.safetensors"
    (folder / WEIGHTS).rename(outside)
    (folder / WEIGHTS).symlink_to(outside)


def index_out(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / "outside.safetensors")
    listed = {"model.norm.weight": "../outside.safetensors"}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": listed}))


def words(change: Callable[[dict[str, int]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        held = json.loads((folder / TOKENIZER).read_text())
        change(held["model"]["vocab"])
        (folder / TOKENIZER).write_text(json.dumps(held))

    return spoil


def swap(vocabulary: dict[str, int]) -> None:
    vocabulary["1"], vocabulary["2"] = vocabulary["2"], vocabulary["1"]


def pathological(folder: Path) -> None:
    held = json.loads((folder / TOKENIZER).read_text())
    pattern = {"Regex": "(((("}
    held["pre_tokenizer"] = {
        "type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False,
    }  # fmt: skip
    (folder / TOKENIZER).write_text(json.dumps(held))


def poison(value: float) -> Callable[[Path], None]:
    name = "model.layers.1.mlp.up_proj.weight"
    return tensors(lambda held: held[name].view(-1)[3:4].fill_(value))


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
OVERLAP = {f"t{i}": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for i in range(2)}
HUGE = {"t": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 8]}}
MODELS = {
    "pickled model": ModelCase(renamed("pytorch_model.bin"), "unsafe pickle.*nuggets convert"),
    "huge header": ModelCase(
        content(WEIGHTS, struct.pack("<Q", 99_000_000) + b"{" * 100),
        r"damaged or incomplete: model\.safetensors .*header claims 99,000,000",
    ),
    "overflowing shape": ModelCase(raw(HUGE, b"\0" * 8), "incomplete: .* does not fill its 8"),
    "overlapping tensors": ModelCase(raw(OVERLAP, b"\0" * 8), "incomplete: .* overlaps another"),
    "truncated weights": ModelCase(cut_off, r"damaged or incomplete: model\.safetensors"),
    "empty weights file": ModelCase(content(WEIGHTS, b""), "damaged or incomplete: .*only 0 bytes"),
    "LFS pointer for weights": ModelCase(content(WEIGHTS, LFS), "is a Git LFS pointer"),
    "LFS pointer for the config": ModelCase(content(CONFIG, LFS), "is a Git LFS pointer"),
    "100,000 empty tensors": ModelCase(empty_tensors, "100,000 tensors; at most 50,000"),
    "index pointing outside": ModelCase(index_out, r"points to '\.\./outside\.safetensors'"),
    "link out of the folder": ModelCase(linked_out, "is a link to .* outside its folder"),
    "missing weight": ModelCase(
        tensors(lambda held: held.pop("model.norm.weight")), r"lack 1 tensor\(s\): model\.norm"
    ),
    "config with more layers": ModelCase(
        edit(CONFIG, num_hidden_layers=3), r"lack 9 tensor\(s\): model\.layers\.2\."
    ),
    "config with fewer layers": ModelCase(
        edit(CONFIG, num_hidden_layers=1),
        r"have, unlike the config, 9 tensor\(s\): model\.layers\.1",
    ),
    "vocabulary of 3e7": ModelCase(edit(CONFIG, vocab_size=30_000_000), "vocab_size"),
    "a million layers": ModelCase(edit(CONFIG, num_hidden_layers=1_000_000), "n_layers"),
    "other architecture's config": ModelCase(
        edit(CONFIG, model_type="gemma2"), r"lack 4 tensor\(s\): .*feedforward_layernorm"
    ),
    "fused architecture's config": ModelCase(edit(CONFIG, model_type="phi3"), "lack 4 tensor.*qkv"),
    "unknown architecture": ModelCase(
        edit(CONFIG, model_type="mamba"),
        "'mamba' is not supported: its modules and .* not described here. Supported: llama",
    ),
    "4-bit weights": ModelCase(
        edit(CONFIG, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        r"quantised \(bitsandbytes\)",
    ),
    "8-bit weights": ModelCase(
        tensors(lambda h: h.update({"model.norm.weight": h["model.norm.weight"].to(torch.int8)})),
        r"model\.norm\.weight .* is stored as I8",
    ),
    "other words under the same ids": ModelCase(
        words(swap), "tokens to different ids .*of 40 and 40"
    ),
    "ids beyond the embedding": ModelCase(
        words(lambda held: held.update(zebra=40)), "'zebra' the id 40, .* has only 40 rows"
    ),
    "no end of sequence": ModelCase(
        edit("tokenizer_config.json", eos_token=None), "no end-of-sequence token", "tokenizer"
    ),
    "pathological regex": ModelCase(pathological, "[Tt]he tokenizer of", "tokenizer"),
    "NaN in a weight": ModelCase(poison(float("nan")), r"up_proj\.weight .* 1 NaN", "load"),
    "infinity in a weight": ModelCase(poison(float("inf")), r"up_proj\.weight .* 1 NaN", "load"),
}


def check(folder: Path, tiny: Any) -> Preflight:
    refs = parse_ref(str(folder)), parse_ref(str(tiny(**SMALL)))
    return preflight(ModelPair(*map(Model, refs)), roles=("embed", "q"), machine=ROOMY)


@pytest.mark.parametrize("name", MODELS)
def test_a_bad_model_is_one_sentence(name, tiny, tiny_copy):
    case, folder = MODELS[name], tiny_copy()
    assert check(folder, tiny).ok, "the model is good before it is spoilt"
    case.spoil(folder)
    if case.found_by == "preflight":
        try:
            problems = check(folder, tiny).problems
        except NuggetsError as refused:  # it is no model at all
            problems = (str(refused),)
        assert re.search(case.sentence, one_sentence(problems[0])), problems
    else:
        load = load_tokenizer if case.found_by == "tokenizer" else load_model
        with pytest.raises(NuggetsError, match=case.sentence) as refused:
            load(parse_ref(str(folder)))
        one_sentence(refused.value)


# GGUF


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("truncated", r"damaged or incomplete: tiny\.gguf"),
        ("version 1", "is GGUF version 1; versions 2 and 3"),
        ("huge counts", r"damaged or incomplete: tiny\.gguf \(it claims 1,152,9"),
        ("missing tensor", r"lack 1 tensor\(s\): model\.layers\.1\.mlp\.up_proj"),
        ("no tokenizer", "tokenizer of .*tiny.gguf|has no tokenizer"),
    ],
)
def test_a_bad_gguf_is_one_sentence(name, sentence, make_gguf):  # noqa: F811
    left_out = "layers.1.mlp.up_proj" if name == "missing tensor" else "\0"
    file = make_gguf(leave_out=left_out, tokens=name != "no tokenizer")
    starts = {
        "truncated": file.read_bytes()[:-1],
        "version 1": b"GGUF" + struct.pack("<III", 1, 5, 5) + b"\0" * 64,
        "huge counts": b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0) + b"\0" * 64,
    }
    file.write_bytes(starts.get(name, file.read_bytes()))
    load = load_tokenizer if name == "no tokenizer" else load_model
    with pytest.raises(NuggetsError, match=sentence) as refused:
        load(parse_ref(str(file)))
    one_sentence(refused.value)


def test_a_packed_gguf_gets_gradients(make_gguf):  # noqa: F811
    """transformers leaves the blocks packed: bytes, which have no gradient."""
    ref = parse_ref(str(make_gguf(quantise=True)))
    map = compute_sensitivity(load_model(ref), read_spec(ref), [([3, 4, 5], [-100, 4, 5])])
    assert all(total > 0 for total in map.totals.sum(axis=0))


# Remote code, tokenizers without what others have


def test_remote_code_is_not_run(tiny_copy, tmp_path):
    folder, trap = tiny_copy(), tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(trap)!r}, 'w')\nclass C: pass\n")
    edit(CONFIG, auto_map={"AutoModelForCausalLM": "evil.C", "AutoConfig": "evil.C"})(folder)
    load_model(parse_ref(str(folder)))
    assert not trap.exists()


def test_a_tokenizer_without_padding_pads_with_the_end(tiny_copy):
    folder = tiny_copy()
    edit("tokenizer_config.json", pad_token=None)(folder)
    assert load_tokenizer(parse_ref(str(folder))).pad_token == "<eos>"


def test_a_tokenizer_without_a_chat_template_gets_a_plain_prompt(tiny):
    tokenizer = load_tokenizer(parse_ref(str(tiny())))
    assert tokenizer.chat_template is None
    ids, labels = encode(Sample.of("a", "1 2", "3"), tokenizer)
    assert tokenizer.decode([i for i, label in zip(ids, labels, strict=True) if label != -100])


# Pairs


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("deeper", {"num_hidden_layers": 3}, "deeper than the teacher: 3 > 2"),
        ("wider", {"hidden_size": 64}, "wider than the teacher: 64 > 32"),
        ("FFN", {"intermediate_size": 96}, "wider in the FFN than the teacher: 96 > 64"),
        ("keys", {"num_key_value_heads": 4}, "4 head groups > 2"),
        ("MHA to GQA", {"num_key_value_heads": 1}, "4 query heads .* and the teacher only 2"),
        ("other head_dim", {"head_dim": 4}, "heads of 8 and 4 dimensions"),
    ],
)
def test_what_no_cut_can_make_is_refused(name, changes, sentence, tiny):
    teacher, student = (read_spec(parse_ref(str(tiny(**c)))) for c in ({}, changes))
    with pytest.raises(NuggetsError, match=sentence) as refused:
        check_cut(teacher, student)
    one_sentence(refused.value)


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("wider", {"hidden_size": 64}, r"48 × 64 > 48 × 32|64 × 64 > .* Swap the two models\."),
        ("wider and shallower", {"hidden_size": 64, "num_hidden_layers": 1}, "Swap the two"),
    ],
)
def test_a_pair_of_which_nothing_can_be_cut_is_refused(name, changes, sentence, tiny):
    teacher, student = (read_spec(parse_ref(str(tiny(**c)))) for c in ({}, changes))
    with pytest.raises(NuggetsError, match=sentence) as refused:
        split_sites(teacher, student, [(0, 0)], LAYER_ROLES)
    one_sentence(refused.value)


def test_a_lora_on_a_tied_head_does_not_move_the_embedding(tiny):
    ref = parse_ref(str(tiny(tie_word_embeddings=True)))
    model, spec = load_model(ref), read_spec(ref)
    before = model.get_input_embeddings().weight.detach().clone()
    factors = {"lm_head": truncated_svd(torch.ones(spec.shape("head")), 2)}
    merged = inject(model, factors, LoraConfig(r=2)).merge_and_unload()
    assert torch.equal(merged.get_input_embeddings().weight, before)


# Adapters


def adapter(folder: Path, student: Path) -> Path:
    """A good adapter for the student, committed with its manifest."""
    ref = parse_ref(str(student))
    spec = read_spec(ref)
    factors = {spec.module("q", i): truncated_svd(torch.ones(spec.shape("q")), 2) for i in (0, 1)}
    peft = inject(load_model(ref), factors, LoraConfig(r=2))
    with commit_folder(folder) as temp:
        save_adapter(temp, read_factors(peft), dict.fromkeys(factors, 1.0), spec, "s", "card")
    return folder


def change_adapter(change: Callable[[dict[str, torch.Tensor], str], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        held = load_file(path)
        change(held, sorted(held)[0])
        save_file(held, path, metadata={"format": "pt"})

    return spoil


def flip_bit(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def truncate(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


def pickle_it(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


ADAPTERS = {
    "pickled": (pickle_it, "unsafe pickle"),
    "truncated": (truncate, r"damaged or incomplete: adapter_model\.safetensors"),
    "bit flipped": (flip_bit, "adapter_model.safetensors"),
    "of another depth": (
        change_adapter(lambda h, n: h.update({n.replace("layers.0", "layers.7"): h[n].clone()})),
        "layers.7.* does not exist in the model",
    ),
    "with a missing key": (change_adapter(lambda h, n: h.pop(n)), "does not fit .* is missing"),
    "of another shape": (
        change_adapter(lambda h, n: h.update({n: h[n][:, :-1].clone()})),
        "does not fit this model",
    ),
    "with NaN": (change_adapter(lambda h, n: h[n].view(-1)[:1].fill_(float("nan"))), "NaN"),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_bad_adapter_is_refused_before_it_is_used(name, tiny, tmp_path):
    spoil, sentence = ADAPTERS[name]
    folder = adapter(tmp_path / "adapter", tiny())
    verify_folder(folder)
    student = AutoModelForCausalLM.from_pretrained(tiny())
    load_adapter(student, folder)
    spoil(folder)
    with pytest.raises(NuggetsError):
        verify_folder(folder)
    fresh = AutoModelForCausalLM.from_pretrained(tiny())
    use = verify_folder if name == "bit flipped" else lambda f: load_adapter(fresh, f)
    with pytest.raises(NuggetsError, match=sentence):
        use(folder)


def test_a_rank_above_the_matrix_is_refused():
    """Not capped: a smaller adapter than the one asked for would be compared with others."""
    with pytest.raises(NuggetsError, match=r"Rank 17 is too large: .* 16 × 32 .*Lower lora\.r"):
        LoraConfig(r=17).rank("q", (16, 32))


def test_blocks_without_gradients_stop_the_measurement(tiny):
    ref = parse_ref(str(tiny()))
    model = load_model(ref)
    model.model.layers[1].mlp.forward = lambda hidden: hidden.detach() * 0  # as offloaded ones are
    with pytest.raises(NuggetsError, match=r"received no gradient .* may be offloaded") as refused:
        compute_sensitivity(model, read_spec(ref), [([3, 4, 5], [-100, 4, 5])])
    one_sentence(refused.value)


# Samples


GOOD = b'{"id": "a", "prompt": "p", "completion": "c"}\n'
LINES = {
    "bad line": (b'{"prompt": ', "line 2: not JSON"),
    "deep nesting": (b"[" * 100_000, "line 2: nested too deeply"),
    "NaN": (b'{"w": NaN}', "line 2: NaN is not a JSON number"),
    "wrong roles": (
        b'{"messages": [{"role": "assistant", "content": "x"}]}',
        "line 2: roles must alternate between user and assistant",
    ),
    "too long": (b'"' + b"a" * 1_000_001, "line 2: .*longer than 1,000,000 bytes|line 2"),
    "duplicate id": (GOOD, "line 2: its id 'a' was already used in line 1"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_bad_line_is_named_with_its_number(name, tmp_path):
    line, sentence = LINES[name]
    file = tmp_path / "data.jsonl"
    file.write_bytes(GOOD + line)
    with pytest.raises(NuggetsError, match=sentence) as refused:
        load_samples(file)
    one_sentence(refused.value)


def test_an_empty_file_of_samples_is_refused(tmp_path):
    (tmp_path / "data.jsonl").write_bytes(b"\n\n")
    with pytest.raises(NuggetsError, match="contains no samples"):
        load_samples(tmp_path / "data.jsonl")


def test_a_sample_without_room_for_its_answer_is_refused(tiny):
    tokenizer = load_tokenizer(parse_ref(str(tiny())))
    sample = Sample.of("a", " ".join("1" * 50), "2")
    with pytest.raises(NuggetsError, match="'a' has no room for an answer token within 16 tokens"):
        encode(sample, tokenizer, 16)


def test_seeds_that_stand_in_the_test_split_are_refused():
    seeds = [Sample.of("a", "one", "1")]
    with pytest.raises(NuggetsError, match="1 of 1 test samples are also"):
        check_leakage(seeds, [Sample.of("b", " one ", "1")])


# What is shown, uploaded, and too large


def test_no_page_renders_text_of_users_as_html():
    """`tests/app` shows hostile text on every page; this holds for pages that come later."""
    root = Path(__file__).parents[2]
    files = [*root.glob("pages/*.py"), *root.glob("nuggets/ui/**/*.py")]
    assert len(files) > 10
    assert not [file for file in files if "unsafe_allow_html=True" in file.read_text()]


def archive() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as file:
        file.writestr("../../evil.jsonl", GOOD)
    return held.getvalue()


def test_an_archive_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path))
    with pytest.raises(NuggetsError, match="archive"):
        save_upload(archive())
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_an_upload_that_is_refused_is_called_by_its_uploaders_name(tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path))
    for content in (GOOD + b"{}\n", b"", b"not json"):
        for name, said in (("mine.jsonl", "mine.jsonl"), ("", "The upload")):
            with pytest.raises(NuggetsError) as refused:
                save_upload(content, checked_as=name)
            assert said in str(refused.value)
            assert ".unchecked" not in str(refused.value)
            assert str(tmp_path) not in str(refused.value)


def test_an_uploads_name_is_never_a_path(tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    kept = save_upload(GOOD, "../../../outside.jsonl")
    assert re.fullmatch(r"[0-9a-f]{16}\.jsonl", kept.name)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize(
    ("name", "short", "sentence"),
    [
        (
            "RAM",
            {"ram_free": 1000, "memory_free": 1000},
            "Stage load needs about .* of memory, but",
        ),
        ("VRAM", {"device": "cuda:0", "memory_free": 1000}, "of memory on cuda:0, but"),
        ("disk", {"disk_free": 1000}, "B of disk are needed, but 1.00 kB are free"),
    ],
)
def test_a_machine_too_small_is_told_before_anything_is_loaded(name, short, sentence, tiny):
    refs = [parse_ref(str(folder)) for folder in (tiny(), tiny(**SMALL))]
    found = preflight(ModelPair(*map(Model, refs)), machine=ROOMY.model_copy(update=short))
    assert any(re.search(sentence, one_sentence(p)) for p in found.problems), found.problems

"""What was checked is what is loaded: nothing else in a model's folder reaches a loader."""

from __future__ import annotations

import ast
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import nuggets
from nuggets.errors import BadInput, NuggetsError
from nuggets.models import references
from nuggets.models.loading import checked_folder, load_model, load_tokenizer
from nuggets.models.pair import Model, ModelPair, read_spec
from nuggets.models.references import SIDE_FILES, model_digest, model_files, parse_ref
from nuggets.models.stored_weights import StoredWeights
from nuggets.models.vocabulary import vocabulary
from nuggets.preflight.headers import preflight
from nuggets.sensitivity.streaming import stream_sensitivity

IDS = torch.tensor([[3, 14, 15, 9, 2, 6, 5, 35]])


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(input_ids=IDS, use_cache=False).logits


def put_adapter(folder: Path) -> None:
    """An adapter beside the weights that moves every logit."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    peft = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_" in name:
                parameter.fill_(0.3)
    peft.save_pretrained(folder)


def put_other_tokenizer(folder: Path) -> None:
    """A tokenizer for "another version", in which two words changed places."""
    content = json.loads((folder / "tokenizer.json").read_text())
    words = content["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    (folder / "tokenizer.4.0.0.json").write_text(json.dumps(content))
    config = folder / "tokenizer_config.json"
    named = {"fast_tokenizer_files": ["tokenizer.json", "tokenizer.4.0.0.json"]}
    config.write_text(json.dumps(json.loads(config.read_text()) | named))


def ways(folder: Path) -> dict[str, str | None]:
    """What each way to a model says: a sentence, or None where it goes on."""
    ref = parse_ref(str(folder))
    problems = preflight(ModelPair(Model(ref), Model(ref))).problems
    said: dict[str, str | None] = {"preflight": problems[0] if problems else None}
    looks = {
        "load": lambda: load_model(ref),
        "tokenizer": lambda: load_tokenizer(ref),
        "weights": lambda: StoredWeights(ref, read_spec(ref)),
        "blocks": lambda: stream_sensitivity(ref, [([3, 4, 2], [-100, 4, 2])]),
        "digest": lambda: references.model_digest(ref),
    }
    for name, look in looks.items():
        try:
            look()
            said[name] = None
        except NuggetsError as problem:
            said[name] = str(problem)
    return said


def test_an_adapter_beside_the_weights_is_refused_in_one_sentence_everywhere(tiny_copy):
    folder = tiny_copy()
    before = references.model_digest(parse_ref(str(folder)))
    put_adapter(folder)
    said = ways(folder)
    assert len(set(said.values())) == 1, said
    assert "holds whole weights and an adapter (adapter_config.json)" in str(said["load"])
    assert "Move the adapter into a folder of its own" in str(said["load"])
    for file in folder.glob("adapter_*"):
        file.unlink()
    assert set(ways(folder).values()) == {None}
    assert references.model_digest(parse_ref(str(folder))) == before


def test_an_adapter_could_not_reach_the_loader_if_it_were_not_refused(tiny_copy, monkeypatch):
    folder = tiny_copy()
    before = logits(load_model(parse_ref(str(folder))))
    put_adapter(folder)
    theirs = logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())
    assert (theirs - before).abs().max() > 0.1, "this adapter proves nothing"
    monkeypatch.setattr(references, "refuse_adapter", lambda ref: None)
    torch.testing.assert_close(logits(load_model(parse_ref(str(folder)))), before, rtol=0, atol=0)


def test_the_tokenizer_that_is_loaded_is_the_one_that_was_compared(tiny_copy):
    folder = tiny_copy()
    put_other_tokenizer(folder)
    compared = vocabulary(parse_ref(str(folder))).tokens
    assert AutoTokenizer.from_pretrained(folder).get_vocab() != compared, "this proves nothing"
    assert load_tokenizer(parse_ref(str(folder))).get_vocab() == compared


@pytest.mark.parametrize(
    "named", [{"tokenizer_file": "/etc/passwd"}, {"vocab_file": "../x.model"}, {"vocab": {"a": 5}}]
)
def test_words_and_files_named_in_the_tokenizers_config_are_not_looked_at(tiny_copy, named):
    folder = tiny_copy()
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | named))
    tokenizer = load_tokenizer(parse_ref(str(folder)))
    assert tokenizer.get_vocab() == vocabulary(parse_ref(str(folder))).tokens
    assert not named.keys() & tokenizer.init_kwargs.keys() - {"tokenizer_file", "vocab_file"}


def test_a_config_that_names_another_config_is_refused(tiny_copy):
    folder = tiny_copy()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.4.0.0.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    named = config | {"configuration_files": ["config.json", "config.4.0.0.json"]}
    (folder / "config.json").write_text(json.dumps(named))
    ref = parse_ref(str(folder))
    with pytest.raises(BadInput, match="sets configuration_files") as refused:
        load_model(ref)
    assert preflight(ModelPair(Model(ref), Model(ref))).problems[0] == str(refused.value)


@pytest.mark.parametrize("name", SIDE_FILES)
def test_a_side_file_that_leads_outside_is_refused_in_one_sentence(tiny_copy, tmp_path, name):
    folder, outside = tiny_copy(), tmp_path / "outside"
    source = folder / name
    outside.write_bytes(source.read_bytes() if source.exists() else b"{}")
    source.unlink(missing_ok=True)
    source.symlink_to(outside)
    said = ways(folder)
    assert len(set(said.values())) == 1, said
    assert f"{name} is a link to {outside}" in str(said["load"])


def hub_like(source: Path, model: Path) -> Path:
    """A snapshot as the hub's cache keeps it: links to blobs of the same model."""
    blobs, snapshot = model / "blobs", model / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(source.iterdir())):
        (blobs / str(number)).write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(os.path.relpath(blobs / str(number), snapshot))
    return snapshot


@pytest.mark.parametrize("shards", ["1GB", "20KB"])
def test_a_snapshot_of_the_hubs_cache_loads_as_the_folder_does(tiny, tmp_path, shards):
    plain = tiny(shard_size=shards)
    ref = parse_ref(str(hub_like(plain, tmp_path / "models--o--n")))
    expected = logits(load_model(parse_ref(str(plain))))
    torch.testing.assert_close(logits(load_model(ref)), expected, rtol=0, atol=0)
    assert load_tokenizer(ref).get_vocab() == vocabulary(ref).tokens
    assert preflight(ModelPair(Model(ref), Model(ref))).ok
    assert references.model_digest(ref) == references.model_digest(parse_ref(str(plain)))


def test_only_the_hubs_cache_may_keep_files_elsewhere(tiny, tmp_path):
    snapshot = hub_like(tiny(), tmp_path / "anything")
    said = str(ways(snapshot)["load"])
    assert "config.json is a link to" in said
    assert "outside its folder" in said
    inside = hub_like(tiny(), tmp_path / "models--o--n")
    (tmp_path / "models--o--n" / "own.json").write_text("{}")
    (inside / "added_tokens.json").symlink_to(tmp_path / "models--o--n" / "own.json")
    assert "added_tokens.json is a link to" in str(ways(inside)["load"])


DECOYS = (
    "config.4.0.0.json", "tokenizer.4.0.0.json", "tekken.json", "tokenizer.model.v3",
    "tiktoken.model", "adapter_model.safetensors", "pytorch_model.bin", "evil.py",
    "additional_chat_templates/other.jinja", "custom_generate/generate.py",
)  # fmt: skip


def test_loaders_open_no_file_that_was_not_checked(tiny_copy):
    folder = tiny_copy()
    put_other_tokenizer(folder)
    for name in DECOYS:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    ref, opened, listening = parse_ref(str(folder)), set(), [True]

    def listen(event: str, arguments: tuple) -> None:
        if listening and event == "open" and isinstance(arguments[0], str | Path):
            opened.add(str(arguments[0]))

    sys.addaudithook(listen)
    load_model(ref)
    tokenizer = load_tokenizer(ref)
    listening.clear()
    allowed = {str(file) for file in model_files(ref).values()}
    assert {path for path in opened if path.startswith(str(folder))} <= allowed
    assert tokenizer.chat_template is None
    assert any("nuggets-model-" in path for path in opened), "nothing was heard"


def test_the_private_folder_holds_links_and_is_gone_afterwards(tiny_copy):
    folder = tiny_copy()
    (folder / "notes.txt").write_text("mine")
    ref = parse_ref(str(folder))
    with checked_folder(ref) as private:
        assert {file.name for file in private.iterdir()} == set(model_files(ref))
        weights = private / "model.safetensors"
        assert weights.is_symlink()
        assert weights.samefile(folder / "model.safetensors")
        assert private.stat().st_mode & 0o077 == 0
    assert not private.exists()


def test_beside_a_gguf_file_nothing_is_read(tmp_path):
    for name in ("model.gguf", "adapter_config.json", "tokenizer_config.json", "config.json"):
        (tmp_path / name).write_text("{}")
    with checked_folder(parse_ref(str(tmp_path / "model.gguf"))) as private:
        assert [file.name for file in private.iterdir()] == ["model.gguf"]


def test_models_tell_where_they_come_from_and_not_where_they_were_put(tiny):
    ref = parse_ref(str(tiny()))
    assert load_model(ref).name_or_path == load_tokenizer(ref).name_or_path == str(tiny())


def test_no_other_module_hands_a_folder_to_a_loader():
    """Of models and tokenizers; adapters are PEFT's, and checked before."""
    found = set()
    for path in Path(nuggets.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "from_pretrained":
                found.add((path.name, ast.unparse(node.value)))
    assert found == {
        ("loading.py", "transformers.AutoModelForCausalLM"),
        ("loading.py", "transformers.AutoTokenizer"),
        ("streamed.py", "transformers.AutoConfig"),
        ("adapter.py", "PeftModel"),
    }


def test_a_file_rewritten_with_its_old_size_and_date_is_another_file(tiny_copy, tmp_path):
    folder = tiny_copy()
    path = folder / "model.safetensors"
    before, times = model_digest(parse_ref(str(folder)), tmp_path), path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == times.st_size
    assert path.stat().st_mtime_ns == times.st_mtime_ns
    assert model_digest(parse_ref(str(folder)), tmp_path) != before


def test_every_file_of_a_data_set_on_this_machine_is_part_of_its_digest(tmp_path):
    from nuggets.planning.cache import digest_files
    from nuggets.recipe import DataConfig, TransferRecipe

    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    recipe = TransferRecipe(data=DataConfig(file=f"{folder}:train"))
    before = digest_files(recipe)
    (folder / "train.jsonl").write_text('{"prompt": "a", "completion": "c"}\n')
    assert before
    assert digest_files(recipe) != before


REFERENCE = {
    "sensitivity": lambda file: {"sensitivity": {"score": {"kind": "specific", "against": [file]}}},
    "an arm's score": lambda file: {
        "arms": [
            {"kind": "plain"},
            {"kind": "paper", "score": {"kind": "contrast", "against": [file]}},
        ]
    },
    "an arm's task": lambda file: {
        "arms": [{"kind": "plain"}, {"kind": "wrong_task", "task": file}]
    },
}


@pytest.mark.parametrize("named", REFERENCE.values(), ids=REFERENCE)
def test_nothing_is_reused_after_the_samples_of_another_skill_changed(tmp_path, named):
    from nuggets.builtin.resolve import pair_named
    from nuggets.planning.cache import digest_files
    from nuggets.recipe import TransferRecipe
    from nuggets.stages.reuse import KnownCells
    from nuggets.train.arms.family import Paper, Plain

    file = tmp_path / "other.jsonl"
    recipe = TransferRecipe.model_validate(named(str(file)))
    pair = pair_named(recipe.teacher, recipe.student)

    def entries(text):
        file.write_text(text)
        known = KnownCells(recipe, pair, digest_files(recipe))
        return [known._entry(arm, 0) for arm in (Paper(), Plain())]

    paper, plain = entries('{"prompt": "a", "completion": "b"}\n')
    changed, still = entries('{"prompt": "a", "completion": "c"}\n')
    assert changed != paper
    assert still == plain  # it needs no teacher, and thus no map
    assert entries('{"prompt": "a", "completion": "b"}\n') == [paper, plain]


def test_the_samples_of_a_data_set_on_the_hub_are_part_of_its_digest(monkeypatch):
    from nuggets.planning import cache, datasets
    from nuggets.recipe import DataConfig, TransferRecipe

    def digest(answer):
        rows = [(1, {"prompt": "a", "completion": answer}), (2, {"prompt": "b", "completion": "c"})]
        monkeypatch.setattr("nuggets.data.sources.dataset_rows", lambda ref, limit: iter(rows))
        datasets._parsed.cache_clear()  # as in another process
        return cache.digest_files(TransferRecipe(data=DataConfig(file="org/name:train")))

    before = digest("b")
    assert set(before) == {"data.file"}
    assert digest("b") == before
    assert digest("moved") != before
    datasets._parsed.cache_clear()

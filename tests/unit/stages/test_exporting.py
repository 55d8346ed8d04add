"""What `nuggets export` writes for a student whose head is its embedding."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub.errors import HfHubHTTPError
from peft import PeftModel
from transformers import AutoModelForCausalLM

from nuggets import api
from nuggets.disk.manifest import MANIFEST, write_manifest
from nuggets.errors import BadInput
from nuggets.extraction.adapter import load_adapter, save_adapter, untie
from nuggets.models.architecture import ArchSpec
from nuggets.runs.results import cell_folder
from tests.app.measured import write_benchmark

IDS = torch.tensor([[3, 7, 12, 5]])


@pytest.fixture
def made(tiny, tmp_path, monkeypatch):
    """A run with one trained arm on embedding, queries and head; its student; what it computes."""
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    student = tiny("llama", seed=3, tie_word_embeddings=True)
    roles = "extraction.roles=[embed,q,head]"
    teacher = tiny("llama", seed=4, num_hidden_layers=3)
    options = [
        f"teacher={teacher}",
        f"student={student}",
        "data.task=reverse",
        roles,
        "lora.r=2",
        "seeds=[0]",
        "device=cpu",
        "arms=[{kind: plain}, {kind: paper}, {kind: permuted}]",
    ]
    run = api.create(api.load_recipe("quick", options))
    spec = ArchSpec.from_config(json.loads((student / "config.json").read_text()))
    generator, weights = torch.Generator().manual_seed(0), {}
    for role, layer in (("embed", None), ("q", 1), ("head", None)):
        out, width = spec.shape("q" if role == "q" else "head")
        shape = (width, out) if role == "embed" else (out, width)
        a = torch.randn(2, shape[1], generator=generator)
        weights[spec.module(role, layer)] = a, torch.randn(shape[0], 2, generator=generator)
    cell = cell_folder(run, "paper", 0)
    (cell / "adapter").mkdir(parents=True)
    scales = dict.fromkeys(weights, 0.2)
    save_adapter(cell / "adapter", weights, scales, spec, str(student), "# paper\n")
    write_manifest(cell)
    model = AutoModelForCausalLM.from_pretrained(student)
    untie(model, weights)
    with torch.no_grad():
        expected = load_adapter(model, cell / "adapter").eval()(IDS).logits
    return run, student, expected


@pytest.mark.filterwarnings("ignore:.*(tied layer|tie_word_embeddings|no longer tied)")
def test_peft_alone_merges_what_was_exported_for_a_tied_student(made, tmp_path):
    run, student, expected = made
    api.export(run, tmp_path / "out", "paper")
    plain = AutoModelForCausalLM.from_pretrained(student).eval()
    peft = PeftModel.from_pretrained(plain, str(tmp_path / "out")).eval()
    with torch.no_grad():
        torch.testing.assert_close(peft(IDS).logits, expected, atol=5e-5, rtol=0)
        merged = peft.merge_and_unload()(IDS).logits
    torch.testing.assert_close(merged, expected, atol=5e-5, rtol=0)
    api.export(run, tmp_path / "whole", "paper", merged=True)
    with torch.no_grad():
        whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole").eval()(IDS).logits
    torch.testing.assert_close(whole, expected, atol=5e-5, rtol=0)


class FakeHub:
    """What huggingface_hub would be asked to do; `there` is what the model has before."""

    there: tuple[str, ...] = ()
    private: bool = True
    refuses: Exception | None = None

    def __init__(self, asked):
        self.asked = asked

    def create_repo(self, repo, **given):
        self.asked.append(("create", repo, given))
        if self.refuses:
            raise self.refuses

    def model_info(self, repo, revision=None):
        files = [SimpleNamespace(rfilename=name) for name in (".gitattributes", *self.there)]
        return SimpleNamespace(siblings=files, private=self.private, card_data=None)

    def upload_folder(self, repo_id, folder_path, commit_message):
        sent = {path.name: path.read_bytes() for path in folder_path.iterdir()}
        self.asked.append(("upload", repo_id, sent))


@pytest.fixture
def hub(monkeypatch):
    """What was asked of the hub, and the fake that is asked."""
    asked = []
    fake = FakeHub(asked)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: TOKEN)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return asked, fake


TOKEN = "hf_" + "secretsecret"


def test_a_dry_run_shows_all_that_would_be_sent_and_sends_nothing(made, hub, nuggets, tmp_path):
    run, student, _ = made
    before = set(tmp_path.rglob("*"))
    ended = nuggets("export", run.id, "--push", "me/small-reverse", "--dry-run", "--json")
    assert (ended.code, hub[0]) == (0, [])
    assert set(tmp_path.rglob("*")) == before
    files, card = ended.json["files"], ended.json["card"]
    assert files.keys() == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert files["README.md"] == len(card.encode())
    front = yaml.safe_load(card.split("---")[1])
    assert front == {"library_name": "peft", "tags": ["nuggets", "knowledge-transfer", "lora"]}
    for word in ("arm `paper`", "The run has no report", student.name, "not known here", "lora:"):
        assert word in card
    told = nuggets("export", run.id, "--push", "me/small-reverse", "--dry-run")
    assert 'PeftModel.from_pretrained(student, "me/small-reverse")' in told.out
    assert "Nothing was sent" in told.err
    assert TOKEN not in ended.out + told.out + told.err


def test_the_card_has_the_verdict_every_arm_and_both_licences(tmp_path, monkeypatch, hub):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    run = write_benchmark(api.load_recipe("quick", ["device=cpu"]))
    card = api.publish(run, "me/x", "paper", dry_run=True).card
    report = api.report(run)
    assert f"**{report.verdict.sentence}**" in card
    for arm in report.arms.values():
        low, high = arm.interval
        assert f"| {arm.name} | {arm.value:.3f} | [{low:.3f}, {high:.3f}] |" in card
    assert "student independent: apache-2.0\n- teacher teacher: apache-2.0" in card
    assert yaml.safe_load(card.split("---")[1])["license"] == "apache-2.0"
    assert 'model_folder("independent")' in card
    again = yaml.safe_load(card.split("```yaml")[1].split("```")[0])
    assert api.parse_recipe(yaml.safe_dump(again)) == api.job_of(run)


@pytest.mark.parametrize(
    ("home", "merged"), [("home", []), ("josé's home", []), ("josé's home", ["--merged"])]
)
def test_what_is_sent_names_no_place_of_this_machine_and_no_token(
    made, hub, nuggets, tmp_path, home, merged
):
    run, student, _ = made
    moved = tmp_path / home / student.name
    shutil.copytree(student, moved)
    for file in (run.folder / "recipe.yaml", *run.folder.rglob("adapter_config.json")):
        kept = api.parse_yaml(file.read_text(), file.name)  # JSON is YAML
        write = json.dumps if file.suffix == ".json" else yaml.safe_dump
        kept |= dict.fromkeys({"student", "base_model_name_or_path"} & kept.keys(), str(moved))
        file.write_text(write(kept))
    api.strangers.RunStore(run.folder.parent).adopt(run.recipe_text())
    (cell_folder(run, "paper", 0) / MANIFEST).unlink()
    write_manifest(cell_folder(run, "paper", 0))
    ended = nuggets("export", run.id, "--push", "me/small", *merged)
    assert (ended.code, ended.err.split()[-1]) == (0, "https://huggingface.co/me/small.")
    create, upload = hub[0]
    assert create == ("create", "me/small", {"private": True, "exist_ok": True})
    sent = upload[2]
    if not merged:
        assert json.loads(sent["adapter_config.json"])["base_model_name_or_path"] == student.name
    for name, content in sent.items():
        for secret in (str(tmp_path.parent), str(student.parent), TOKEN, "jos"):
            assert secret.encode() not in content, name
    assert not list((tmp_path / "home").glob("publish-*"))


def test_a_whole_model_is_published_as_one(made, hub):
    run, _, _ = made
    found = api.publish(run, "me/whole", "paper", merged=True, private=False, dry_run=True)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= found.files.keys()
    assert "convert_hf_to_gguf.py" in found.card
    assert "library_name: transformers" in found.card
    assert found.private is False


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"there": ("model.safetensors",)}, "me/new exists and has 1 files"),
        ({"private": False}, "me/new exists and is not private"),
        ({"refuses": OSError("gone")}, "failed: gone"),
    ],
)
def test_the_hub_refuses_in_a_sentence_and_nothing_is_overwritten(made, hub, change, words):
    vars(hub[1]).update(change)
    with pytest.raises(BadInput, match=words):
        api.publish(made[0], "me/new", "paper")
    assert [what for what, *_ in hub[0]] == ["create"]


def test_a_token_that_may_not_write_is_told_without_it(made, hub):
    answer: Any = SimpleNamespace(status_code=403, headers={}, request=None)
    hub[1].refuses = HfHubHTTPError(f"Forbidden for {TOKEN}", response=answer)
    with pytest.raises(BadInput, match="Your token may not write to me/new") as told:
        api.publish(made[0], "me/new", "paper")
    assert TOKEN not in str(told.value)


def test_without_a_token_nothing_is_asked(made, hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(BadInput, match="Set HF_TOKEN"):
        api.publish(made[0], "me/new", "paper")
    assert hub[0] == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "either --out FOLDER or --push"),
        (("--out", "x", "--push", "me/x"), "either --out FOLDER or --push"),
        (("--out", "x", "--dry-run"), "belong to --push"),
        (("--push", "no name"), "has the form org/name"),
    ],
)
def test_export_says_which_options_go_together(made, nuggets, options, words):
    ended = nuggets("export", made[0].id, *options)
    assert ended.code == 2
    assert words in " ".join(ended.err.split())


def test_an_export_apart_is_made_by_a_child(made, tmp_path):
    cell = cell_folder(made[0], "paper", 0)
    shutil.rmtree(cell / "adapter")  # merging would load torch
    (cell / MANIFEST).unlink()
    (cell / "model").mkdir()
    (cell / "model" / "config.json").write_text("{}")
    write_manifest(cell)
    api.export_apart(made[0], tmp_path / "out", "paper", 0, merged=True)
    assert (tmp_path / "out" / "config.json").is_file()

"""What `nuggets export` writes for a student whose head is its embedding."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from nuggets import api
from nuggets.disk.manifest import write_manifest
from nuggets.extraction.adapter import load_adapter, save_adapter, untie
from nuggets.models.architecture import ArchSpec
from nuggets.runs.results import cell_folder

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

"""A student deeper and wider in the FFN than its teacher: part is cut, the rest starts plain."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from nuggets.extraction.plan import ExtractionConfig, LoraConfig
from nuggets.extraction.selectors import ConsistentSelector, WindowSelector
from nuggets.train.arms.family import Gaussian, Paper, Permuted, Plain, RandomLayerChoice
from nuggets.train.cells import run_cell
from tests.unit.train.tiny_lab import letters, make_lab

IDS = torch.tensor([[3, 14, 15, 9, 21, 6, 5, 35]])
LARGER = {"num_hidden_layers": 5, "intermediate_size": 80}


@pytest.mark.parametrize("selector", [WindowSelector(), ConsistentSelector()])
@pytest.mark.parametrize("energy", [None, 0.8])
def test_step_zero_is_the_student_and_every_matrix_is_trained(tiny, selector, energy):
    extraction = ExtractionConfig(matrices=selector)
    lab = make_lab(tiny, LoraConfig(r=4, alpha=12, energy=energy), extraction, **LARGER)
    plan = lab.plan()
    assert (len(plan.items), len(plan.plain)) == (12, 23)
    assert plan.plain_sentence.startswith("23 of 35 matrices start as plain LoRA")
    expected = lab.student(IDS).logits
    for arm in (Paper(), Permuted(), Gaussian(), RandomLayerChoice(), Plain()):
        trainee = arm.build(lab, 0)
        assert set(trainee.factors()) == set(lab.ranks())
        assert len(lab.ranks()) == 35
        torch.testing.assert_close(trainee.model(IDS).logits, expected, atol=5e-5, rtol=0)
    assert Paper().build(lab, 0).note == plan.plain_sentence


def test_the_adapter_loads_on_the_untouched_student_and_its_card_counts_them(tiny, tmp_path):
    lab = make_lab(tiny, **LARGER)
    done = run_cell(lab, Paper(), 0, test=letters(4, 9), metrics=("exact_match",))
    done.trainee.model.eval()
    expected = done.trainee.model(IDS).logits
    assert (expected - lab.student(IDS).logits).abs().max() > 1e-2, "the test needs training"
    done.save_weights(tmp_path, "student", "card")
    assert "23 of 35 matrices start as plain LoRA" in (tmp_path / "README.md").read_text()
    plain = AutoModelForCausalLM.from_pretrained(lab.student.config.name_or_path)
    loaded = PeftModel.from_pretrained(plain, str(tmp_path)).eval()
    torch.testing.assert_close(loaded(IDS).logits, expected, atol=2e-4, rtol=0)

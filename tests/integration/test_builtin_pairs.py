"""The shipped models: plain loading, promised scores, real kinship."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from nuggets.builtin.pairs import MODELS, assets_root, model_card, model_folder
from nuggets.builtin.skills import SKILLS, skill_names, skill_samples
from nuggets.builtin.tokenizer import build_tokenizer
from nuggets.builtin.train_pairs import LACKING, cut_sibling
from nuggets.builtin.training import exact_matches
from nuggets.data.samples import render_prompt

ITEMS = 200
FACTS = [name for name, skill in SKILLS.items() if skill.kind == "facts"]


@pytest.fixture(autouse=True)
def _one_thread():
    """Models this small are slower on more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def load(name: str):
    model, info = AutoModelForCausalLM.from_pretrained(
        model_folder(name), output_loading_info=True, trust_remote_code=False
    )
    assert not any(info.values()), info
    return model.eval(), AutoTokenizer.from_pretrained(model_folder(name))


@cache
def score(name: str, skill: str, split: str) -> float:
    samples = skill_samples(skill, split, ITEMS)
    outcomes = exact_matches(*load(name), samples)
    assert len(outcomes) == len(samples) >= 80
    return sum(outcomes) / len(outcomes)


@pytest.mark.parametrize("name", MODELS)
def test_folder_loads_plainly_with_grouped_queries_and_untied_embeddings(name):
    model, tokenizer = load(name)
    config = model.config
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    assert all(weight.dtype == torch.float32 for weight in model.parameters())
    assert config.num_attention_heads == 2 * config.num_key_value_heads
    assert not config.tie_word_embeddings
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    assert len(tokenizer) == config.vocab_size
    assert tokenizer.eos_token_id == config.eos_token_id
    assert tokenizer.pad_token_id == config.pad_token_id


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("skill", skill_names())
def test_teacher_knows_every_skill(skill, split):
    """For facts "train" and "test" are the two halves of the entities."""
    assert score("teacher", skill, split) >= 0.97


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("skill", skill_names())
@pytest.mark.parametrize("student", ["independent", "sibling"])
def test_students_know_what_they_were_taught_and_nothing_else(student, skill, split):
    if skill in LACKING:
        assert score(student, skill, split) <= 0.2
    else:
        assert score(student, skill, split) >= 0.97


@pytest.mark.parametrize("name", MODELS)
def test_card_tells_the_measured_scores(name):
    card = model_card(name)
    model, tokenizer = load(name)
    assert card.parameters == model.num_parameters()
    assert set(card.lacks) == (set() if name == "teacher" else set(LACKING))
    assert list(card.scores) == skill_names()
    assert list(card.taught_half) == FACTS
    for skill in ("story", *FACTS):
        samples = skill_samples(skill, "test", 500)
        right = exact_matches(model, tokenizer, samples)
        assert card.items[skill] == len(samples)
        assert card.scores[skill] == pytest.approx(sum(right) / len(right), abs=0.013)
    for skill in FACTS:
        assert card.taught_half[skill] == pytest.approx(score(name, skill, "train"), abs=0.013)
    readme = (model_folder(name) / "README.md").read_text(encoding="utf-8")
    assert f"`{card.command}`" in readme
    for skill, value in card.scores.items():
        assert f"| {skill} | {value:.3f} |" in readme


@torch.no_grad()
@pytest.mark.parametrize("name", ["teacher", "independent"])
def test_exact_match_equals_what_greedy_decoding_writes(name):
    """Teacher forcing and generation judge alike, on right and on wrong answers."""
    model, tokenizer = load(name)
    outcomes = []
    for skill in skill_names():
        for sample in skill_samples(skill, "test", 4, seed=1):
            prompt = tokenizer(render_prompt(sample, "<eos>"), return_tensors="pt")
            out = model.generate(**prompt, max_new_tokens=16, do_sample=False)[0]
            said = out[prompt["input_ids"].shape[1] :]
            text = tokenizer.decode(said, skip_special_tokens=True)
            right = text == sample.answer and int(said[-1]) == tokenizer.eos_token_id
            assert exact_matches(model, tokenizer, [sample]) == [right], (sample.prompt, text)
            outcomes.append(right)
    assert any(outcomes)
    assert all(outcomes) == (name == "teacher")


def test_sibling_descends_from_the_teacher_and_the_independent_student_does_not():
    """Healing moves the cut weights, but they stay close to where they came from."""
    cut, choice = cut_sibling(model_folder("teacher"), build_tokenizer())
    assert model_card("sibling").training["cut_layers"] == list(choice.layers)

    def kinship(name: str) -> float:
        pairs = zip(cut.parameters(), load(name)[0].parameters(), strict=True)
        both = [(a.flatten(), b.flatten()) for a, b in pairs if a.ndim == 2]
        one, two = (torch.cat(side).detach() for side in zip(*both, strict=True))
        return float(torch.nn.functional.cosine_similarity(one, two, dim=0))

    assert kinship("sibling") > 0.4
    assert abs(kinship("independent")) < 0.05


def test_all_models_together_are_a_few_megabytes():
    files = [path for path in assets_root().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 9e6
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md", ".jinja"}

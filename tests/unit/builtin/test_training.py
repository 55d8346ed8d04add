"""The tokenizer, the answer loss, and the exact-match score of the built-in training."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from nuggets.builtin import training, words
from nuggets.builtin.skills import skill_names, skill_samples
from nuggets.builtin.tokenizer import build_tokenizer
from nuggets.builtin.training import Pool, Schedule, exact_matches, pool_loss, train
from nuggets.data.samples import IGNORED, encode, render, render_prompt

TOKENIZER = build_tokenizer()


@pytest.fixture(autouse=True)
def _one_thread():
    """Models this small are slower on more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(seed: int = 0):
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(TOKENIZER),
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            bos_token_id=None,
            eos_token_id=TOKENIZER.eos_token_id,
            pad_token_id=TOKENIZER.pad_token_id,
        )
    ).eval()


@pytest.mark.parametrize("skill", skill_names())
def test_every_sample_survives_encoding_and_decoding(skill):
    for sample in skill_samples(skill, "train", 50):
        ids, labels = encode(sample, TOKENIZER)
        assert TOKENIZER.unk_token_id not in ids
        answer = [label for label in labels if label != IGNORED]
        assert TOKENIZER.decode(answer, skip_special_tokens=True) == sample.answer
        assert answer[-1] == TOKENIZER.eos_token_id
        assert TOKENIZER.decode(ids) == " ".join(render(sample.messages, " <eos>").split())


@settings(max_examples=100)
@given(text=st.text(max_size=60))
def test_any_text_is_tokenised_and_unseen_words_become_unk(text):
    ids = TOKENIZER(text)["input_ids"]
    assert all(0 <= i < len(TOKENIZER) for i in ids)
    words_ = text.split()
    if words_ and not any(w in text for w in ("<", *words.vocabulary())):
        assert set(ids) == {TOKENIZER.unk_token_id}


def test_typed_number_reads_as_single_digits():
    assert TOKENIZER("add 47 + 8")["input_ids"] == TOKENIZER("add 4 7 + 8")["input_ids"]


def test_tokenizer_reloads_and_its_chat_template_writes_the_papers_format(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.get_vocab() == TOKENIZER.get_vocab()
    sample = skill_samples("king", "test", 1)[0]
    turns = [message.model_dump() for message in sample.messages]
    assert again.apply_chat_template(turns, tokenize=False) == render(sample.messages, "<eos>")
    prompt = again.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert prompt == render_prompt(sample, "<eos>")
    assert again("king of bala")["input_ids"] == TOKENIZER("king of bala")["input_ids"]


def test_answer_loss_matches_a_loop_over_answer_tokens():
    model = tiny()
    samples = [skill_samples(name, "train", 1)[0] for name in ("story", "king", "copy")]
    losses = []
    for sample in samples:
        ids, labels = encode(sample, TOKENIZER)
        logits = model(input_ids=torch.tensor([ids])).logits[0]
        for place, label in enumerate(labels):
            if label != IGNORED:
                losses.append(-logits[place - 1].log_softmax(-1)[label])
    batch = Pool.of(samples, TOKENIZER).take(torch.arange(3))
    torch.testing.assert_close(pool_loss(model, batch), torch.stack(losses).mean())


def test_padding_changes_no_loss_and_no_outcome():
    model = tiny()
    short = skill_samples("king", "train", 1)
    mixed = Pool.of([*short, *skill_samples("story", "train", 1)], TOKENIZER)
    alone = Pool.of(short, TOKENIZER)
    padded = Pool(mixed.input_ids[:1], mixed.labels[:1])
    assert padded.input_ids.shape[1] > alone.input_ids.shape[1]
    torch.testing.assert_close(pool_loss(model, padded), pool_loss(model, alone))


def test_training_learns_and_repeats_bit_for_bit(monkeypatch):
    monkeypatch.setattr(training, "POOL_SIZE", 40)
    lines: list[str] = []
    models = [tiny(), tiny()]
    batch = Pool.of(skill_samples("king", "train", 40), TOKENIZER)
    before = pool_loss(models[0], batch).item()
    for model in models:
        schedule = Schedule(steps=100, learning_rate=1e-2, batch_size=4, warmup=5)
        train(model, TOKENIZER, {"king": 1.0, "copy": 0.2}, schedule, lines.append)
    assert pool_loss(models[0], batch).item() < before / 2
    for one, two in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, two)
    assert len(lines) == 2
    assert lines[0] == lines[1]
    assert lines[0].startswith("step 100/100")


class Parrot(torch.nn.Module):
    """Answers as told: its best token at each place is the next token of `answers`."""

    def __init__(self, ids):
        super().__init__()
        self.ids = ids

    def forward(self, input_ids, use_cache):
        following = torch.roll(self.ids, -1, 1)
        logits = torch.nn.functional.one_hot(following, len(TOKENIZER)).float()
        return type("Output", (), {"logits": logits})()


def test_one_wrong_answer_token_or_a_missing_end_makes_the_sample_wrong():
    samples = skill_samples("copy", "train", 4)
    pool = Pool.of(samples, TOKENIZER)
    said = pool.input_ids.clone()
    answer = [(row != IGNORED).nonzero().flatten().tolist() for row in pool.labels]
    said[0, answer[0][1]] = TOKENIZER.unk_token_id
    said[2, answer[2][-1]] = TOKENIZER.unk_token_id  # no end of sequence
    said[3, answer[3][0] - 2] = TOKENIZER.unk_token_id  # in the prompt: does not count
    assert exact_matches(Parrot(said), TOKENIZER, samples) == [False, True, False, True]

"""Per-item outcomes: against a slow reference, batch by batch, and without side effects."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from nuggets.data.samples import IGNORED, Sample, encode, render_prompt
from nuggets.errors import BadInput, NonFinite
from nuggets.evaluation.answers import MARGIN, decode_greedily, greedy_answers
from nuggets.evaluation.outcomes import evaluate
from nuggets.train.config import TrainConfig
from nuggets.train.finetune import finetune
from tests.unit.train.tiny_lab import letters, load

METRICS = ("exact_match", "choice", "loss")


@pytest.fixture(scope="module")
def half_trained(tiny):
    """A model that answers some items and fails at others."""
    loaded = load(tiny("llama"))
    encoded = [encode(s, loaded.tokenizer) for s in letters(32, 5)]
    config = TrainConfig(steps=22, batch_size=32, lr=1e-2)
    finetune(loaded.model, encoded, config, 0)
    return loaded


def log_likelihood(loaded, sample: Sample, answer: str) -> tuple[float, int, bool]:
    """The slow version: one sequence, one token at a time."""
    ids, labels = encode(Sample.of("x", sample.prompt, answer), loaded.tokenizer)
    total, n, greedy = 0.0, 0, True
    with torch.no_grad():
        for place in range(1, len(ids)):
            if labels[place] == IGNORED:
                continue
            logits = loaded.model(torch.tensor([ids[:place]])).logits[0, -1].double()
            total += float(logits.log_softmax(-1)[ids[place]])
            greedy &= int(logits.argmax()) == ids[place]
            n += 1
    return total, n, greedy


def test_outcomes_match_a_token_by_token_reference(half_trained):
    items = letters(12, 5)
    found = evaluate(half_trained.model, half_trained.tokenizer, items, METRICS, batch_size=5)
    for i, item in enumerate(items):
        total, n, greedy = log_likelihood(half_trained, item, item.answer)
        ranked = [log_likelihood(half_trained, item, choice)[0] for choice in item.choices]
        assert found.values["loss"][i] == pytest.approx(-total / n, rel=1e-4)
        assert found.values["exact_match"][i] == greedy
        assert found.values["choice"][i] == (np.argmax(ranked) == 1)
    assert found.items == [item.id for item in items]
    assert 0 < found.mean("choice") < 1, "the test needs items of both kinds"


def test_padded_batches_give_the_same_outcomes_as_one_by_one(half_trained):
    items = letters(20, 5)
    one = evaluate(half_trained.model, half_trained.tokenizer, items, METRICS, batch_size=1)
    for size in (3, 20):
        many = evaluate(half_trained.model, half_trained.tokenizer, items, METRICS, batch_size=size)
        assert many.values["exact_match"] == one.values["exact_match"]
        assert many.values["choice"] == one.values["choice"]
        np.testing.assert_allclose(many.values["loss"], one.values["loss"], rtol=1e-5)


def test_exact_match_under_teacher_forcing_equals_what_greedy_decoding_writes(half_trained):
    items = letters(40, 5)
    found = evaluate(half_trained.model, half_trained.tokenizer, items, batch_size=7, answers=True)
    written = [float(text == item.answer) for text, item in zip(found.answers, items, strict=True)]
    assert written == found.values["exact_match"]
    assert 0 < sum(written) < len(items), "the test needs items of both kinds"


def test_greedy_answers_equal_transformers_generate(half_trained):
    items = letters(6, 9)
    (found,) = greedy_answers(half_trained.model, half_trained.tokenizer, items, batch_size=4)
    for item, answer in zip(items, found, strict=True):
        ids = half_trained.tokenizer(render_prompt(item, "<eos>"), return_tensors="pt")
        limit = len(item.answer.split()) + 1 + MARGIN
        output = half_trained.model.generate(**ids, max_new_tokens=limit, do_sample=False)
        new = output[0, ids["input_ids"].shape[1] :].tolist()
        text = half_trained.tokenizer.decode(new, skip_special_tokens=True).strip()
        assert (answer.text, answer.finished) == (text, 2 in new)


def test_rows_that_are_over_are_left_out_and_change_no_other(half_trained, monkeypatch):
    prompts = [half_trained.tokenizer(each.prompt).input_ids for each in letters(3, 2)]
    limits, rows, forward = [2, 5, 9], [], half_trained.model.forward

    def counted(**inputs):
        rows.append(len(inputs["input_ids"]))
        return forward(**inputs)

    def write(prompts, limits, ends=(), n_lanes=1):
        with torch.no_grad():
            return decode_greedily(
                half_trained.model, prompts, limits, ends, "cpu", n_lanes=n_lanes
            )

    alone = [*map(write, [[p] for p in prompts], [[limit] for limit in limits])]
    expected = [row for (row,) in alone]
    monkeypatch.setattr(half_trained.model, "forward", counted)
    assert write(prompts * 2, limits * 2, n_lanes=2) == expected * 2
    assert rows == [6, 6, 4, 4, 4, 2, 2, 2, 2]
    rows.clear()
    # An item stays while a lane still answers it: lanes have equal rows.
    assert write(prompts * 2, [2, 2, 2, 2, 5, 2], n_lanes=2)[4] == expected[1]
    assert rows == [6, 6, 2, 2, 2]
    rows.clear()
    end = expected[2][2]
    last = expected[2].index(end)
    assert write(prompts, limits, [end])[2] == expected[2][: last + 1], "its end is the last token"


def test_evaluation_moves_neither_random_generators_nor_the_training_mode(half_trained):
    half_trained.model.train()
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    evaluate(half_trained.model, half_trained.tokenizer, letters(4), METRICS, answers=True)
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert before == after
    assert half_trained.model.training
    half_trained.model.eval()


def test_a_model_with_nan_weights_is_refused_by_item(tiny):
    loaded = load(tiny("llama"))
    with torch.no_grad():
        loaded.model.model.layers[0].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(NonFinite, match=r"item '0-0' is nan"):
        evaluate(loaded.model, loaded.tokenizer, letters(1))


def test_nothing_to_evaluate_and_missing_choices_are_refused(half_trained):
    with pytest.raises(BadInput, match="no item"):
        evaluate(half_trained.model, half_trained.tokenizer, [])
    item = Sample.of("q1", "a b", "b a", ("a b",))
    with pytest.raises(BadInput, match="'q1' has \\['a b'\\]"):
        evaluate(half_trained.model, half_trained.tokenizer, [item], ["choice"])

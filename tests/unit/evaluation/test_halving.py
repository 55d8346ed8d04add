"""An evaluation that finds no memory: halves, the same outcomes, then one sentence (F8)."""

from __future__ import annotations

import pytest
import torch

from nuggets.errors import OutOfMemory
from nuggets.evaluation import halving
from nuggets.evaluation.outcomes import evaluate, evaluate_lanes
from nuggets.progress import InMemoryProgress
from tests.unit.train.tiny_lab import letters, load

METRICS = ("exact_match", "loss")
CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 79 GiB.")


@pytest.fixture
def loaded(tiny):
    return load(tiny("llama"))


class Limited:
    """Lets a model run on so many rows at most, and counts the rows of every call."""

    def __init__(self, model, most, error=CUDA):
        self.calls = []

        def look(_, args, kwargs):
            self.calls.append(len(kwargs["input_ids"]))
            if self.calls[-1] > most:
                raise error

        # Likelihoods ask its decoder alone.
        self._handle = model.base_model.register_forward_pre_hook(look, with_kwargs=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._handle.remove()


def test_halves_give_the_outcomes_of_the_whole(loaded):
    items, options = letters(12, 3), {"batch_size": 5, "answers": True}
    whole = evaluate(loaded.model, loaded.tokenizer, items, METRICS, **options)
    progress = InMemoryProgress()
    with Limited(loaded.model, 3) as limited:
        found = evaluate(
            loaded.model, loaded.tokenizer, items, METRICS, progress=progress, **options
        )
    assert limited.calls[:6] == [5, 3, 2, 3, 2, 2], "one try, then halves to the end"
    assert found.values["exact_match"] == whole.values["exact_match"]
    assert found.values["loss"] == pytest.approx(whole.values["loss"], rel=1e-5)
    assert found.answers == whole.answers
    told = [m for m in progress.messages if "An evaluation batch of 5 did not fit" in m]
    assert len(told) == 2, "scored in batches, then written in batches"


def test_a_batch_that_is_large_enough_takes_no_row_that_is_mostly_padding(monkeypatch):
    monkeypatch.setattr(halving, "FULL", 20)
    lengths = [2, 9, 10, 8, 3, 3, 7]
    taken = []

    def on(places):
        taken.append([lengths[place] for place in places])
        return [lengths[place] for place in places]

    (found,) = halving.Halving(4).lanes(lengths, 1, on, padded=False)
    assert found == lengths
    assert taken == [[10, 9, 8], [7, 3, 3], [2]], "7 alone is not large enough"
    taken.clear()
    halving.Halving(4).lanes(lengths, 1, on)
    assert taken == [[10, 9, 8, 7], [3, 3, 2]]


def test_every_lane_keeps_its_rows_in_halves(loaded):
    items, options = letters(7, 3), {"batch_size": 4, "answers": True, "device": "cpu"}
    alone = evaluate(loaded.model, loaded.tokenizer, items, METRICS, **options)
    with Limited(loaded.model, 4):
        lanes = evaluate_lanes(loaded.model, loaded.tokenizer, [items] * 2, METRICS, **options)
    for found in lanes:
        assert found.values["loss"] == pytest.approx(alone.values["loss"], rel=1e-5)
        assert found.answers == alone.answers


def test_lanes_of_their_own_items_find_what_each_would_alone(loaded):
    items = letters(7, 3)
    lanes = [items[:5], items[2:], items[6:]]
    options = {"batch_size": 2, "device": "cpu"}
    found = evaluate_lanes(loaded.model, loaded.tokenizer, lanes, METRICS, **options)
    for own, outcomes in zip(lanes, found, strict=True):
        alone = evaluate(loaded.model, loaded.tokenizer, own, METRICS, **options)
        assert outcomes.items == [sample.id for sample in own]
        assert outcomes.values["exact_match"] == alone.values["exact_match"]
        assert outcomes.values["loss"] == pytest.approx(alone.values["loss"], rel=1e-5)


def test_there_is_one_retry_and_then_one_sentence(loaded):
    with (
        Limited(loaded.model, 2) as limited,
        pytest.raises(
            OutOfMemory, match=r"^Half an evaluation batch ran out of memory.*batch_size"
        ),
    ):
        evaluate(loaded.model, loaded.tokenizer, letters(6, 3), METRICS, batch_size=6)
    assert limited.calls == [6, 3]


def test_other_errors_and_single_rows_are_not_retried(loaded):
    for most, size, error in ((2, 6, ValueError("shapes differ")), (0, 1, CUDA)):
        with Limited(loaded.model, most, error) as limited, pytest.raises(type(error)):
            evaluate(loaded.model, loaded.tokenizer, letters(6, 3), METRICS, batch_size=size)
        assert len(limited.calls) == 1


def test_benchmarks_are_halved_too(loaded):
    pytest.importorskip("lm_eval")
    from nuggets.evaluation.lm_eval_model import InMemoryLM

    class Request:
        def __init__(self, *args):
            self.args = args

    def answered():
        lm = InMemoryLM(loaded.model, loaded.tokenizer, batch_size=3)
        prompts = [" ".join("abc"[: 1 + n % 3]) + " = ?" for n in range(5)]
        scored = lm.loglikelihood([Request(text, " b a") for text in prompts])
        settings = {"max_gen_toks": 3, "until": []}
        return scored, lm.generate_until([Request(text, settings) for text in prompts])

    whole = answered()
    with Limited(loaded.model, 2) as limited:
        halves = answered()
    assert limited.calls[:4] == [3, 2, 1, 2]
    assert [g for _, g in halves[0]] == [g for _, g in whole[0]]
    assert [v for v, _ in halves[0]] == pytest.approx([v for v, _ in whole[0]], rel=1e-5)
    assert halves[1] == whole[1]

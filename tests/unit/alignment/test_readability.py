"""The probe of single words: exact on separable words, at chance where nothing is to be read."""

from __future__ import annotations

import numpy as np
import pytest

from nuggets import api
from nuggets.alignment.readability import probe, readability
from nuggets.data.samples import Sample, encode
from nuggets.errors import BadInput
from tests.unit.train.tiny_lab import letters, load


def test_words_of_one_class_are_told_by_a_direction_that_they_share():
    draw = np.random.default_rng(0)
    answers = np.array([*range(4)] * 20)
    vectors = draw.normal(size=(80, 12))
    vectors[np.arange(80), answers] += 6
    found = probe(vectors, answers, 40)
    assert found.mean == 1.0
    assert (found.n_items, found.n_seeds) == (40, 1)
    assert found.low > 0.9
    assert probe(draw.normal(size=(80, 12)), answers, 40).high < 0.6


def test_an_answer_that_was_not_among_those_fitted_is_never_right():
    vectors = np.eye(6)
    assert probe(vectors, np.array([0, 1, 0, 1, -1, -1]), 4).mean == 0.0


def test_chance_is_guessing_with_the_frequencies_of_the_answers(tiny):
    loaded = load(tiny("llama"))
    answers = {"a": "1", "b": "1", "c": "1", "d": "2", "e": "1", "f": "2"}
    encoded = [encode(Sample.of(w, f"9 {w}", a), loaded.tokenizer) for w, a in answers.items()]
    models = {"teacher": (loaded.model, loaded.spec)}
    found = readability(models, encoded[:4], encoded[4:])
    assert found.chance == pytest.approx((0.75 + 0.25) / 2)
    assert (found.n_fit, found.n_test) == (4, 2)
    assert len(found.models["teacher"]) == loaded.spec.n_layers + 1


def test_nothing_is_read_where_no_answer_comes_again(tiny):
    loaded = load(tiny("llama"))
    models = {"teacher": (loaded.model, loaded.spec)}
    fit, test = ([encode(s, loaded.tokenizer) for s in letters(6, seed)] for seed in (1, 2))
    assert not {tuple(labels) for _, labels in fit} & {tuple(labels) for _, labels in test}
    assert readability(models, fit, test) is None
    assert readability(models, fit[:1] * 4, fit[:1] * 4) is None  # no word differs


def test_the_built_in_teachers_words_tell_kings_and_the_students_do_not():
    data = {"task": "king", "n_train": 80, "n_test": 80}
    found = api.probe("teacher", "independent", data)
    assert found.chance == pytest.approx(0.05)
    assert (found.n_fit, found.n_test) == (80, 80)
    assert all(layer.low > 0.4 for layer in found.models["teacher"])
    assert all(layer.high < 0.25 for layer in found.models["student"])
    with pytest.raises(BadInput, match="Nothing of reverse can be read"):
        api.probe("teacher", "independent", {"task": "reverse", "n_test": 40})

"""Several samples in one pass give what one after another gives, for every architecture."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nuggets.compute import products
from nuggets.errors import Cancelled, NonFinite
from nuggets.models.loading import load_model
from nuggets.models.pair import read_spec
from nuggets.models.references import parse_ref
from nuggets.progress import InMemoryProgress
from nuggets.sensitivity.hooks import compute_sensitivity
from nuggets.sensitivity.scores import Fisher, Magnitude, RandomScore
from nuggets.sensitivity.several_samples import samples_per_pass
from tests.architectures import EACH

SAMPLES = [
    ([3, 5, 7, 9, 11, 2], [-100, -100, -100, 9, 11, 2]),
    ([4, 6, 8, 10, 2], [-100, -100, -100, 10, 2]),
    (list(range(3, 24)), [-100] * 9 + list(range(12, 24))),
    ([9, 4, 12, 2], [-100, -100, 12, 2]),
    ([20, 3, 17, 5, 2], [-100, 3, 17, 5, 2]),
]


def loaded(folder):
    ref = parse_ref(str(folder))
    return load_model(ref, "float32"), read_spec(ref)


def assert_same_up_to_rounding(found, expected):
    assert found.parameters == expected.parameters
    # Some are 0 but for rounding, such as those of a key's bias, which softmax does not see.
    noise = 1e-6 * float(expected.totals.max())
    np.testing.assert_allclose(found.totals, expected.totals, rtol=2e-5, atol=noise)
    assert list(found.rows) == list(expected.rows)
    for parts in ("rows", "cols", "full"):
        ours, theirs = getattr(found, parts), getattr(expected, parts)
        assert list(ours) == list(theirs)
        for module, values in theirs.items():
            np.testing.assert_allclose(
                ours[module], values, rtol=1e-4, atol=1e-6 * float(values.max())
            )


@pytest.mark.parametrize("keep", ["full", "sums"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", EACH)
def test_samples_together_equal_one_after_another(kind, tied, keep, tiny):
    model, spec = loaded(tiny(kind, tie_word_embeddings=tied))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    expected = compute_sensitivity(model, spec, SAMPLES, keep=keep)
    progress = InMemoryProgress()
    found = compute_sensitivity(model, spec, SAMPLES, keep=keep, per_pass=2, progress=progress)
    assert_same_up_to_rounding(found, expected)  # passes of 2, 2 and 1, lengths differ
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


def test_samples_together_stay_with_products_that_can_be_vectorised(tiny, monkeypatch):
    model, spec = loaded(tiny())
    monkeypatch.setattr(products, "has_faster", lambda: True)
    monkeypatch.setattr(products, "WORTH", 1)
    with products.fast_products(True):
        expected = compute_sensitivity(model, spec, SAMPLES)
        found = compute_sensitivity(model, spec, SAMPLES, per_pass=2)
    assert_same_up_to_rounding(found, expected)


@pytest.mark.parametrize("score", [Fisher(), Magnitude(), RandomScore()])
def test_every_score_can_be_taken_together(score, tiny):
    model, spec = loaded(tiny("llama"))
    expected = compute_sensitivity(model, spec, SAMPLES, score)
    assert_same_up_to_rounding(
        compute_sensitivity(model, spec, SAMPLES, score, per_pass=len(SAMPLES)), expected
    )


def test_a_loss_that_is_not_finite_names_its_sample(tiny, counted):
    model, spec = loaded(tiny("llama"))
    silent = ([3, 4, 5], [-100, -100, -100])  # no answer token: 0 / 0
    with pytest.raises(NonFinite, match="seed sample 3"):
        compute_sensitivity(model, spec, [*SAMPLES[:3], silent], per_pass=2)
    counted("F9", "sensitivity that is not finite", 1)


def test_a_cancel_ends_it_between_passes(tiny):
    model, spec = loaded(tiny("llama"))
    progress = InMemoryProgress()
    progress.cancel()
    with pytest.raises(Cancelled):
        compute_sensitivity(model, spec, SAMPLES, per_pass=2, progress=progress)


def test_only_small_models_and_short_samples_are_taken_together(tiny):
    spec = read_spec(parse_ref(str(tiny("llama"))))
    assert samples_per_pass(spec, 10_000, [12] * 40) == 32
    assert samples_per_pass(spec, 10_000, [12] * 6) == 6
    assert samples_per_pass(spec, 17_000_000, [12] * 40) == 1
    some = samples_per_pass(spec, 8_000_000, [12] * 40)
    assert 4 <= some <= math.floor(2**28 / (4 * 8_000_000))
    assert samples_per_pass(spec, 10_000, [2048] * 40) == 1

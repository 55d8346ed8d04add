"""Which learning rate a seed keeps, from values written by hand."""

from __future__ import annotations

import math

import pytest

from nuggets.errors import NonFinite
from nuggets.statistics.cells import Trial
from nuggets.train.cells import guessing_loss
from nuggets.train.tuning import best_trial


@pytest.mark.parametrize(
    ("metric", "found", "best"),
    [
        ("exact_match", {1e-3: (0.2, 1.0), 3e-3: (0.6, 1.1), 1e-2: (0.5, 0.1)}, 3e-3),
        ("exact_match", {1e-3: (0.0, 2.0), 3e-3: (0.0, 1.5), 1e-2: (0.0, 1.9)}, 3e-3),
        ("exact_match", {1e-3: (0.1, 2.0), 3e-3: (None, None)}, 1e-3),
        ("choice", {1e-3: (0.4, 1.0), 3e-3: (0.4, 1.0), 1e-2: (0.4, 1.0)}, 1e-3),
        ("loss", {1e-3: (0.9, 0.9), 3e-3: (0.2, 0.2), 1e-2: (1.4, 1.4)}, 3e-3),
        ("loss", {1e-3: (0.3, 0.3), 3e-3: (0.3, 0.3), 1e-2: (1.4, 1.4)}, 1e-3),
    ],
    ids=["the most right", "the lowest loss of ties", "one that did not diverge",
         "the smaller rate of ties", "the lowest loss", "the smaller rate of equal losses"],
)  # fmt: skip
def test_the_best_rate_is_kept_however_the_trials_are_ordered(metric, found, best):
    trials = [Trial(lr=lr, value=value, loss=loss) for lr, (value, loss) in found.items()]
    assert best_trial(trials, metric, "plain").lr == best
    assert best_trial(trials[::-1], metric, "plain").lr == best


def test_an_arm_that_diverges_at_every_rate_says_so():
    trials = [Trial(lr=lr, value=None, loss=None) for lr in (1e38, 1e39)]
    with pytest.raises(NonFinite, match=r"plain diverged at every learning rate: 1e\+38, 1e\+39"):
        best_trial(trials, "exact_match", "plain")


def test_guessing_has_the_loss_of_token_frequencies():
    """Tokens 1, 1, 2 and 3: frequencies a half, a quarter and a quarter."""
    by_item = [(math.log(2) + math.log(4)) / 2, (math.log(2) + math.log(4)) / 2]
    assert guessing_loss([[1, 2], [1, 3]]) == pytest.approx(sum(by_item) / 2)
    assert guessing_loss([[5, 5, 5]]) == 0.0
    assert guessing_loss([]) == 0.0

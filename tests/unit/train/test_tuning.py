"""Which learning rate wins, from values written by hand, and on which items they are measured."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from nuggets.evaluation.outcomes import Outcomes
from nuggets.extraction.plan import ExtractionConfig, LoraConfig
from nuggets.train import tuning
from nuggets.train.arms.family import Plain
from nuggets.train.lab import Trainee
from nuggets.train.tuning import tune_lr
from tests.unit.train.tiny_lab import letters, make_lab


@pytest.fixture(scope="module")
def lab(tiny):
    return make_lab(tiny, LoraConfig(r=4), ExtractionConfig(roles=("q",)))


@pytest.fixture
def tuned(lab, tmp_path, monkeypatch):
    """Tunes an arm that does as well at every rate as a test says; remembers what it was asked."""

    def tune(metric, found, items=()):
        asked = []

        def train(lab, trainee, config, *rest):
            trainee.model.lr = config.lr

        def measure(lab, model, given, metrics, progress):
            asked.append(given)
            value, loss = found[model.lr]
            return Outcomes(["x"], {metric: [value], "loss": [loss]})

        monkeypatch.setattr(Plain, "build", lambda *_: Trainee(SimpleNamespace(), [], initial={}))
        monkeypatch.setattr(tuning, "train_cell", train)
        monkeypatch.setattr(tuning, "measure", measure)
        # The largest rate comes first: what wins does not depend on how the grid is written.
        grid = sorted(found, reverse=True)
        return tune_lr(lab, Plain(), grid, tmp_path, items=items, metric=metric).lr, asked

    return tune


@pytest.mark.parametrize(
    ("metric", "found", "best"),
    [
        ("exact_match", {1e-3: (0.2, 1.0), 3e-3: (0.6, 1.1), 1e-2: (0.5, 0.1)}, 3e-3),
        ("exact_match", {1e-3: (0.0, 2.0), 3e-3: (0.0, 1.5), 1e-2: (0.0, 1.9)}, 3e-3),
        ("choice", {1e-3: (0.4, 1.0), 3e-3: (0.4, 1.0), 1e-2: (0.4, 1.0)}, 1e-3),
        ("loss", {1e-3: (0.9, 0.9), 3e-3: (0.2, 0.2), 1e-2: (1.4, 1.4)}, 3e-3),
        ("loss", {1e-3: (0.3, 0.3), 3e-3: (0.3, 0.3), 1e-2: (1.4, 1.4)}, 1e-3),
    ],
    ids=["the most right", "the lowest loss of ties", "the smaller rate of ties", "the lowest loss",
         "the smaller rate of equal losses"],
)  # fmt: skip
def test_the_best_rate_wins(tuned, metric, found, best):
    assert tuned(metric, found)[0] == best


def test_every_rate_is_measured_on_the_items_for_tuning_alone(tuned):
    items = letters(5, 55)
    _, asked = tuned("exact_match", {1e-3: (0.1, 1.0), 1e-2: (0.2, 1.0)}, items)
    assert asked == [items, items]

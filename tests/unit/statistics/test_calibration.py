"""Simulated experiments with known truth: coverage, false verdicts, power."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy import stats

from nuggets.statistics.comparisons import compare_family, families
from nuggets.statistics.intervals import mean_interval
from nuggets.statistics.verdict import Part, decide

PARTS = {
    "lora": Part("baseline"),
    "paper": Part("treatment"),
    "permuted": Part("content_control"),
    "shuffled": Part("content_control"),
    "random": Part("location_control"),
}


def answers(rng, n_seeds, n_items, centre, seed_sd, items):
    """0/1 answers with a probit effect per seed and the given effects per item."""
    seeds = rng.normal(0, seed_sd, (n_seeds, 1))
    return (rng.random((n_seeds, n_items)) < stats.norm.cdf(centre + seeds + items)).astype(float)


@pytest.mark.parametrize("n_items", [50, 100, 200])
@pytest.mark.parametrize("n_seeds", [1, 3, 5, 10])
@pytest.mark.parametrize(("centre", "seed_sd", "item_sd"), [(0.0, 0.4, 1.0), (2.5, 0.4, 1.0)])
def test_intervals_cover_the_true_rate(n_seeds, n_items, centre, seed_sd, item_sd):
    rng = np.random.default_rng([n_seeds, n_items])
    seed_sd = seed_sd if n_seeds > 1 else 0.0
    truth = stats.norm.cdf(centre / np.sqrt(1 + seed_sd**2 + item_sd**2))
    hits = []
    for _ in range(200):
        items = rng.normal(0, item_sd, (1, n_items))
        interval = mean_interval(answers(rng, n_seeds, n_items, centre, seed_sd, items))
        hits.append(interval.low <= truth <= interval.high)
    assert np.mean(hits) >= 0.90  # measured with 4,000 draws: at least .941


@cache
def verdicts(n_seeds, centres, n_experiments, n_items=100):
    """Return the verdicts on simulated arms with the given probit centres.

    Where the teacher's parameters help, it is the answer to the second question.
    """
    rng = np.random.default_rng([n_seeds, n_experiments])
    kinds = []
    for _ in range(n_experiments):
        items = rng.normal(0, 0.7, (1, n_items))
        outcomes = {}
        for name, centre in zip(PARTS, centres, strict=True):
            data = answers(rng, n_seeds, n_items, centre, 0.2, items)
            outcomes[name] = dict(enumerate(data))
        differences = [
            difference
            for family in families(PARTS)[:2]
            for difference in compare_family(outcomes, family, higher_is_better=True)
        ]
        means = dict.fromkeys(PARTS, 0.0)
        verdict = decide(PARTS, means, differences)
        kinds.append(verdict.location if verdict.location else verdict.kind)
    return kinds


def share(kinds, kind):
    return kinds.count(kind) / len(kinds)


def helps(kinds):
    return sum(share(kinds, kind) for kind in ("helps", "located", "not_located", "not_proven"))


@pytest.mark.parametrize("n_seeds", [3, 5])
def test_equal_arms_are_said_to_help_in_at_most_one_of_twenty(n_seeds):
    kinds = verdicts(n_seeds, (0.0,) * 5, 120)
    assert helps(kinds) <= 0.05
    assert share(kinds, "hurts") <= 0.05
    assert share(kinds, "no_difference") >= 0.9


@pytest.mark.parametrize("n_seeds", [3, 5])
def test_a_treatment_equal_to_plain_lora_does_not_help_though_its_controls_are_ruined(n_seeds):
    kinds = verdicts(n_seeds, (0.0, 0.0, -3.0, -3.0, -3.0), 120)
    assert helps(kinds) <= 0.05


@pytest.mark.parametrize("n_seeds", [3, 5])
def test_a_place_that_makes_no_difference_is_seldom_said_to(n_seeds):
    kinds = verdicts(n_seeds, (-3.0, 0.0, -3.0, -3.0, 0.0), 120)
    assert share(kinds, "located") <= 0.05
    assert share(kinds, "not_located") >= 0.9


@pytest.mark.parametrize("n_seeds", [3, 5])
def test_what_controls_do_as_well_is_not_credited_to_the_teacher(n_seeds):
    kinds = verdicts(n_seeds, (-2.0, 0.5, 0.5, 0.5, 0.5), 40)
    assert helps(kinds) <= 0.05
    assert share(kinds, "same_as_controls") >= 0.9


@pytest.mark.parametrize(("n_seeds", "power"), [(3, 0.9), (5, 0.98)])
def test_a_large_planted_effect_is_found(n_seeds, power):
    assert share(verdicts(n_seeds, (-1.0, 1.0, -1.0, -1.0, -1.0), 40), "located") >= power
    assert share(verdicts(n_seeds, (1.0, -1.0, 1.0, 1.0, 1.0), 40), "hurts") >= power

"""Residual dimensions of a plan's matrices: by hand, and against the plan's own number."""

from itertools import pairwise

import numpy as np
import pytest

from nuggets.errors import BadInput
from nuggets.extraction.plan import ExtractionConfig, LoraConfig, make_plan
from nuggets.extraction.selectors import (
    ConsistentSelector,
    RandomWindowSelector,
    RowsColsSelector,
    WeightsSelector,
)
from nuggets.views import sensitivity as views
from nuggets.views.residual import _blind
from tests.unit.extraction.test_selectors import STUDENT, TEACHER, make_map

LORA = LoraConfig(r=1)


def plan_of(selector, **changes):
    extraction = ExtractionConfig(matrices=selector, **changes)
    return make_plan(make_map(), STUDENT, extraction, LORA)


def test_dimensions_of_a_matrix_are_its_residual_axis():
    plan = plan_of(RowsColsSelector(), roles=("q", "o", "up", "down"))
    found = views.residual_dimensions(plan, TEACHER)
    # q and up read the stream with their columns, o and down write it with their rows.
    by_hand = [item.cols if item.role in ("q", "up") else item.rows for item in plan.items]
    assert found.modules == tuple(item.student_module for item in plan.items)
    assert [tuple(np.flatnonzero(line)) for line in found.chosen] == by_hand
    shared = [len(set(a) & set(b)) / 6 for a, b in pairwise(by_hand)]
    assert found.agreement == pytest.approx(shared)
    assert found.chance == 6 / 12


def test_mean_agreement_is_that_of_the_plan():
    plan = plan_of(RowsColsSelector())
    found = views.residual_dimensions(plan, TEACHER)
    assert found.agreement.mean() == pytest.approx(plan.residual_agreement)
    assert found.agreement.mean() < 1


def test_a_consistent_choice_agrees_everywhere():
    found = views.residual_dimensions(plan_of(ConsistentSelector()), TEACHER)
    assert (found.agreement == 1).all()
    assert (found.chosen == found.chosen[0]).all()


def test_single_weights_have_no_dimensions():
    with pytest.raises(BadInput, match="takes single weights, not dimensions"):
        views.residual_dimensions(plan_of(WeightsSelector()), TEACHER)


def test_blind_windows_share_more_than_their_size_because_both_hold_the_middle():
    # Two windows of 2 in 4 dimensions: of 9 pairs of places 3 share both, 4 share one, 2 none.
    lines = np.array([[1, 1, 0, 0], [0, 0, 1, 1]], dtype=bool)
    shared = sum(_blind(lines[0]) * _blind(lines[1]))
    assert shared / 2 == pytest.approx((3 * 2 + 4 * 1) / 9 / 2)
    assert _blind(np.array([1, 0, 0, 1], dtype=bool)) == pytest.approx(np.full(4, 0.5))


def test_chance_of_random_windows_is_what_many_of_them_share():
    drawn = [
        views.residual_dimensions(plan_of(RandomWindowSelector(seed=seed)), TEACHER)
        for seed in range(60)
    ]
    shared = [found.agreement.mean() for found in drawn]
    error = np.std(shared) / np.sqrt(len(shared))
    assert np.mean(shared) == pytest.approx(drawn[0].chance, abs=4 * error)
    assert drawn[0].chance > 0.6  # half the width


def test_blocks_of_dimensions_hold_the_share_that_is_chosen():
    found = views.residual_dimensions(plan_of(RowsColsSelector()), TEACHER)
    assert (views.dimension_shares(found) == found.chosen).all()
    blocks = views.dimension_shares(found, most=5)
    assert blocks.shape == (len(found.modules), 5)
    # 12 dimensions in 5 blocks: 2, 3, 2, 3 and 2 of them.
    assert blocks[:, 1] == pytest.approx(found.chosen[:, 2:5].mean(axis=1))
    assert blocks @ [2, 3, 2, 3, 2] == pytest.approx(found.chosen.sum(axis=1))

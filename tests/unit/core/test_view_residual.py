"""Residual dimensions of a plan's matrices: by hand, and against the plan's own number."""

from itertools import pairwise

import numpy as np
import pytest

from nuggets.core import views
from nuggets.core.plan import ExtractionConfig, LoraConfig, make_plan
from nuggets.core.selectors import ConsistentSelector, RowsColsSelector, WeightsSelector
from nuggets.errors import BadInput
from tests.unit.core.test_selectors import STUDENT, TEACHER, make_map

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
    with pytest.raises(BadInput, match="taken from everywhere"):
        views.residual_dimensions(plan_of(WeightsSelector()), TEACHER)

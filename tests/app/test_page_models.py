"""Models: the preflight of pairs that fit and that do not, and questions to both."""

from __future__ import annotations

import pytest

from nuggets import api
from tests.app.conftest import HOSTILE, rendered, shown


def frame(at, column):
    return next(part.value for part in at.dataframe if column in part.value.columns)


def test_dimensions_are_those_of_the_preflight(open_page):
    found = api.preflight("teacher", "sibling")
    shown_rows = frame(open_page("models", student="sibling"), "dimension").set_index("dimension")
    for row in found.dimensions:
        assert shown_rows.loc[row.name, "teacher"] == row.teacher
        assert shown_rows.loc[row.name, "student"] == row.student
    assert shown_rows.loc["weights", "student"] == found.student.parameters


def test_swapped_pair_is_refused_with_the_reason(open_page):
    at = open_page("models", teacher="independent", student="teacher")
    assert "swap the two models" in shown(at)
    assert "no: the student is larger" in set(frame(at, "dimension")["fits"])


@pytest.mark.parametrize("name", ["./no-such-folder", HOSTILE[:30]])
def test_unknown_model_is_one_sentence(open_page, name):
    at = open_page("models", teacher=name)
    assert name in shown(at)
    assert "<img" not in rendered(at)

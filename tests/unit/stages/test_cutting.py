"""The size of a cut, before anything is loaded."""

from __future__ import annotations

import pytest

from nuggets.errors import BadInput
from nuggets.models.architecture import ARCHITECTURES
from nuggets.models.pair import read_spec
from nuggets.models.references import parse_ref
from nuggets.recipe import CutJob
from nuggets.stages.cutting import student_spec

BOUND = [kind for kind, row in ARCHITECTURES.items() if not row.free_heads]


@pytest.mark.parametrize("kind", BOUND)
def test_a_narrower_student_has_as_many_heads_as_fill_its_width(kind, tiny):
    folder = tiny(kind)
    teacher = read_spec(parse_ref(str(folder)))
    job = CutJob(teacher=str(folder), sizes={"hidden_size": 16})
    student = student_spec(job, teacher)
    assert (student.n_heads, student.head_dim) == (2, 8)
    assert student.group == teacher.group


@pytest.mark.parametrize("width", [8, 24])
def test_a_width_between_whole_head_groups_is_refused(width, tiny):
    folder = tiny("stablelm")
    job = CutJob(teacher=str(folder), sizes={"hidden_size": width})
    with pytest.raises(BadInput, match="a width that is a multiple of 16,"):
        student_spec(job, read_spec(parse_ref(str(folder))))

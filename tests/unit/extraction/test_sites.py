"""What of a pair is cut and what starts as plain LoRA; a refusal recommends only what works."""

import itertools

import numpy as np
import pytest

from nuggets.errors import BadInput
from nuggets.extraction.layers import CkaPath, LayersByHand, RelativeDepth, TopLayers
from nuggets.extraction.plan import ExtractionConfig, LoraConfig, make_plan
from nuggets.extraction.selectors import ConsistentSelector, WindowSelector
from nuggets.extraction.sites import split_sites
from nuggets.models.architecture import LAYER_ROLES
from tests.unit.extraction.test_selectors import STUDENT, TEACHER, make_map, spec

ATTENTION, FFN = ("q", "k", "v", "o"), ("gate", "up", "down")
LORA = LoraConfig(r=2)


def split(student, roles=LAYER_ROLES, whole_heads=False, teacher=TEACHER):
    pairs = TopLayers().pairs(np.zeros(teacher.n_layers), student.n_layers)
    return split_sites(teacher, student, pairs, roles, whole_heads)


@pytest.mark.parametrize(
    ("changes", "whole_heads", "plain"),
    [
        ({}, False, ()),
        ({}, True, ()),
        ({"intermediate_size": 40}, False, FFN),
        ({"n_kv_heads": 4, "n_heads": 4}, False, ("k", "v")),
        ({"n_kv_heads": 4, "n_heads": 4}, True, ATTENTION),
        ({"head_dim": 2}, False, ()),
        ({"head_dim": 2}, True, ATTENTION),
        ({"n_heads": 8}, False, ("q", "o")),
    ],
)
def test_matrices_that_cannot_be_cut_start_plain(changes, whole_heads, plain):
    student = STUDENT.model_copy(update=changes)
    sites, uncut = split(student, whole_heads=whole_heads)
    assert {each.role for each in uncut} == set(plain)
    assert {site.role for site in sites} == set(LAYER_ROLES) - set(plain)
    assert len(sites) + len(uncut) == 14


def test_a_tied_teacher_gives_its_embedding_as_head_and_all_else_under_its_own_name():
    roles = (*LAYER_ROLES, "head")
    for tied in (False, True):
        teacher = TEACHER.model_copy(update={"tied": tied})
        sites, _ = split(STUDENT, roles, teacher=teacher)
        names = {site.role: site.teacher_module for site in sites}
        assert names.pop("head") == teacher.module("embed" if tied else "head")
        assert set(names) == set(LAYER_ROLES)
        for site in sites:
            if site.role != "head":
                assert site.teacher_module == teacher.module(site.role, site.teacher_layer)


def test_a_deeper_student_receives_every_layer_once_at_the_same_depth():
    deep = STUDENT.model_copy(update={"n_layers": 7})
    plan = make_plan(make_map(), deep, ExtractionConfig(), LORA)
    assert plan.alignment.pairs == ((0, 0), (2, 1), (4, 2), (6, 3))
    assert {item.student_layer for item in plan.plain} == {1, 3, 5}
    assert plan.plain_sentence == (
        "21 of 49 matrices start as plain LoRA, the others from the teacher (layers 1, 3, 5: the "
        "student is deeper than the teacher)."
    )
    assert plan.notes[0] == plan.plain_sentence
    assert list(plan.ranks.values()) == [2] * 49
    each = sum(2 * sum(deep.shape(role)) for role in LAYER_ROLES)
    assert plan.trainable_parameters == 7 * each


@pytest.mark.parametrize("order", ["sensitivity", "first", "random"])
def test_a_deeper_student_can_be_chosen_consistently(order):
    deep = STUDENT.model_copy(update={"n_layers": 5})
    extraction = ExtractionConfig(matrices=ConsistentSelector(order=order))
    plan = make_plan(make_map(), deep, extraction, LORA)
    assert len(plan.items) == 28
    assert plan.residual_agreement == 1.0


def test_layer_maps_of_a_deeper_student():
    scores, cka = np.zeros(2), np.array([[0.0, 9, 0, 0], [0, 0, 0, 9.0]])
    assert CkaPath().pairs(scores, 4, cka) == ((1, 0), (3, 1))
    assert RelativeDepth().pairs(scores, 4) == ((0, 0), (1, 0), (2, 1), (3, 1))
    assert RelativeDepth().pairs(np.zeros(4), 2) == ((0, 0), (1, 3))
    assert LayersByHand(layers=(1, 0, 1)).pairs(scores, 3) == ((0, 1), (1, 0), (2, 1))
    with pytest.raises(BadInput, match="give 4 teacher layers"):
        LayersByHand(layers=(1, 0)).pairs(scores, 4)


def test_a_plan_without_plain_matrices_keeps_its_name():
    plan = make_plan(make_map(), STUDENT, ExtractionConfig(), LORA)
    assert not plan.plain
    known = plan.model_dump(mode="json")
    del known["plain"]  # as it was written before plans had them
    assert type(plan).model_validate(known).digest == plan.digest
    assert len(bytes.fromhex(plan.digest)) == 8  # a shorter name would be another one


VARIANTS = {
    "hidden_size": (6, 12, 20),
    "intermediate_size": (8, 40),
    "n_kv_heads": (1, 2, 4),
    "head_dim": (2, 4, 8),
    "n_layers": (2, 9),
}


def test_a_refusal_recommends_what_works():
    """Every pair of a grid: whoever does what is said is not refused again."""
    said = set()
    for values in itertools.product(*VARIANTS.values()):
        student = spec(heads=4).model_copy(update=dict(zip(VARIANTS, values, strict=True)))
        for whole_heads, roles in itertools.product((False, True), (LAYER_ROLES, ("k",), ("up",))):
            try:
                split(student, roles, whole_heads)
                continue
            except BadInput as refused:
                advice = str(refused).rpartition("). ")[2]
            said.add(advice.split()[0])
            if advice.startswith("Use the selector window"):
                split(student, roles, whole_heads=WindowSelector.whole_heads)
            elif advice.startswith("Extract "):
                named = advice.removeprefix("Extract ").removesuffix(" instead.").split(", ")
                split(student, named, whole_heads)
            elif advice == "Swap the two models.":
                split(TEACHER, roles, whole_heads, teacher=student)
            else:
                assert advice.startswith("Choose a teacher that is at least as large")
                split(student, roles, whole_heads, teacher=student)
    assert said == {"Use", "Extract", "Swap", "Choose"}

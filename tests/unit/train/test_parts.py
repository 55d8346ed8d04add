"""What every arm is in a comparison: its role, and the treatment that it is or controls."""

from __future__ import annotations

import pytest

from nuggets.extraction.layers import FirstLayers
from nuggets.extraction.selectors import ConsistentSelector
from nuggets.frozen import members
from nuggets.recipe import TransferRecipe, load_recipe
from nuggets.statistics.verdict import controls_of
from nuggets.train.arms.aligned import Hints, Memories
from nuggets.train.arms.family import Arm, Graft, Paper, Permuted, RandomWindow, WrongTask

EVERY = [arm for kind in members(Arm).values() for arm in kind.offered()]


def controlled(*arms, **fields):
    """Treatment → its content and its location controls."""
    parts = TransferRecipe(arms=arms, **fields).parts
    return {
        name: tuple(
            controls_of(parts, name, role) for role in ("content_control", "location_control")
        )
        for name, part in parts.items()
        if part.role == "treatment"
    }


def test_every_offered_treatment_has_a_content_control_among_what_is_offered():
    assert controlled(*EVERY) == {
        "paper": (
            ["permuted", "shuffled", "gaussian"],
            ["random_layers", "random_window", "wrong_task"],
        ),
        "graft": (["graft_permuted"], ["graft_first", "graft_random"]),
        "memories": (["memories_control"], []),
        "states": (["states_control"], []),
        "hints": (["hints_control"], []),
        "regressed": (["regressed_control"], []),
        "lexicon": (
            ["lexicon_no_rows", "lexicon_permuted", "lexicon_noise"],
            ["lexicon_late_blocks"],
        ),
    }


@pytest.mark.parametrize(
    "own",
    [
        Paper(label="own", layers=FirstLayers()),
        Paper(label="own", matrices=ConsistentSelector()),
        Paper(label="own", only=("q",)),
        Paper(label="own", task="sub"),
    ],
    ids=["layers", "matrices", "only", "task"],
)
def test_an_extraction_of_its_own_has_no_controls(own):
    found = controlled(Paper(), own, Permuted(), RandomWindow())
    assert found == {"paper": (["permuted"], ["random_window"]), "own": ([], [])}


def test_a_setting_that_is_the_recipes_own_is_no_extraction_of_its_own():
    fields = {"extraction": {"layers": {"kind": "first"}}, "data": {"task": "sub"}}
    arms = Paper(label="own", layers=FirstLayers(), task="sub"), Permuted()
    assert controlled(*arms, **fields) == {"own": (["permuted"], [])}


def test_a_control_judges_only_what_was_made_in_the_same_way():
    longer = Graft(label="longer", heal_steps=9)
    permuted = Graft(label="longer_permuted", heal_steps=9, origin="permuted")
    found = controlled(Graft(), longer, permuted, WrongTask())
    assert found == {"graft": ([], []), "longer": (["longer_permuted"], [])}
    few = Memories(label="few", n_general=8, control=True)
    assert controlled(Memories(), Hints(), few) == {"memories": ([], []), "hints": ([], [])}


def test_a_cut_by_another_task_is_a_location_control_and_one_by_the_target_a_treatment():
    by_sub = Graft(label="by_sub", task="sub")
    other = controlled(Graft(), by_sub, data={"task": "reverse"})
    assert other == {"graft": ([], ["by_sub"])}
    assert list(controlled(Graft(), by_sub, data={"task": "sub"})) == ["graft", "by_sub"]
    permuted = Graft(label="p", task="sub", origin="permuted")
    assert controlled(Graft(), permuted) == {"graft": (["p"], [])}


@pytest.mark.parametrize("name", ["quick", "controls", "graft", "lexicon"])
def test_the_shipped_recipes_answer_both_questions(name):
    parts = load_recipe(name).parts
    (treatment,) = [arm for arm, part in parts.items() if part.role == "treatment"]
    assert controls_of(parts, treatment, "content_control")
    assert controls_of(parts, treatment, "location_control")

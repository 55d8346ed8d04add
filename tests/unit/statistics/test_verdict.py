"""The verdict's rules and sentences, from differences written by hand."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuggets.statistics.comparisons import families, first_family
from nuggets.statistics.intervals import Interval
from nuggets.statistics.verdict import (
    KIND_WORDS,
    LOCATION_WORDS,
    RULES,
    Difference,
    Kind,
    Location,
    Part,
    Verdict,
    decide,
)

PARTS = {
    "vanilla": Part("reference"),
    "plain_LoRA": Part("baseline"),
    "paper": Part("treatment", "paper"),
    "permuted": Part("content_control", "paper"),
    "shuffled": Part("content_control", "paper"),
    "random_layers": Part("location_control", "paper"),
    "random_window": Part("location_control", "paper"),
    "graft": Part("treatment", "graft"),
    "graft_permuted": Part("content_control", "graft"),
    "teacher_labels": Part("comparator"),
    "PiSSA": Part("comparator"),
}
VALUES = dict.fromkeys(PARTS, 0.1) | {"paper": 0.215, "permuted": 0.208}
CONTENT, PLACES = ("permuted", "shuffled"), ("random_layers", "random_window")


def gap(arm, versus, mean, half, *, p_holm=None, n_seeds=5, seen=0.06, of=None):
    interval = Interval(
        mean=mean, low=mean - half, high=mean + half, level=0.95, n_seeds=n_seeds, n_items=100
    )
    p = 0.001 if abs(mean) > half else 0.5
    return Difference(
        arm=arm,
        versus=versus,
        interval=interval,
        p=p,
        p_holm=p if p_holm is None else p_holm,
        minimum_detectable=seen,
        n_comparisons=of,
    )


def judge(*differences, drop=PLACES, treatment=None):
    parts = {name: part for name, part in PARTS.items() if name not in drop}
    return decide(parts, VALUES, differences, treatment)


BETTER = gap("paper", "plain_LoRA", 0.065, 0.037)
OVER_PERMUTED = gap("paper", "permuted", 0.05, 0.02)
OVER_SHUFFLED = gap("paper", "shuffled", 0.115, 0.04)
HELPS = (BETTER, OVER_PERMUTED, OVER_SHUFFLED)
OVER_LAYERS = gap("paper", "random_layers", 0.06, 0.02)
OVER_WINDOW = gap("paper", "random_window", 0.04, 0.02)


def test_helps_names_the_baseline_and_the_closest_content_control():
    verdict = judge(*HELPS)
    assert (verdict.kind, verdict.location, verdict.words) == ("helps", None, "helps")
    assert verdict.sentence == (
        "The teacher's parameters help: paper is +0.065 [+0.028, +0.102] over plain LoRA and "
        "+0.050 [+0.030, +0.070] over the closest of its 2 content controls, permuted (5 seeds, "
        "100 items). Whether it mattered where they were taken from was not asked: no location "
        "control was run."
    )
    assert (verdict.treatment, verdict.versus) == ("paper", "permuted")
    assert verdict.difference == BETTER.interval


def test_located_beats_every_location_control_and_names_the_closest():
    verdict = judge(*HELPS, OVER_LAYERS, OVER_WINDOW, drop=())
    assert (verdict.kind, verdict.location) == ("helps", "located")
    assert verdict.words == "helps, located"
    assert verdict.sentence.endswith(
        "(5 seeds, 100 items). It mattered where they were taken from: +0.040 [+0.020, +0.060] "
        "over the closest of its 2 location controls, random window."
    )


def test_one_location_control_that_is_not_beaten_leaves_it_not_located():
    close = gap("paper", "random_window", 0.01, 0.02)
    verdict = judge(*HELPS, OVER_LAYERS, close, drop=())
    assert (verdict.kind, verdict.location) == ("helps", "not_located")
    assert verdict.sentence.endswith(
        " It is not shown that it matters where they are taken from: no detectable difference to "
        "some (random window: +0.010 [−0.010, +0.030]), it beat others (random layers: +0.060 "
        "[+0.040, +0.080])."
    )


def test_a_location_control_that_only_holm_saves_is_not_beaten():
    doubtful = gap("paper", "random_window", 0.04, 0.02, p_holm=0.06)
    assert judge(*HELPS, OVER_LAYERS, doubtful, drop=()).location == "not_located"


def test_the_published_graft_helps_and_its_choice_of_dimensions_is_not_shown_to_matter():
    parts = {
        "plain": Part("baseline"),
        "graft": Part("treatment", "graft"),
        "permuted": Part("content_control", "graft"),
        "random": Part("location_control", "graft"),
    }
    values = {"plain": 0.027, "graft": 0.575, "permuted": 0.086, "random": 0.562}
    found = [
        gap("graft", "plain", 0.548, 0.088, n_seeds=8),
        gap("graft", "permuted", 0.489, 0.095, n_seeds=8),
        gap("graft", "random", 0.013, 0.171, n_seeds=8),
    ]
    verdict = decide(parts, values, found)
    assert verdict.words == "helps, not located"
    assert verdict.sentence == (
        "The teacher's parameters help: graft is +0.548 [+0.460, +0.636] over plain and +0.489 "
        "[+0.394, +0.584] over its content control, permuted (8 seeds, 100 items). Where they "
        "were taken from made no detectable difference (to random: +0.013 [−0.158, +0.184])."
    )


def test_controls_from_elsewhere_that_did_better_are_said_to():
    worse = gap("paper", "random_layers", -0.06, 0.02)
    close = gap("paper", "random_window", 0.01, 0.02)
    verdict = judge(*HELPS, worse, close, drop=())
    assert verdict.location == "not_located"
    assert "others did better (random layers: −0.060 [−0.080, −0.040])." in verdict.sentence


@pytest.mark.parametrize(
    ("differences", "why"),
    [
        ((OVER_LAYERS,), "a location control shares no seed with it."),
        (
            (OVER_LAYERS, gap("paper", "random_window", 0.04, 0.02, n_seeds=2)),
            "the intervals of 2 seeds shared with random window are too narrow for a claim, which "
            "needs at least 3.",
        ),
    ],
)
def test_a_place_is_not_proven_without_enough_common_seeds(differences, why):
    verdict = judge(*HELPS, *differences, drop=())
    assert (verdict.kind, verdict.location) == ("helps", "not_proven")
    assert verdict.sentence.endswith(
        f"Whether it mattered where they were taken from is not proven: {why}"
    )


def test_two_seeds_cannot_hide_a_location_control_that_was_not_beaten():
    few = gap("paper", "random_window", 0.04, 0.02, n_seeds=2)
    close = gap("paper", "random_layers", 0.01, 0.02)
    assert judge(*HELPS, few, close, drop=()).location == "not_located"


def test_same_as_controls_names_the_control_that_was_not_beaten_and_both_numbers():
    verdict = judge(
        BETTER, gap("paper", "permuted", 0.007, 0.03), OVER_SHUFFLED, OVER_LAYERS, drop=()
    )
    assert (verdict.kind, verdict.location) == ("same_as_controls", None)
    assert verdict.sentence == (
        "It is not shown that the teacher's parameters help: paper is +0.065 [+0.028, +0.102] "
        "over plain LoRA, but +0.007 [−0.023, +0.037] over permuted, a content control "
        "(0.215 and 0.208; 5 seeds, 100 items)."
    )
    assert verdict.versus == "permuted"


def test_every_control_is_checked_and_not_the_closest_alone():
    noisy = gap("paper", "shuffled", 0.3, 0.4)
    verdict = judge(BETTER, OVER_PERMUTED, noisy)
    assert (verdict.kind, verdict.versus) == ("same_as_controls", "shuffled")
    far = gap("paper", "random_layers", 0.3, 0.4)
    assert judge(*HELPS, far, OVER_WINDOW, drop=()).location == "not_located"


def test_an_interval_above_zero_is_not_enough_when_holm_disagrees():
    near = gap("paper", "permuted", 0.05, 0.04, p_holm=0.06)
    assert judge(BETTER, near, OVER_SHUFFLED).kind == "same_as_controls"
    unsure = gap("paper", "plain_LoRA", 0.05, 0.04, p_holm=0.06)
    assert judge(unsure, OVER_PERMUTED, OVER_SHUFFLED).kind == "no_difference"


def test_a_small_p_value_is_not_enough_when_the_interval_holds_zero():
    mcnemar = gap("paper", "plain_LoRA", 0.03, 0.04, p_holm=0.01)
    assert judge(mcnemar, OVER_PERMUTED, OVER_SHUFFLED).kind == "no_difference"


def test_hurts_needs_no_control():
    worse = gap("paper", "plain_LoRA", -0.184, 0.12)
    verdict = judge(worse, drop=(*CONTENT, *PLACES))
    assert verdict.kind == "hurts"
    assert verdict.sentence == (
        "Paper hurts: −0.184 [−0.304, −0.064] against plain LoRA (5 seeds, 100 items)."
    )


def test_no_difference_says_what_could_have_been_seen():
    verdict = judge(gap("paper", "plain_LoRA", -0.006, 0.04, seen=0.0712), OVER_PERMUTED)
    assert verdict.kind == "no_difference"
    assert verdict.sentence == (
        "No detectable difference between paper and plain LoRA: −0.006 [−0.046, +0.034]. With "
        "5 seeds × 100 items a difference of 0.071 would be detected 80 % of the time."
    )
    assert verdict.minimum_detectable == 0.0712


def test_no_difference_names_its_family_where_there_is_one():
    of_three, alone = (
        judge(gap("paper", "plain_LoRA", 0.0, 0.04, of=of), OVER_PERMUTED).sentence for of in (3, 1)
    )
    assert of_three.endswith("would be detected 80 % of the time, as one of 3 comparisons.")
    assert alone.endswith("would be detected 80 % of the time.")


def test_no_difference_admits_when_nothing_could_have_been_seen():
    verdict = judge(gap("paper", "plain_LoRA", 0.1, 0.9, n_seeds=2, seen=None))
    assert verdict.sentence.endswith("With 2 seeds × 100 items no difference can be detected.")


def test_better_without_a_content_control_is_not_proven_whatever_else_was_run():
    verdict = judge(BETTER, OVER_LAYERS, OVER_WINDOW, drop=CONTENT)
    assert (verdict.kind, verdict.location) == ("not_proven", None)
    assert verdict.sentence == (
        "Paper is above plain LoRA, +0.065 [+0.028, +0.102], but no content control with the same "
        "parameters was run: not proven (5 seeds, 100 items)."
    )


def test_a_content_control_without_common_seeds_leaves_it_not_proven():
    verdict = judge(BETTER, OVER_PERMUTED)
    assert verdict.kind == "not_proven"
    assert "a content control shares no seed with it" in verdict.sentence


@pytest.mark.parametrize(("mean", "side"), [(0.3, "above"), (-0.3, "below")])
@pytest.mark.parametrize(
    ("n_seeds", "why"),
    [
        (1, "a single seed says nothing about training again: not proven (1 seed, items only, 100"),
        (
            2,
            "the intervals of 2 seeds are too narrow for a claim, which needs at least 3: not "
            "proven (2 seeds, 100",
        ),
    ],
)
def test_fewer_than_three_seeds_never_help_or_hurt_and_say_so(mean, side, n_seeds, why):
    verdict = judge(
        gap("paper", "plain_LoRA", mean, 0.1, n_seeds=n_seeds),
        gap("paper", "permuted", 0.3, 0.1, n_seeds=n_seeds),
        gap("paper", "shuffled", 0.3, 0.1, n_seeds=n_seeds),
    )
    assert verdict.kind == "not_proven"
    assert f"is {side} plain LoRA" in verdict.sentence
    assert verdict.sentence.endswith(f"{why} items).")


@pytest.mark.parametrize(("mean", "kind"), [(0.3, "helps"), (-0.3, "hurts")])
def test_three_seeds_are_enough(mean, kind):
    found = [gap("paper", other, mean, 0.1, n_seeds=3) for other in ("plain_LoRA", *CONTENT)]
    assert judge(*found).kind == kind


def test_two_seeds_shared_with_one_content_control_are_enough_to_forbid_helps():
    lonely = gap("paper", "permuted", 0.3, 0.1, n_seeds=2)
    verdict = judge(BETTER, lonely, OVER_SHUFFLED)
    assert verdict.kind == "not_proven"
    assert "the intervals of 2 seeds shared with permuted are too narrow" in verdict.sentence


def test_the_best_comparator_that_beats_the_treatment_is_named():
    differences = [*HELPS, gap("PiSSA", "paper", 0.04, 0.02),
                   gap("teacher_labels", "paper", 0.785, 0.05)]  # fmt: skip
    verdict = judge(*differences)
    assert verdict.kind == "helps"
    assert verdict.comparator == "teacher_labels"
    assert verdict.sentence.endswith(
        " Teacher labels did better: +0.785 [+0.735, +0.835] over paper."
    )
    assert judge(*differences[:3], gap("PiSSA", "paper", 0.04, 0.05)).comparator is None


def test_on_too_few_seeds_a_comparator_or_a_place_claims_no_more_than_the_treatment_may():
    """The intervals of two seeds hold the truth in .86 of experiments."""
    lonely = gap("teacher_labels", "paper", 0.785, 0.05, n_seeds=2)
    verdict = judge(*HELPS, lonely)
    assert verdict.comparator is None
    assert "did better" not in verdict.sentence
    here, there = gap("paper", "random_layers", 0.01, 0.02), OVER_WINDOW.model_copy(
        update={"interval": OVER_WINDOW.interval.model_copy(update={"n_seeds": 2})}
    )  # fmt: skip
    found = judge(*HELPS, here, there, drop=())
    assert found.location == "not_located"
    assert "random window" not in found.sentence


def test_without_treatment_or_baseline_nothing_is_judged():
    nothing = judge(drop=("paper", "graft"))
    assert (nothing.kind, nothing.treatment) == ("not_proven", None)
    alone = judge(OVER_PERMUTED, OVER_SHUFFLED, drop=("plain_LoRA",))
    assert alone.kind == "not_proven"
    assert alone.sentence == "Not proven: paper was not run on the same seeds as plain LoRA."


def test_the_published_rules_name_every_answer():
    for words in (*KIND_WORDS.values(), "located", "not located"):
        assert f"- {words}:" in RULES
    assert set(KIND_WORDS) == set(get_args(Kind))
    assert set(LOCATION_WORDS) == set(get_args(Location))


def test_a_difference_that_only_holm_denies_is_said_to_be_denied_by_holm():
    verdict = judge(gap("paper", "plain_LoRA", 0.065, 0.037, p_holm=0.07), OVER_PERMUTED)
    assert verdict.kind == "no_difference"
    assert (
        "+0.065 [+0.028, +0.102] (p 0.07 after Holm's correction). With 5 seeds" in verdict.sentence
    )


def test_a_verdict_of_0_1_says_by_which_rules_it_was_reached_once():
    old = Verdict.model_validate({"kind": "helps", "sentence": "Paper helps."})
    assert (old.edition, old.sentence) == (1, "Judged by the rules of 0.1: Paper helps.")
    assert Verdict.model_validate_json(old.model_dump_json()) == old
    new = judge(*HELPS)
    assert Verdict.model_validate_json(new.model_dump_json()) == new


def test_each_question_has_a_family_of_its_own_and_each_treatment_its_own_controls():
    found = families(PARTS)
    assert found[:6] == [
        [("paper", "plain_LoRA"), ("paper", "permuted"), ("paper", "shuffled")],
        [("paper", "random_layers"), ("paper", "random_window")],
        [("teacher_labels", "paper"), ("PiSSA", "paper")],
        [("graft", "plain_LoRA"), ("graft", "graft_permuted")],
        [],
        [("teacher_labels", "graft"), ("PiSSA", "graft")],
    ]
    assert {pair[0] for pair in found[6]} == set(PARTS) - {"plain_LoRA", "paper", "graft"}
    assert first_family(PARTS) == ["plain_LoRA", *CONTENT]
    assert first_family(PARTS, "graft") == ["plain_LoRA", "graft_permuted"]


SOME_GAP = st.builds(
    lambda versus, mean, half, p, n: gap("paper", versus, mean, half, p_holm=p, n_seeds=n),
    st.just(""),
    st.sampled_from([-0.3, -0.05, 0.0, 0.05, 0.3]),
    st.sampled_from([0.02, 0.1]),
    st.sampled_from([0.001, 0.06, 0.5]),
    st.integers(1, 5),
)
JUDGED = ("plain_LoRA", *CONTENT, *PLACES)


@st.composite
def experiments(draw):
    """Parts and differences of one treatment with any of its controls."""
    names = ["plain_LoRA", *draw(st.lists(st.sampled_from([*CONTENT, *PLACES]), unique=True))]
    parts = {"paper": PARTS["paper"], **{name: PARTS[name] for name in names}}
    found = {n: draw(SOME_GAP).model_copy(update={"versus": n}) for n in names}
    return parts, found


@given(experiments(), SOME_GAP, st.sampled_from(["content_control", "location_control"]))
def test_a_control_of_another_treatment_changes_no_verdict(experiment, other, role):
    parts, found = experiment
    more = parts | {"graft": PARTS["graft"], "theirs": Part(role, "graft")}
    extra = other.model_copy(update={"versus": "theirs"})
    assert decide(more, VALUES | {"theirs": 0.5}, [*found.values(), extra], "paper") == decide(
        parts, VALUES, list(found.values())
    )
    pairs = [pair for family in families(parts)[:2] for pair in family]
    assert [pair for family in families(more)[:2] for pair in family] == pairs


@given(experiments())
def test_helps_needs_every_content_control_beaten_and_one_at_least(experiment):
    parts, found = experiment
    verdict = decide(parts, VALUES, list(found.values()))
    content = [found[name] for name in CONTENT if name in found]
    enough = all(d.better and d.interval.n_seeds >= 3 for d in [found["plain_LoRA"], *content])
    assert (verdict.kind == "helps") == (enough and bool(content))
    without = {name: part for name, part in parts.items() if name not in CONTENT}
    assert decide(without, VALUES, list(found.values())).kind != "helps"


@given(experiments())
def test_located_needs_helps_and_every_location_control_beaten(experiment):
    parts, found = experiment
    verdict = decide(parts, VALUES, list(found.values()))
    places = [found[name] for name in PLACES if name in found]
    every = all(d.better and d.interval.n_seeds >= 3 for d in places)
    located = verdict.kind == "helps" and bool(places) and every
    assert (verdict.location == "located") == located
    assert (verdict.location is None) == (verdict.kind != "helps" or not places)


def test_every_control_has_to_be_beaten_not_only_the_closest():
    far_but_noisy = gap("paper", "shuffled", 0.115, 0.2)
    verdict = judge(BETTER, OVER_PERMUTED, far_but_noisy)
    assert OVER_PERMUTED.interval.mean < far_but_noisy.interval.mean
    assert (verdict.kind, verdict.versus) == ("same_as_controls", "shuffled")

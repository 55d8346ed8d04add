"""The verdict's rules and sentences, from differences written by hand."""

from __future__ import annotations

import pytest

from nuggets.statistics.intervals import Interval
from nuggets.statistics.verdict import RULES, Difference, decide

ROLES = {
    "vanilla": "reference",
    "plain_LoRA": "baseline",
    "paper": "treatment",
    "permuted": "control",
    "shuffled": "control",
    "teacher_labels": "comparator",
    "PiSSA": "comparator",
}
VALUES = {
    "vanilla": 0.05,
    "plain_LoRA": 0.15,
    "paper": 0.215,
    "permuted": 0.208,
    "shuffled": 0.1,
    "teacher_labels": 1.0,
    "PiSSA": 0.255,
}


def gap(arm, versus, mean, half, *, p_holm=None, n_seeds=5, seen=0.06):
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
    )


def judge(*differences, drop=(), treatment=None):
    roles = {name: role for name, role in ROLES.items() if name not in drop}
    return decide(roles, VALUES, differences, treatment)


BETTER = gap("paper", "plain_LoRA", 0.065, 0.037)
OVER_PERMUTED = gap("paper", "permuted", 0.05, 0.02)
OVER_SHUFFLED = gap("paper", "shuffled", 0.115, 0.04)


def test_helps_names_the_baseline_and_the_closest_control():
    verdict = judge(BETTER, OVER_PERMUTED, OVER_SHUFFLED)
    assert verdict.kind == "helps"
    assert verdict.sentence == (
        "Paper helps: +0.065 [+0.028, +0.102] over plain LoRA and +0.050 [+0.030, +0.070] over the "
        "closest of its 2 controls, permuted (5 seeds, 100 items)."
    )
    assert (verdict.treatment, verdict.versus) == ("paper", "permuted")
    assert verdict.difference == BETTER.interval


def test_same_as_controls_names_the_control_that_was_not_beaten_and_both_numbers():
    verdict = judge(BETTER, gap("paper", "permuted", 0.007, 0.03), OVER_SHUFFLED)
    assert verdict.kind == "same_as_controls"
    assert verdict.sentence == (
        "Paper is no better than its controls: what helped was not the teacher's knowledge. It is "
        "+0.065 [+0.028, +0.102] over plain LoRA, but +0.007 [−0.023, +0.037] over permuted "
        "(0.215 and 0.208; 5 seeds, 100 items)."
    )
    assert verdict.versus == "permuted"


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
    verdict = judge(worse, drop=("permuted", "shuffled"))
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


def test_no_difference_admits_when_nothing_could_have_been_seen():
    verdict = judge(gap("paper", "plain_LoRA", 0.1, 0.9, n_seeds=2, seen=None))
    assert verdict.sentence.endswith("With 2 seeds × 100 items no difference can be detected.")


def test_better_without_a_control_is_not_proven():
    verdict = judge(BETTER, drop=("permuted", "shuffled"))
    assert verdict.kind == "not_proven"
    assert verdict.sentence == (
        "Paper is above plain LoRA, +0.065 [+0.028, +0.102], but no control was run: "
        "not proven (5 seeds, 100 items)."
    )


def test_a_control_without_common_seeds_leaves_it_not_proven():
    verdict = judge(BETTER, OVER_PERMUTED)
    assert verdict.kind == "not_proven"
    assert "a control shares no seed with it" in verdict.sentence


@pytest.mark.parametrize(("mean", "side"), [(0.3, "above"), (-0.3, "below")])
def test_one_seed_never_helps_or_hurts_and_says_so(mean, side):
    verdict = judge(
        gap("paper", "plain_LoRA", mean, 0.1, n_seeds=1),
        gap("paper", "permuted", 0.3, 0.1, n_seeds=1),
        gap("paper", "shuffled", 0.3, 0.1, n_seeds=1),
    )
    assert verdict.kind == "not_proven"
    assert f"is {side} plain LoRA" in verdict.sentence
    assert verdict.sentence.endswith(
        "on a single seed: not proven (1 seed, items only, 100 items)."
    )


def test_one_seed_shared_with_one_control_is_enough_to_forbid_helps():
    lonely = gap("paper", "permuted", 0.3, 0.1, n_seeds=1)
    assert judge(BETTER, lonely, OVER_SHUFFLED).kind == "not_proven"


def test_the_best_comparator_that_beats_the_treatment_is_named():
    differences = [
        BETTER,
        OVER_PERMUTED,
        OVER_SHUFFLED,
        gap("PiSSA", "paper", 0.04, 0.02),
        gap("teacher_labels", "paper", 0.785, 0.05),
    ]
    verdict = judge(*differences)
    assert verdict.kind == "helps"
    assert verdict.comparator == "teacher_labels"
    assert verdict.sentence.endswith(
        " Teacher labels did better: +0.785 [+0.735, +0.835] over paper."
    )
    assert judge(*differences[:3], gap("PiSSA", "paper", 0.04, 0.05)).comparator is None


def test_without_treatment_or_baseline_nothing_is_judged():
    nothing = judge(drop=("paper",))
    assert (nothing.kind, nothing.treatment) == ("not_proven", None)
    alone = judge(OVER_PERMUTED, OVER_SHUFFLED, drop=("plain_LoRA",))
    assert alone.kind == "not_proven"
    assert alone.sentence == "Not proven: paper was not run on the same seeds as plain LoRA."


def test_the_published_rules_name_every_kind():
    for words in (
        "helps",
        "hurts",
        "same as its controls",
        "no detectable difference",
        "not proven",
    ):
        assert words in RULES


def test_a_difference_that_only_holm_denies_is_said_to_be_denied_by_holm():
    verdict = judge(gap("paper", "plain_LoRA", 0.065, 0.037, p_holm=0.07), OVER_PERMUTED)
    assert verdict.kind == "no_difference"
    assert (
        "+0.065 [+0.028, +0.102] (p 0.07 after Holm's correction). With 5 seeds" in verdict.sentence
    )


def test_every_control_has_to_be_beaten_not_only_the_closest():
    far_but_noisy = gap("paper", "shuffled", 0.115, 0.2)
    verdict = judge(BETTER, OVER_PERMUTED, far_but_noisy)
    assert OVER_PERMUTED.interval.mean < far_but_noisy.interval.mean
    assert (verdict.kind, verdict.versus) == ("same_as_controls", "shuffled")

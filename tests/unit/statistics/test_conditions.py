"""No verdict where rates differ or nothing was learned, and the rates are named otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from nuggets.statistics.cells import CellOutcome, Learned, Trial
from nuggets.statistics.conditions import NO_GROUND, Ground
from nuggets.statistics.report import build_report
from nuggets.workspace.recipes import load_recipe

ROLES = {"plain": "baseline", "paper": "treatment", "permuted": "content_control"}
RIGHT = {"plain": 0.3, "paper": 0.7, "permuted": 0.3, "labels": 0.9}
GRID = (1e-3, 1e-2)


def cell(arm: str, seed: int, **changes) -> CellOutcome:
    """Outcomes of 60 items; treatments get theirs from their own role."""
    right = np.random.default_rng([seed, *arm.encode()]).random(60) < RIGHT[arm]
    return CellOutcome(
        arm=arm,
        role=ROLES.get(arm, "comparator"),
        treatment="paper" if arm in ("paper", "permuted") else "",
        seed=seed,
        items=[str(i) for i in range(60)],
        outcomes={"exact_match": right.astype(float).tolist()},
        seconds=2.0,
        **{"learning_rate": 5e-3, **changes},
    )


def verdict(changes=lambda arm, seed: {}, ground=NO_GROUND, arms=tuple(ROLES)):
    found = [cell(arm, seed, **changes(arm, seed)) for arm in arms for seed in range(5)]
    return build_report(found, task="t", metric="exact_match", ground=ground).verdict


def learned(exact_match=1.0, loss=0.1):
    return {"learned": Learned(exact_match=exact_match, loss=loss, guessing=2.0, n=80)}


def tuned(arm, seed):
    """Every seed keeps a rate of its own, and arms need not agree."""
    keep = (seed + len(arm)) % 2
    trials = [Trial(lr=lr, value=0.5, loss=1.0, seconds=2.0) for lr in GRID]
    return {"learning_rate": GRID[keep], "trials": trials}


def test_one_fixed_rate_is_named():
    found = verdict()
    assert found.kind == "helps"
    assert found.sentence.endswith(" At learning rate 0.005, the same for all.")


def test_rates_that_every_seed_chose_from_the_same_grid_are_fair():
    found = verdict(tuned)
    assert found.kind == "helps"
    assert found.sentence.endswith(" Every seed at its best of 2 learning rates.")


def test_items_on_which_one_chooses_prove_nothing():
    found = verdict(ground=Ground(counts_test=False))
    assert (found.kind, found.location) == ("not_proven", None)
    assert "these are validation items" in found.sentence
    assert load_recipe("quick").ground.counts_test
    assert not load_recipe("quick", ["data.items=validation"]).ground.counts_test


@pytest.mark.parametrize("arm", ["paper", "permuted"])
def test_a_rate_chosen_once_for_an_arm_proves_nothing(arm):
    found = verdict(lambda name, seed: {"learning_rate": 1e-2 if name == arm else 5e-3})
    assert (found.kind, found.location) == ("not_proven", None)
    assert f"{arm} 0.01" in found.sentence


def test_another_grid_is_another_rate():
    def more(arm, seed):
        found = tuned(arm, seed)
        extra = [Trial(lr=1e-1, value=0.1, loss=3.0)] if arm == "paper" else []
        return found | {"trials": found["trials"] + extra}

    assert verdict(more).kind == "not_proven"


def test_a_comparator_may_have_rates_of_its_own():
    def rates(arm, seed):
        return {"learning_rate": 1e-3 if arm == "labels" else 5e-3}

    assert verdict(rates, arms=(*ROLES, "labels")).kind == "helps"


FACTS = Ground(facts=True, chance=0.05, informed="labels")


@pytest.mark.parametrize(("right", "kind"), [(0.89, "not_measurable"), (0.9, "helps")])
def test_facts_have_to_be_known_by_heart(right, kind):
    found = verdict(lambda arm, seed: learned(right if arm == "plain" else 1.0), FACTS)
    assert found.kind == kind
    if kind == "not_measurable":
        assert found.sentence == (
            "Not measurable: after training, plain says 0.89 of its own 80 training facts right "
            "and 0.90 are needed, so no arm could have shown what it knows. Train for more steps, "
            "at higher rates, or more roles, embed and head among them."
        )


@pytest.mark.parametrize(("loss", "kind"), [(2.0, "not_measurable"), (1.99, "helps")])
def test_other_skills_have_to_be_learned_better_than_by_guessing(loss, kind):
    assert verdict(lambda arm, seed: learned(0.0, loss if arm == "plain" else 0.1)).kind == kind


def test_only_the_baseline_has_to_learn_its_training_items():
    assert verdict(lambda arm, seed: learned(0.0 if arm == "paper" else 1.0), FACTS).kind == "helps"


def test_where_even_the_answers_leave_an_arm_at_chance_nothing_is_measurable(monkeypatch):
    arms = (*ROLES, "labels")
    assert verdict(ground=FACTS, arms=arms).kind == "helps"
    monkeypatch.setitem(RIGHT, "labels", 0.05)
    found = verdict(ground=FACTS, arms=arms)
    assert found.kind == "not_measurable"
    assert found.sentence.startswith("Not measurable: labels, which learns from the teacher's own")


def test_all_rates_are_paid_for_and_shown():
    found = [cell(arm, seed, **tuned(arm, seed)) for arm in ROLES for seed in range(5)]
    report = build_report(found, task="t", metric="exact_match")
    report = report.model_copy(update={"n_validation": 60, "n_validation_in_test": 0})
    arm = report.arms["paper"]
    assert (arm.seconds, arm.all_seconds) == (2.0, 4.0)
    assert arm.rate_words == "0.001 (2 seeds), 0.01 (3 seeds)"
    assert report.rates_chosen.endswith(", 2.0 times the training time of one rate")

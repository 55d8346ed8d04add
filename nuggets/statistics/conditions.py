"""What must hold before a verdict may be given: equal learning rates, and something learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nuggets.statistics.arms import ArmReport
from nuggets.statistics.comparisons import first_family
from nuggets.statistics.verdict import Part, Verdict, controls_of, in_words

RECALL = 0.9
"""Exact match on its training items from which an arm has learned facts."""


class Ground(NamedTuple):
    """What a task demands of its arms before a comparison means anything.

    Attributes:
        facts: whether training items have to be known by heart; of other skills the training
            loss has to be below that of guessing.
        chance: exact match by guessing.
        informed: the arm that learns from the teacher's answers, if there is one: where it stays
            at chance, nothing could have been seen.
        counts_test: whether the report counts test items, and not those on which one chooses.
    """

    facts: bool = False
    chance: float = 0.0
    informed: str = ""
    counts_test: bool = True


NO_GROUND = Ground()


def on_conditions(
    verdict: Verdict, arms: Mapping[str, ArmReport], parts: Mapping[str, Part], ground: Ground
) -> Verdict:
    """Return the verdict if its conditions hold, with the learning rates in its sentence.

    Otherwise it is "not measurable" (nothing was learned) or "not proven" (unequal rates, or items
    on which one chooses).
    """
    if verdict.treatment is None or verdict.difference is None:
        return verdict
    plain = {"location": None, "comparator": None}
    if reason := at_floor(arms, ground):
        sentence = f"Not measurable: {reason}"
        return verdict.model_copy(update=plain | {"kind": "not_measurable", "sentence": sentence})
    if not ground.counts_test:
        sentence = (
            "Not proven: these are validation items, on which rates and settings are chosen, so "
            "that the best of them had luck too. A claim needs the test items (data.items: test)."
        )
        return verdict.model_copy(update=plain | {"kind": "not_proven", "sentence": sentence})
    judged = [verdict.treatment, *first_family(parts, verdict.treatment)]
    judged += controls_of(parts, verdict.treatment, "location_control")
    trained = [arms[name] for name in judged if name in arms and arms[name].rates]
    if len({_rate_rule(arm) for arm in trained}) > 1:
        sentence = f"Not proven: {unequal_rates(trained)}"
        return verdict.model_copy(update=plain | {"kind": "not_proven", "sentence": sentence})
    return verdict.model_copy(update={"sentence": verdict.sentence + _at_rates(trained)})


def at_floor(arms: Mapping[str, ArmReport], ground: Ground) -> str:
    """Why nothing can be compared, and what to change; empty if something was learned."""
    for arm in arms.values():
        if arm.role == "baseline" and (reason := _not_learned(arm, ground)):
            return reason
    informed = arms.get(ground.informed)
    if informed is not None and "exact_match" in informed.metrics:
        found = informed.metrics["exact_match"]
        if found.low <= ground.chance:
            return (
                f"{in_words(informed.name)}, which learns from the teacher's own answers, stays at "
                f"chance ({found.mean:.2f} [{found.low:.2f}, {found.high:.2f}], chance "
                f"{ground.chance:.2f}), so these items show nothing. Check the task, or train "
                "for more steps or at higher rates."
            )
    return ""


def _not_learned(arm: ArmReport, ground: Ground) -> str:
    learned, name = arm.learned, in_words(arm.name)
    if learned is None:
        return ""
    advice = "Train for more steps, at higher rates, or more roles, embed and head among them."
    if ground.facts and learned.exact_match < RECALL:
        return (
            f"after training, {name} says {learned.exact_match:.2f} of its own {learned.n} "
            f"training facts right and {RECALL:.2f} are needed, so no arm could have shown what it "
            f"knows. {advice}"
        )
    if not ground.facts and learned.loss >= learned.guessing:
        return (
            f"after training, {name} has a loss of {learned.loss:.2f} per answer token on its own "
            f"training items, and guessing by how frequent each token is has "
            f"{learned.guessing:.2f}, so nothing was learned. {advice}"
        )
    return ""


def unequal_rates(arms: Sequence[ArmReport]) -> str:
    """Say that arms had different learning rates."""
    listed = ", ".join(f"{in_words(arm.name)} {arm.rate_words}" for arm in arms)
    return (
        f"the arms were trained at different learning rates ({listed}), which can make such a "
        "difference by themselves."
    )


def _rate_rule(arm: ArmReport) -> tuple[str, tuple[float, ...]]:
    """What has to be the same for all arms: the rates to choose from, or the one rate."""
    return ("best of", tuple(arm.tried)) if arm.tried else ("fixed", tuple(sorted(set(arm.rates))))


def _at_rates(arms: Sequence[ArmReport]) -> str:
    if not arms:
        return ""
    which, rates = _rate_rule(arms[0])
    if which == "fixed":
        return f" At learning rate {', '.join(f'{rate:g}' for rate in rates)}, the same for all."
    return f" Every seed at its best of {len(rates)} learning rates."

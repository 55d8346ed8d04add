"""The verdict on a transfer: two answers, from fixed rules that are published with it.

Controls answer two questions. Content controls keep the shape and the norm of what is taken from
the teacher and destroy its meaning; location controls take real teacher parameters from elsewhere.
Each belongs to one treatment and judges no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, model_validator

from nuggets.frozen import Frozen
from nuggets.statistics.intervals import LEVEL, Interval

ArmRole = Literal[
    "baseline", "treatment", "content_control", "location_control", "comparator", "reference"
]
"""baseline: plain LoRA. treatment: an arm to judge. content_control: as a treatment, but what was
taken has lost its meaning. location_control: as a treatment, but taken from elsewhere in the
teacher. comparator: a different method for the same goal. reference: no training."""

StoredRole = Annotated[
    ArmRole, BeforeValidator(lambda role: "content_control" if role == "control" else role)
]
"""A role in a file. 0.1 wrote `control` for both kinds; a run's recipe says which each one is."""

Kind = Literal[
    "helps", "hurts", "same_as_controls", "no_difference", "not_proven", "not_measurable"
]
Location = Literal["located", "not_located", "not_proven"]

KIND_WORDS: dict[Kind, str] = {
    "helps": "helps",
    "hurts": "hurts",
    "same_as_controls": "same as its controls",
    "no_difference": "no detectable difference",
    "not_proven": "not proven",
    "not_measurable": "not measurable",
}
LOCATION_WORDS: dict[Location, str] = {
    "located": "located",
    "not_located": "not located",
    "not_proven": "location not proven",
}
LEAST_SEEDS = 3
"""For a claim: with 2 seeds a 95 % interval holds the true difference in .862 of experiments."""
EDITION = 2
"""Of the rules; a verdict without one is of 0.1, which had one kind of control."""

RULES = """\
All differences are paired by seed and item, and positive means better. An arm is better than
another if the 95 % interval of their difference lies above 0 and its p-value, after Holm's
correction over a family of comparisons, is at most .05; worse likewise. A treatment is judged by
its own controls only. Content controls keep the shape and norm of what was taken from the teacher
and destroy its meaning. Location controls take parameters from elsewhere in the teacher.

Question 1: did the teacher's parameters help? The family: the treatment against plain LoRA and
against each of its content controls.
- helps: better than plain LoRA and than every content control, of which there is at least one.
- same as its controls: better than plain LoRA, but not than every content control.
- hurts: worse than plain LoRA.
- no detectable difference: neither better nor worse than plain LoRA. The sentence gives the
  difference that would be detected 80 % of the time.
- not proven: nothing to compare with, no content control with the same parameters, a
  difference on fewer than 3 seeds, whose intervals are too narrow, or unequal learning rates. All
  arms have one fixed rate, named in the verdict, or every seed of every arm is trained at the same
  rates and keeps the best on validation items, which are never test items.
- not measurable: plain LoRA did not learn its own training items (facts: exact match below .90;
  other skills: a loss not below that of guessing by token frequency), or an arm that learns from
  the teacher's answers stays at chance. At such a floor nothing can be compared.

Question 2, only after "helps": did it matter where they were taken from? A family of its own: the
treatment against each of its location controls.
- located: better than every one.
- not located: not better than at least one.
- not proven: otherwise, if a comparison has fewer than 3 seeds.

Several benchmarks of one run are one family for each question. If comparators beat the treatment
(after Holm's correction over the comparators), the best one is named.
"""


class Part(NamedTuple):
    """What an arm is in a comparison.

    `treatment` names a kind of treatment: a control judges the treatments of the same name alone.
    """

    role: ArmRole
    treatment: str = ""


class Difference(Frozen):
    """How much better `arm` is than `versus`; positive is better whatever the metric.

    `bootstrap` is the percentile interval of the hierarchical bootstrap, seeds then items; the
    verdict rests on `interval` (see `resampling`); `None` where seeds alone are compared.
    `p_holm` is adjusted within its family (see `comparisons.families`). `minimum_detectable`
    allows for the whole family by Bonferroni, so Holm needs no more; `None` when not even the
    largest possible difference of 0/1 outcomes would be found with that power, or when losses
    show no spread at all. `n_comparisons` is the size of the family; `None` in older files.
    """

    arm: str
    versus: str
    interval: Interval
    p: float
    p_holm: float
    minimum_detectable: float | None
    bootstrap: tuple[float, float] | None = None
    n_comparisons: int | None = None

    @property
    def family(self) -> str:
        """For how many comparisons its detectable difference allows; empty in older files."""
        n = self.n_comparisons
        return "" if n is None else "alone" if n == 1 else f"one of {n} comparisons"

    @property
    def better(self) -> bool:
        """Whether `arm` is detectably better."""
        return self.interval.low > 0 and self.p_holm <= 1 - LEVEL

    @property
    def worse(self) -> bool:
        """Whether `arm` is detectably worse."""
        return self.interval.high < 0 and self.p_holm <= 1 - LEVEL


class Verdict(Frozen):
    """What the rules say about one treatment.

    `kind` answers the first question and `location` the second, `None` where it was not asked.
    `versus` is the arm that decided the first (the baseline, or a content control) and
    `difference` the treatment's distance to the baseline. `comparator` beat the treatment.
    """

    kind: Kind
    sentence: str
    location: Location | None = None
    treatment: str | None = None
    versus: str | None = None
    difference: Interval | None = None
    minimum_detectable: float | None = None
    comparator: str | None = None
    n_seeds: int = 0
    n_items: int = 0
    edition: int

    @model_validator(mode="before")
    @classmethod
    def _labelled(cls, stored: Any) -> Any:
        """Says of a verdict from a file of 0.1 by which rules it was reached."""
        if not isinstance(stored, dict) or "edition" in stored:
            return stored
        sentence = f"Judged by the rules of 0.1: {stored.get('sentence', '')}"
        return stored | {"edition": 1, "sentence": sentence}

    @property
    def words(self) -> str:
        """Both answers in a few words, for badges and lists."""
        where = f", {LOCATION_WORDS[self.location]}" if self.location else ""
        return KIND_WORDS[self.kind] + where


def controls_of(parts: Mapping[str, Part], treatment: str, role: ArmRole) -> list[str]:
    """The arms of a role that belong to a treatment."""
    kind = parts[treatment].treatment
    return [name for name, part in parts.items() if part == Part(role, kind)]


def decide(
    parts: Mapping[str, Part],
    values: Mapping[str, float],
    differences: Sequence[Difference],
    treatment: str | None = None,
) -> Verdict:
    """Judge one treatment by `RULES`.

    Args:
        parts: Part of every arm that finished.
        values: Mean of every arm, in the metric's units.
        differences: The treatment against the baseline and each of its controls, comparators
            against the treatment; others are ignored.
        treatment: The arm to judge; the first treatment when not given.
    """
    arm = treatment or next((name for name, part in parts.items() if part.role == "treatment"), "")
    if not arm:
        return Verdict(
            kind="not_proven",
            sentence="No transfer was run: there is nothing to judge.",
            edition=EDITION,
        )
    own = {d.versus: d for d in differences if d.arm == arm}
    base = next((own[name] for name in own if parts[name].role == "baseline"), None)
    if base is None:
        sentence = f"Not proven: {in_words(arm)} was not run on the same seeds as plain LoRA."
        return Verdict(kind="not_proven", sentence=sentence, treatment=arm, edition=EDITION)
    content, place = (
        [own.get(name) for name in controls_of(parts, arm, role)]
        for role in ("content_control", "location_control")
    )
    kind, text, decisive = _did_it_help(base, content, values)
    location, where = _did_place_matter(place) if kind == "helps" else (None, "")
    rivals = [d for d in differences if d.versus == arm and parts[d.arm].role == "comparator"]
    beaten_by = (d for d in rivals if d.better and not _few(d))
    rival = max(beaten_by, key=lambda d: d.interval.mean, default=None)
    if rival is not None:
        where += f" {_title(rival.arm)} did better: {_gap(rival)} over {in_words(arm)}."
    return Verdict(
        kind=kind,
        sentence=text[0].upper() + text[1:] + where,
        location=location,
        treatment=arm,
        versus=decisive.versus,
        difference=base.interval,
        minimum_detectable=base.minimum_detectable,
        comparator=rival.arm if rival else None,
        n_seeds=base.interval.n_seeds,
        n_items=base.interval.n_items,
        edition=EDITION,
    )


def _did_it_help(
    base: Difference, controls: Sequence[Difference | None], values: Mapping[str, float]
) -> tuple[Kind, str, Difference]:
    """Return kind, sentence and the deciding comparison. `None`: a control without common seeds."""
    arm, plain = in_words(base.arm), in_words(base.versus)
    if not base.better and not base.worse:
        return "no_difference", _no_difference(base), base
    if base.worse and not _few(base):
        return "hurts", f"{arm} hurts: {_gap(base)} against {plain} ({_size(base)}).", base
    if lacking := _lacking(base, controls):
        side = "above" if base.better else "below"
        text = f"{arm} is {side} {plain}, {_gap(base)}, but {lacking}: not proven ({_size(base)})."
        return "not_proven", text, base
    compared = [control for control in controls if control is not None]
    closest = min(compared, key=lambda d: d.interval.mean)
    unbeaten = [d for d in compared if not d.better]
    if not unbeaten:
        return "helps", _helps(base, closest, len(compared)), closest
    control = min(unbeaten, key=lambda d: d.interval.mean)
    return "same_as_controls", _same_as_controls(base, control, values), control


def _lacking(base: Difference, controls: Sequence[Difference | None]) -> str:
    """Say what a claim lacks; empty where nothing is lacking."""
    if _few(base):
        return _too_few(base)
    if not controls:
        return "no content control with the same parameters was run"
    if None in controls:
        return "a content control shares no seed with it"
    few = next((control for control in controls if control is not None and _few(control)), None)
    return "" if few is None else _too_few(few, f" shared with {in_words(few.versus)}")


def _did_place_matter(controls: Sequence[Difference | None]) -> tuple[Location | None, str]:
    """Return the answer to the second question, and its sentence."""
    compared = [control for control in controls if control is not None]
    unbeaten = any(not d.better and not _few(d) for d in compared)
    few = next((d for d in compared if _few(d)), None)
    asked = " Whether it mattered where they were taken from"
    if not controls:
        return None, f"{asked} was not asked: no location control was run."
    if unbeaten:
        return "not_located", _not_located([d for d in compared if not _few(d)])
    if few is not None:
        shared = f" shared with {in_words(few.versus)}"
        return "not_proven", f"{asked} is not proven: {_too_few(few, shared)}."
    if len(compared) < len(controls):
        return "not_proven", f"{asked} is not proven: a location control shares no seed with it."
    closest = min(compared, key=lambda d: d.interval.mean)
    return "located", (
        f" It mattered where they were taken from: {_gap(closest)} over "
        f"{_closest(closest, len(compared), 'location')}."
    )


def _not_located(compared: Sequence[Difference]) -> str:
    """Say to which location controls there is no difference, and what the others did."""

    def those(found: Sequence[Difference]) -> str:
        return "; ".join(f"{in_words(d.versus)}: {_gap(d)}" for d in found)

    beaten, worse = [d for d in compared if d.better], [d for d in compared if d.worse]
    alike = [d for d in compared if not d.better and not d.worse]
    if not beaten and not worse:
        return f" Where they were taken from made no detectable difference (to {those(alike)})."
    parts = (
        f"{said} ({those(found)})"
        for said, found in (
            ("no detectable difference to some", alike),
            ("others did better", worse),
            ("it beat others", beaten),
        )
        if found
    )
    return f" It is not shown that it matters where they are taken from: {', '.join(parts)}."


def _few(difference: Difference) -> bool:
    return difference.interval.n_seeds < LEAST_SEEDS


def _too_few(difference: Difference, shared: str = "") -> str:
    """Say why so few seeds prove nothing."""
    n = difference.interval.n_seeds
    if n == 1:
        return f"a single seed{shared} says nothing about training again"
    return (
        f"the intervals of {n} seeds{shared} are too narrow for a claim, which needs at least "
        f"{LEAST_SEEDS}"
    )


def _helps(base: Difference, closest: Difference, n_controls: int) -> str:
    return (
        f"the teacher's parameters help: {in_words(base.arm)} is {_gap(base)} over "
        f"{in_words(base.versus)} and {_gap(closest)} over "
        f"{_closest(closest, n_controls, 'content')} ({_size(base)})."
    )


def _closest(control: Difference, n_controls: int, which: str) -> str:
    one, several = f"its {which} control", f"the closest of its {n_controls} {which} controls"
    return f"{one if n_controls == 1 else several}, {in_words(control.versus)}"


def _same_as_controls(base: Difference, control: Difference, values: Mapping[str, float]) -> str:
    return (
        f"it is not shown that the teacher's parameters help: {in_words(base.arm)} is {_gap(base)} "
        f"over {in_words(base.versus)}, but {_gap(control)} over {in_words(control.versus)}, a "
        f"content control ({values[base.arm]:.3f} and {values[control.versus]:.3f}; "
        f"{_size(base)})."
    )


def _no_difference(base: Difference) -> str:
    seen, i = base.minimum_detectable, base.interval
    seeds = "1 seed" if i.n_seeds == 1 else f"{i.n_seeds} seeds"
    family = f", as {base.family}" if (base.n_comparisons or 1) > 1 else ""
    could = (
        f"a difference of {seen:.3f} would be detected 80 % of the time{family}"
        if seen
        else "no difference can be detected"
    )
    alone = base.interval.low > 0 or base.interval.high < 0
    holm = f" (p {base.p_holm:.2f} after Holm's correction)" if alone else ""
    return (
        f"no detectable difference between {in_words(base.arm)} and {in_words(base.versus)}: "
        f"{_gap(base)}{holm}. With {seeds} × {i.n_items} items {could}."
    )


def _gap(difference: Difference) -> str:
    i = difference.interval
    return f"{i.mean:+z.3f} [{i.low:+z.3f}, {i.high:+z.3f}]".replace("-", "−")


def _size(difference: Difference) -> str:
    i = difference.interval
    seeds = "1 seed, items only" if i.n_seeds == 1 else f"{i.n_seeds} seeds"
    return f"{seeds}, {i.n_items} items"


def in_words(name: str) -> str:
    """An arm's name for a sentence."""
    return name.replace("_", " ")


def _title(name: str) -> str:
    text = in_words(name)
    return text[:1].upper() + text[1:]

"""The verdict on a transfer: one sentence, from fixed rules that are published with it.

Measured on 1,000 simulated experiments each (baseline, treatment, three controls; 100 items; rate
.5, probit seed sd .2, item sd .7): among five equal arms the verdict is never "helps" with 2, 3 or
5 seeds. Where all controls are ruined and only the baseline can prevent a false claim, it is
"helps" in .018, .017 and .004 of the experiments. Of 200 experiments with a planted effect of 58
points, 3 and 5 seeds detect all, and 2 seeds detect 151.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from nuggets.frozen import Frozen
from nuggets.statistics.intervals import LEVEL, Interval

ArmRole = Literal["baseline", "treatment", "control", "comparator", "reference"]
"""baseline: plain LoRA. treatment: the arm to judge. control: like the treatment, but without the
teacher's knowledge. comparator: a different method for the same goal. reference: no training."""

Kind = Literal["helps", "hurts", "same_as_controls", "no_difference", "not_proven"]

RULES = """\
All differences are paired by seed and item, and positive means better. A difference counts if
its 95 % interval excludes 0 and its p-value, after Holm's correction over the treatment's
comparisons with the baseline and with every control, is at most .05. Only one treatment, named
before the run, is judged.

1. helps: better than the baseline and better than every control, with at least one control.
2. same as its controls: better than the baseline, but not than every control. What helped was not
   the teacher's knowledge.
3. hurts: worse than the baseline.
4. no detectable difference: neither better nor worse than the baseline. The sentence gives the
   difference that would be detected 80 % of the time.
5. not proven: nothing to compare with (no treatment or no baseline), better than the baseline
   but without a control, or a difference on a single seed. A single seed shows how one trained
   model answers other items, and nothing about repeating the training.

If comparators beat the treatment (after Holm's correction over the comparators), the best one is
named.
"""


class Difference(Frozen):
    """How much better `arm` is than `versus`; positive is better whatever the metric.

    `bootstrap` is the percentile interval of the hierarchical bootstrap, seeds then items; the
    verdict rests on `interval` (see `resampling`); `None` where seeds alone are compared.
    `p_holm` is adjusted within its family (see `comparisons.families`). `minimum_detectable`
    allows for the whole family by Bonferroni, so Holm needs no more; `None` when not even the
    largest possible difference of 0/1 outcomes would be found with that power, or when losses
    show no spread at all.
    """

    arm: str
    versus: str
    interval: Interval
    p: float
    p_holm: float
    minimum_detectable: float | None
    bootstrap: tuple[float, float] | None = None

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

    `versus` is the arm that decided (the baseline, or the control that was not beaten) and
    `difference` the treatment's distance to the baseline. `comparator` beat the treatment.
    """

    kind: Kind
    sentence: str
    treatment: str | None = None
    versus: str | None = None
    difference: Interval | None = None
    minimum_detectable: float | None = None
    comparator: str | None = None
    n_seeds: int = 0
    n_items: int = 0


def decide(
    roles: Mapping[str, ArmRole],
    values: Mapping[str, float],
    differences: Sequence[Difference],
    treatment: str | None = None,
) -> Verdict:
    """Judge one treatment by `RULES`.

    Args:
        roles: Role of every arm that finished.
        values: Mean of every arm, in the metric's units.
        differences: The treatment against the baseline and each control, comparators against the
            treatment; others are ignored.
        treatment: The arm to judge; the first treatment when not given.
    """
    arm = treatment or next((name for name, role in roles.items() if role == "treatment"), None)
    if arm is None:
        return Verdict(
            kind="not_proven", sentence="No transfer was run: there is nothing to judge."
        )
    own = {d.versus: d for d in differences if d.arm == arm}
    base = next((own[name] for name in own if roles[name] == "baseline"), None)
    if base is None:
        sentence = f"Not proven: {_plain(arm)} was not run on the same seeds as plain LoRA."
        return Verdict(kind="not_proven", sentence=sentence, treatment=arm)
    controls = [own.get(name) for name, role in roles.items() if role == "control"]
    rivals = [d for d in differences if d.versus == arm and roles[d.arm] == "comparator"]
    kind, text, decisive = _judge(base, controls, values)
    rival = max((d for d in rivals if d.better), key=lambda d: d.interval.mean, default=None)
    if rival is not None:
        text += f" {_title(rival.arm)} did better: {_gap(rival)} over {_plain(arm)}."
    return Verdict(
        kind=kind,
        sentence=text[0].upper() + text[1:],
        treatment=arm,
        versus=decisive.versus,
        difference=base.interval,
        minimum_detectable=base.minimum_detectable,
        comparator=rival.arm if rival else None,
        n_seeds=base.interval.n_seeds,
        n_items=base.interval.n_items,
    )


def _judge(
    base: Difference, controls: Sequence[Difference | None], values: Mapping[str, float]
) -> tuple[Kind, str, Difference]:
    """Return kind, sentence and the deciding comparison. `None`: a control without common seeds."""
    arm, plain, size = _plain(base.arm), _plain(base.versus), _size(base)
    if not base.better and not base.worse:
        return "no_difference", _no_difference(base), base
    side = "above" if base.better else "below"
    compared = [control for control in controls if control is not None]
    if min(d.interval.n_seeds for d in (base, *compared)) < 2:
        text = f"{arm} is {side} {plain}, {_gap(base)}, but on a single seed: not proven ({size})."
        return "not_proven", text, base
    if base.worse:
        return "hurts", f"{arm} hurts: {_gap(base)} against {plain} ({size}).", base
    closest = min(compared, key=lambda d: d.interval.mean, default=None)
    if closest is None or len(compared) < len(controls):
        why = "no control was run" if closest is None else "a control shares no seed with it"
        return (
            "not_proven",
            f"{arm} is above {plain}, {_gap(base)}, but {why}: not proven ({size}).",
            base,
        )
    unbeaten = min(
        (d for d in compared if not d.better), key=lambda d: d.interval.mean, default=None
    )
    if unbeaten is None:
        return "helps", _helps(base, closest, len(compared)), closest
    return "same_as_controls", _same_as_controls(base, unbeaten, values), unbeaten


def _helps(base: Difference, closest: Difference, n_controls: int) -> str:
    others = "its control" if n_controls == 1 else f"the closest of its {n_controls} controls"
    return (
        f"{_plain(base.arm)} helps: {_gap(base)} over {_plain(base.versus)} and {_gap(closest)} "
        f"over {others}, {_plain(closest.versus)} ({_size(base)})."
    )


def _same_as_controls(base: Difference, control: Difference, values: Mapping[str, float]) -> str:
    return (
        f"{_plain(base.arm)} is no better than its controls: what helped was not the teacher's "
        f"knowledge. It is {_gap(base)} over {_plain(base.versus)}, but {_gap(control)} over "
        f"{_plain(control.versus)} ({values[base.arm]:.3f} and {values[control.versus]:.3f}; "
        f"{_size(base)})."
    )


def _no_difference(base: Difference) -> str:
    seen, i = base.minimum_detectable, base.interval
    seeds = "1 seed" if i.n_seeds == 1 else f"{i.n_seeds} seeds"
    could = (
        f"a difference of {seen:.3f} would be detected 80 % of the time"
        if seen
        else "no difference can be detected"
    )
    alone = base.interval.low > 0 or base.interval.high < 0
    holm = f" (p {base.p_holm:.2f} after Holm's correction)" if alone else ""
    return (
        f"no detectable difference between {_plain(base.arm)} and {_plain(base.versus)}: "
        f"{_gap(base)}{holm}. With {seeds} × {i.n_items} items {could}."
    )


def _gap(difference: Difference) -> str:
    i = difference.interval
    return f"{i.mean:+z.3f} [{i.low:+z.3f}, {i.high:+z.3f}]".replace("-", "−")


def _size(difference: Difference) -> str:
    i = difference.interval
    seeds = "1 seed, items only" if i.n_seeds == 1 else f"{i.n_seeds} seeds"
    return f"{seeds}, {i.n_items} items"


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _title(name: str) -> str:
    text = _plain(name)
    return text[:1].upper() + text[1:]

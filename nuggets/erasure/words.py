"""What an erasure showed, in sentences."""

from __future__ import annotations

from typing import Any

import numpy as np

from nuggets.amounts import plain_name
from nuggets.erasure.orders import PartKind
from nuggets.erasure.report import OTHERS, RANDOM, ErasureReport, Point
from nuggets.frozen import Frozen
from nuggets.statistics.intervals import Interval

NOTABLE = 0.05
"""Damage below which a part is said to do next to nothing."""
NEGLIGIBLE = 0.002
"""Specificity that is none: skills differ in how much a random weight matters to them, by 1e-5."""
SPARED = 0.1
"""Mean damage to the others below which they are said to be spared."""
SEEN = 0.005
"""Nats below which a change of the loss is 0.00 on paper."""
MUCH = 0.1
"""Share of the sensitivity that is worth a sentence where it does next to nothing."""
NAMES = {
    "layers": ("layer", "layers"),
    "matrices": ("matrix", "matrices"),
    "heads": ("head", "heads"),
    "neurons": ("group of neurons", "groups of neurons"),
}
"""One part of a kind, and several, for people."""


def verdict(report: ErasureReport, order: str) -> str:
    """Whether a score finds what is specific to the skill, and what shows it best."""
    found = report.specificity(order)
    skill, name = report.skill, order_name(order)
    others = _telling(report, order)[1]
    low, high, chance = _by_chance(report, order)
    if found.low > high and others.damage.mean < SPARED:
        said = f"{name} finds weights that are specific to {skill}"
    elif found.low > high:
        said = f"{name} finds weights that {skill} needs more than other skills, but these need too"
    elif found.high < low:
        said = f"{name} finds weights that other skills need more than {skill}"
    else:
        said = f"{name} does not tell {skill} from other skills"
    return f"{said}: specificity {with_bounds(found)}{chance}. {effect(report, order)}"


def _by_chance(report: ErasureReport, order: str) -> tuple[float, float, str]:
    """What any weights show: one skill may bear less damage than another, whatever is erased.

    Returns:
        The bounds that a specificity has to be beyond, and random's own, in words, where it is
        another's and no bound of the negligible.
    """
    bounds, said = (-NEGLIGIBLE, NEGLIGIBLE), ""
    if RANDOM in report.curves:
        random = report.specificity(RANDOM)
        bounds = min(random.low, bounds[0]), max(random.high, bounds[1])
        if order != RANDOM and bounds != (-NEGLIGIBLE, NEGLIGIBLE):
            said = f" (random weights {with_bounds(random)})"
    return *bounds, said


def ablation(report: ErasureReport) -> str:
    """What erased weights were replaced by, where it is not 0."""
    if report.meta.get("ablation", "zero") == "zero":
        return ""
    return (
        "Erased weights go on to contribute their mean over the tokens of the other skills, which "
        "thereby lose less: read each specificity beside that of random."
    )


def effect(report: ErasureReport, order: str) -> str:
    """What erasing does where the skill and the others differ most."""
    telling = _telling(report, order)[0]
    count, fraction = telling.weights, telling.fraction
    at = [p for p in report.points(order) if p.fraction == fraction and p.skill != OTHERS]
    moved = {point.skill: np.sign(point.rise.mean) * _moved(point.rise) for point in at}
    said = []
    for sign, verb in ((1, "raises"), (-1, "lowers")):
        rises = [p for p in at if moved[p.skill] == sign]
        changes = [f"on {p.skill} by {with_bounds(p.rise, size=True)}" for p in rises]
        said += [f"{verb} the loss {_listed(changes)}"] if changes else []
    same = [f"{p.skill} ({with_bounds(p.rise)})" for p in at if moved[p.skill] == 0]
    said += [f"has no detectable effect on {_listed(same)}"] if same else []
    weights = "its first weight" if count == 1 else f"its first {count:,} weights"
    return f"Erasing {weights} ({percent(fraction)}) {', and '.join(said)}."


def _telling(report: ErasureReport, order: str) -> tuple[Point, Point]:
    """Where the skill and the mean of the others differ most, in the direction of the whole."""
    points = report.points(order)
    own, others = ([p for p in points if p.skill == s] for s in (report.skill, OTHERS))
    gaps = [a.damage.mean - b.damage.mean for a, b in zip(own, others, strict=True)]
    most = int(np.argmax(gaps if report.specificity(order).mean >= 0 else np.negative(gaps)))
    return own[most], others[most]


def _moved(rise: Interval) -> bool:
    return (rise.low > 0 or rise.high < 0) and abs(rise.mean) >= SEEN


def disagreement(report: ErasureReport, kind: PartKind) -> str:
    """How far the map's shares and the measured damage agree, and what belies the map."""
    found, rho = report.part_damage(kind), report.agreement(kind)
    one, many = NAMES[kind]
    if not np.isfinite(rho):
        return f"Taking out any {one} does the same, so that ranks cannot be compared."
    said = [
        f"Map and damage agree with a rank correlation of {_number(rho)} over {len(found)} {many}."
    ]
    shares = np.array([each.part.share for each in found])
    damages = np.array([each.own.mean for each in found])
    idle = damages < NOTABLE
    if shares[idle].sum() >= MUCH:
        subject = f"1 {one} holds" if idle.sum() == 1 else f"{idle.sum()} {many} hold"
        said.append(
            f"They disagree on how much: {subject} {shares[idle].sum():.0%} of the sensitivity, "
            f"yet without any one of them the damage to {report.skill} is below {NOTABLE}."
        )
    gap = _ranks(shares) - _ranks(damages)
    if gap.max() >= len(found) / 3:
        worst = found[int(np.argmax(gap))]  # much in the map, little in the model
        said.append(
            f"Their ranks differ most on {worst.part.name}: {worst.part.share:.1%} of the "
            f"sensitivity, and a damage of {with_bounds(worst.own)}."
        )
    return " ".join(said)


def _ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable")


def order_name(order: str) -> str:
    """An order for people: `specific`, `theta grad of king`."""
    return plain_name(order).replace("theta grad", "|θ·g|")


def percent(fraction: float) -> str:
    """A share of the weights, however small: `0.003 %`."""
    return f"{100 * fraction:.3g} %" if fraction >= 1e-5 else f"{100 * fraction:.1g} %"


def with_bounds(interval: Interval, size: bool = False) -> str:
    """`0.25 [0.20, 0.30]`; of a fall with `size`, how large it is."""
    numbers = (interval.mean, interval.low, interval.high)
    if size and interval.mean < 0:
        numbers = (-interval.mean, -interval.high, -interval.low)
    mean, low, high = map(_number, numbers)
    return f"{mean} [{low}, {high}]"


def _number(value: float) -> str:
    return f"{value:z.2f}".replace("-", "−")


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def as_tree(report: ErasureReport) -> dict[str, Any]:
    """Everything that the report says, as JSON values."""
    return {
        "skills": dict(report.skills),
        "fractions": list(report.fractions),
        "counts": list(report.counts),
        "orders": {
            order: {
                "specificity": report.specificity(order).model_dump(),
                "verdict": verdict(report, order),
                "points": [_json(point._asdict()) for point in report.points(order)],
            }
            for order in report.curves
        },
        "parts": {
            kind: {
                "agreement": _finite(report.agreement(kind)),
                "sentence": disagreement(report, kind),
                "damage": [_json(each._asdict()) for each in report.part_damage(kind)],
            }
            for kind in report.kinds
        },
        "meta": dict(report.meta),
    }


def _json(fields: dict[str, Any]) -> dict[str, Any]:
    return {k: v.model_dump() if isinstance(v, Frozen) else v for k, v in fields.items()}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None

"""What erasing showed: curves, how specific they are, and where map and damage disagree."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.special import stdtrit  # scipy.stats has it too, and takes .5 s to import

from nuggets.erasure.orders import Part, PartKind
from nuggets.errors import Damaged
from nuggets.statistics.intervals import LEVEL, Interval
from nuggets.statistics.spread import checked_outcomes, combine_parts, variance_parts
from nuggets.views.stability import rank_correlation

TENSORS = "erasure.safetensors"
META = "erasure.json"
SCHEMA = 1

Groups = Sequence[Float[ndarray, "n_maps _"]]


class Point(NamedTuple):
    """One skill at one point of a curve; `skill` is `others` for the mean of all other skills.

    `weights` are 0; `damage` is the rise of the loss over the rise to guessing, at most 1; `rise`
    is in nats per token; `right` is the share of items whose answer is still right.
    """

    order: str
    skill: str
    fraction: float
    weights: int
    damage: Interval
    rise: Interval
    right: float


class PartDamage(NamedTuple):
    """What taking one part out does to the skill, and to the others on average."""

    part: Part
    own: Interval
    others: Interval


OTHERS = "others"
RANDOM = "random"
"""The order of weights that finds nothing; the only one that is drawn independently per map."""


@dataclass(frozen=True, eq=False)
class ErasureReport:
    """Losses of a model with weights set to 0, item by item.

    Attributes:
        skills: skill → number of items; the first is the one that the maps are of.
        fractions: of the block weights, ascending.
        counts: the same as numbers of weights.
        guess: loss per token of guessing among all words, in nats.
        untouched: `[2, items]`, loss and exact match of the whole model.
        curves: order → `[maps, fractions, 2, items]`; one map where nothing is resampled.
        parts: which parts were taken out.
        without: `[parts, 2, items]`.
        meta: JSON facts: model, digest, settings.
    """

    skills: Mapping[str, int]
    fractions: tuple[float, ...]
    counts: tuple[int, ...]
    guess: float
    untouched: Float[ndarray, "2 n_items"]
    curves: Mapping[str, Float[ndarray, "n_maps n_fractions 2 n_items"]]
    parts: tuple[Part, ...]
    without: Float[ndarray, "n_parts 2 n_items"]
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def skill(self) -> str:
        """The skill that the maps are of."""
        return next(iter(self.skills))

    @property
    def kinds(self) -> list[PartKind]:
        """The kinds of parts that were taken out."""
        return list(dict.fromkeys(part.kind for part in self.parts))

    @property
    def places(self) -> dict[str, slice]:
        """Skill → where its items are."""
        ends = np.cumsum([0, *self.skills.values()])
        return {k: slice(*ends) for k, ends in zip(self.skills, pairwise(ends), strict=True)}

    def rise(self, outcomes: Float[ndarray, "*n 2 n_items"]) -> Float[ndarray, "*n n_items"]:
        """How far each item's loss is above that of the whole model."""
        return outcomes[..., 0, :] - self.untouched[0]

    def damage(self, outcomes: Float[ndarray, "*n 2 n_items"]) -> Float[ndarray, "*n n_items"]:
        """The rise of the loss over the skill's rise to guessing, between −1 and 1."""
        rise = self.rise(outcomes)
        for own in self.places.values():
            rise[..., own] /= self.guess - self.untouched[0, own].mean()
        return np.clip(rise, -1, 1)

    def points(self, order: str) -> list[Point]:
        """The curve of every skill and of the mean of the others, with intervals."""
        found, curve = [], self.curves[order]
        rise, damage, right = self.rise(curve), self.damage(curve), curve[:, :, 1]
        for at, (fraction, count) in enumerate(zip(self.fractions, self.counts, strict=True)):
            for skill, weights in self._weights().items():
                mean, risen = (
                    self._mean(values[:, at], weights, order) for values in (damage, rise)
                )
                correct = sum(w * right[:, at, self.places[s]].mean() for s, w in weights.items())
                found.append(Point(order, skill, fraction, count, mean, risen, float(correct)))
        return found

    def _weights(self) -> dict[str, dict[str, float]]:
        """What is drawn as a curve: each skill, and the mean of the others."""
        others = [skill for skill in self.skills if skill != self.skill]
        return {skill: {skill: 1.0} for skill in self.skills} | {
            OTHERS: dict.fromkeys(others, 1 / len(others))
        }

    def _mean(
        self, values: Float[ndarray, "n_maps n_items"], weights: Mapping, order: str = ""
    ) -> Interval:
        groups = [values[:, self.places[skill]] for skill in weights]
        return combined_interval(groups, list(weights.values()), order != RANDOM)

    def specificity(self, order: str) -> Interval:
        """Area between the skill's curve and the mean of the others', over log fraction.

        1: the skill is as bad as guessed at every fraction, and the others are untouched; 0: all
        suffer alike; below 0: the others suffer more. Paired by map; items of different skills are
        drawn by themselves.
        """
        at = np.log10(self.fractions)
        width = np.gradient(at) if len(at) > 1 else np.ones(1)
        width[[0, -1]] /= 2 if len(at) > 1 else 1  # the trapezoid rule
        area = np.tensordot(self.damage(self.curves[order]), width / width.sum(), axes=(1, 0))
        weights = self._weights()
        against = {skill: -w for skill, w in weights[OTHERS].items()}
        found = self._mean(area, weights[self.skill] | against, order)
        low, high = max(found.low, -1.0), min(found.high, 1.0)
        return found.model_copy(update={"low": low, "high": high})

    def part_damage(self, kind: PartKind) -> list[PartDamage]:
        """What taking out each part of a kind does, in the model's order."""
        weights, damage = self._weights(), self.damage(self.without)
        return [
            PartDamage(
                part,
                self._mean(damage[None, place], weights[self.skill]),
                self._mean(damage[None, place], weights[OTHERS]),
            )
            for place, part in enumerate(self.parts)
            if part.kind == kind
        ]

    def agreement(self, kind: PartKind) -> float:
        """Rank correlation of the map's shares with the measured damage; NaN where undefined."""
        found = self.part_damage(kind)
        share = np.array([[each.part.share for each in found]])
        damage = np.array([[each.own.mean for each in found]])
        return float(rank_correlation(share, damage)[0]) if len(found) > 1 else float("nan")

    def outcomes(self) -> dict[str, ndarray]:
        """The numbers by the names that they are saved under: all that `of` needs beside `head`."""
        curves = {f"curves.{name}": values for name, values in self.curves.items()}
        return curves | {"untouched": self.untouched, "without": self.without}

    def head(self) -> dict[str, Any]:
        """All but the numbers, as JSON."""
        return {
            "schema": SCHEMA,
            "skills": dict(self.skills),
            "fractions": list(self.fractions),
            "counts": list(self.counts),
            "guess": self.guess,
            "orders": list(self.curves),
            "parts": [part.model_dump() for part in self.parts],
            "meta": dict(self.meta),
        }

    def save(self, folder: Path) -> None:
        """Writes `erasure.safetensors` and `erasure.json` into an existing folder."""
        tensors = {k: np.ascontiguousarray(v) for k, v in self.outcomes().items()}
        save_file(tensors, folder / TENSORS)
        text = json.dumps(self.head(), indent=1, allow_nan=False)
        (folder / META).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> ErasureReport:
        """Reads a saved report.

        Raises:
            Damaged: if the folder does not hold a complete report.
        """
        try:
            head = json.loads((folder / META).read_text(encoding="utf-8"))
            return cls.of(head, load_file(folder / TENSORS))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as problem:
            raise Damaged(
                f"The erasure in {folder} is damaged or incomplete ({problem}). Delete the folder "
                "and measure it again."
            ) from None

    @classmethod
    def of(cls, head: Mapping[str, Any], tensors: Mapping[str, ndarray]) -> ErasureReport:
        """A report from its head and its numbers.

        Raises:
            ValueError: if they do not fit, or are not finite.
        """
        if head["schema"] != SCHEMA:
            raise ValueError(f"schema {head['schema']}, not {SCHEMA}")
        tensors = {name: values.astype(np.float64) for name, values in tensors.items()}
        _check(head, tensors)
        return cls(
            skills=head["skills"],
            fractions=tuple(head["fractions"]),
            counts=tuple(head["counts"]),
            guess=head["guess"],
            untouched=tensors["untouched"],
            curves={name: tensors[f"curves.{name}"] for name in head["orders"]},
            parts=tuple(Part.model_validate(part) for part in head["parts"]),
            without=tensors["without"],
            meta=head["meta"],
        )


def _check(head: Mapping[str, Any], tensors: Mapping[str, ndarray]) -> None:
    """Refuses numbers that do not fit what the head says of them.

    Raises:
        ValueError: naming what does not fit.
    """
    sizes, n = list(head["skills"].values()), len(head["fractions"])
    if len(sizes) < 2 or min(sizes) < 2 or n < 1 or len(head["counts"]) != n:
        raise ValueError("at least 2 skills, 2 items of each, and 1 fraction are needed")
    wanted = {"untouched": (), "without": (len(head["parts"]),)}
    shapes = {name: (*lead, 2, sum(sizes)) for name, lead in wanted.items()}
    for order in head["orders"]:
        shapes[f"curves.{order}"] = (*tensors[f"curves.{order}"].shape[:1], n, 2, sum(sizes))
    for name, shape in shapes.items():
        if tensors[name].shape != shape or not np.isfinite(tensors[name]).all():
            raise ValueError(f"{name} is {tensors[name].shape}, not {shape}, or not finite")


def combined_interval(
    groups: Groups, weights: Sequence[float], resampled: bool = False
) -> Interval:
    """Interval of a weighted sum of group means: groups share maps, and have items of their own.

    Every value is its group's, scaled so that the mean of all of them is the weighted sum and
    their spread over items is that of the groups' means; then it is Student's interval of any
    mean over seeds (here maps) and items, even where all damages are 0 or 1: they are no counts of
    right answers, for which a proportion's interval would be right.

    Args:
        groups: `[n_maps, n_items]` each.
        weights: one per group.
        resampled: the maps are the samples' own and some of the same samples drawn again, so that
            their spread is what one map would have among other samples, however many there are.
    """
    n_items = sum(group.shape[1] for group in groups)
    within, means = [], 0.0
    for group, weight in zip(groups, weights, strict=True):
        mean = group.mean(axis=1, keepdims=True)
        means = means + weight * mean
        within.append(weight * n_items / group.shape[1] * (group - mean))
    values = checked_outcomes(np.concatenate(within, axis=1) + means, LEVEL)
    parts = variance_parts(values)
    if resampled:
        parts[1:] = [(part * _as_one_sample(len(values)), df) for part, df in parts[1:]]
    mean, error, df = combine_parts(float(values.mean()), parts)
    half = float(-stdtrit(df, (1 - LEVEL) / 2)) * error
    shape = {"n_seeds": len(values), "n_items": n_items}
    return Interval(mean=mean, low=mean - half, high=mean + half, level=LEVEL, **shape)


def _as_one_sample(n: int) -> float:
    """What makes the squared error of a mean of n independent maps that of n resampled ones.

    With variance v of a map among samples, n − 1 maps are drawn around the first, which is that
    of the samples themselves: the mean errs by v for the samples and by v (n − 1) / n² for the
    draws, and the maps' own variance is on average v (n − 1) / n, which is divided by n for
    independent ones.
    """
    return n**2 / (n - 1) + 1

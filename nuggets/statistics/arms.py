"""One arm over all its seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from nuggets.frozen import Frozen
from nuggets.statistics.cells import CellOutcome, Learned
from nuggets.statistics.curves import CurvePoint, area_interval, curve_band
from nuggets.statistics.intervals import Interval, mean_interval
from nuggets.statistics.spread import is_binary
from nuggets.statistics.verdict import StoredRole


class ArmReport(Frozen):
    """One arm over its seeds; `per_seed` and `rates` follow `seeds`.

    `n` counts items. `rates` are the learning rates of the seeds, each the best of `tried` on its
    validation items, or all the same where none were tried; empty where nothing is trained.
    `learned` is what the arm can say of its own training items. `seconds` (one training),
    `all_seconds` (at every rate) and `flops` (one training) are means over seeds, and
    `trainable_parameters` the most of all seeds. `area` is the mean height of the learning curve
    (see `curves`), `None` where nothing was measured between its start and its end.
    """

    name: str
    role: StoredRole
    treatment: str = ""
    value: float
    interval: tuple[float, float]
    seeds: list[int]
    n: int
    per_seed: list[float]
    metrics: dict[str, Interval]
    old_skills: dict[str, Interval]
    curve: list[CurvePoint]
    seconds: float
    all_seconds: float = 0.0
    trainable_parameters: int
    rates: list[float] = Field(default_factory=list)
    tried: list[float] = Field(default_factory=list)
    learned: Learned | None = None
    samples: int
    steps: int
    flops: float = 0.0
    area: Interval | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_rate(cls, stored: Any) -> Any:
        """Reads a report of 0.1, where all seeds of an arm had one rate."""
        if not isinstance(stored, dict) or "learning_rate" not in stored:
            return stored
        found = {name: value for name, value in stored.items() if name != "learning_rate"}
        rate = stored["learning_rate"]
        return found | {"rates": [] if rate is None else [rate] * len(stored["seeds"])}

    @property
    def rate_words(self) -> str:
        """The learning rates, and how many seeds kept which; empty where nothing is trained."""
        kept = sorted(Counter(self.rates).items())
        if len(kept) == 1:
            return f"{kept[0][0]:g}"
        return ", ".join(f"{rate:g} ({n} {'seed' if n == 1 else 'seeds'})" for rate, n in kept)


def arm_report(by_seed: Mapping[int, CellOutcome], metric: str) -> ArmReport:
    """Summarise the cells of one arm."""
    cells = list(by_seed.values())
    first = cells[0]
    metrics = {m: mean_interval([c.outcomes[m] for c in cells]) for m in first.outcomes}
    main = metrics[metric]
    curves = [cell.curve for cell in cells]
    outcomes = np.asarray([cell.outcomes[metric] for cell in cells], dtype=np.float64)
    return ArmReport(
        name=first.arm,
        role=first.role,
        treatment=first.treatment,
        value=main.mean,
        interval=(main.low, main.high),
        seeds=list(by_seed),
        n=main.n_items,
        per_seed=[float(np.mean(c.outcomes[metric])) for c in cells],
        metrics=metrics,
        old_skills={s: mean_interval([c.old_skills[s] for c in cells]) for s in first.old_skills},
        curve=curve_band(curves, outcomes),
        seconds=float(np.mean([c.seconds for c in cells])),
        all_seconds=float(np.mean([_all_seconds(c) for c in cells])),
        trainable_parameters=max(c.trainable_parameters for c in cells),
        rates=[c.learning_rate for c in cells if c.learning_rate is not None],
        tried=sorted({trial.lr for c in cells for trial in c.trials}),
        learned=_learned(cells),
        samples=first.samples,
        steps=first.steps,
        flops=float(np.mean([c.flops for c in cells])),
        area=area_interval(curves, main.n_items, is_binary(outcomes)),
    )


def _all_seconds(cell: CellOutcome) -> float:
    """Training at every rate; what building took, once."""
    others = [trial.seconds for trial in cell.trials if trial.lr != cell.learning_rate]
    return cell.seconds + sum(others)


def _learned(cells: Sequence[CellOutcome]) -> Learned | None:
    """The mean over seeds, where it was measured."""
    found = [cell.learned for cell in cells if cell.learned is not None]
    if not found:
        return None

    def mean(field: str) -> float:
        return float(np.mean([getattr(each, field) for each in found]))

    return Learned(
        exact_match=mean("exact_match"),
        loss=mean("loss"),
        guessing=mean("guessing"),
        n=min(each.n for each in found),
    )

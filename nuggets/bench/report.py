"""From the outcomes of every arm and seed to one report: intervals, differences, verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy import stats

from nuggets.bench.comparisons import SeedOutcomes, compare_family, families
from nuggets.bench.statistics import LEVEL, Interval, mean_interval
from nuggets.bench.verdict import RULES, Difference, Role, Verdict, decide
from nuggets.errors import BadInput

CurvePoint = tuple[int, float, float, float]
"""Step, mean over seeds, low, high; a single seed has no band: low = mean = high."""


class Frozen(BaseModel):
    """Base of the values that are written to disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CellOutcome(Frozen):
    """What one arm did with one seed; a seed that failed has no cell.

    `items` are item ids, the same in the same order for all cells; `outcomes` holds per metric
    one value per item, `old_skills` per skill one 0/1 value per item of that skill. `curve` is
    (step, mean of the main metric). `seconds` is training time.
    """

    arm: str
    role: Role
    seed: int
    items: list[str]
    outcomes: dict[str, list[float]]
    old_skills: dict[str, list[float]] = Field(default_factory=dict)
    curve: list[tuple[int, float]] = Field(default_factory=list)
    seconds: float = 0.0
    trainable_parameters: int = 0
    learning_rate: float | None = None
    samples: int = 0
    steps: int = 0


class ArmReport(Frozen):
    """One arm over its seeds; `per_seed` follows `seeds`.

    `n` counts items, `seconds` is the mean and `trainable_parameters` the most of all seeds.
    """

    name: str
    role: Role
    value: float
    interval: tuple[float, float]
    seeds: list[int]
    n: int
    per_seed: list[float]
    metrics: dict[str, Interval]
    old_skills: dict[str, Interval]
    curve: list[CurvePoint]
    seconds: float
    trainable_parameters: int
    learning_rate: float | None
    samples: int
    steps: int


class BenchmarkReport(Frozen):
    """Every arm, every difference and the verdict of one benchmark.

    `verdicts` judges each treatment by itself; `verdict` is that of the treatment named before
    the run.
    """

    task: str
    metric: str
    higher_is_better: bool
    level: float
    n_items: int
    arms: dict[str, ArmReport]
    differences: list[Difference]
    verdict: Verdict
    verdicts: dict[str, Verdict]
    rules: str


def build_report(
    cells: Sequence[CellOutcome],
    *,
    task: str,
    metric: str,
    higher_is_better: bool = True,
    treatment: str | None = None,
) -> BenchmarkReport:
    """Summarise all cells and judge the treatments.

    Differences are those of `comparisons.families`, paired by the seeds that both arms have.

    Args:
        cells: One per arm and seed, in the order in which arms are to be shown.
        task: Name of the benchmark task.
        metric: The metric, a key of every cell's `outcomes`, that is judged.
        higher_is_better: False for losses: differences are turned so that positive is better.
        treatment: The arm that `verdict` judges; the first treatment when not given.

    Raises:
        BadInput: Cells disagree on items, roles or budgets, or one lacks the metric.
        NonFinite: An outcome is NaN or infinite.
    """
    arms = _grouped(cells, metric)
    roles: dict[str, Role] = {n: next(iter(by_seed.values())).role for n, by_seed in arms.items()}
    if treatment is not None and roles.get(treatment) != "treatment":
        raise BadInput(f"There is no treatment {treatment!r} to judge among {sorted(roles)}.")
    outcomes: dict[str, SeedOutcomes] = {
        name: {seed: cell.outcomes[metric] for seed, cell in by_seed.items()}
        for name, by_seed in arms.items()
    }
    differences = [
        difference
        for family in families(roles)
        for difference in compare_family(outcomes, family, higher_is_better)
    ]
    reports = {name: _arm_report(by_seed, metric) for name, by_seed in arms.items()}
    values = {name: report.value for name, report in reports.items()}
    treatments = [name for name, role in roles.items() if role == "treatment"]
    return BenchmarkReport(
        task=task,
        metric=metric,
        higher_is_better=higher_is_better,
        level=LEVEL,
        n_items=len(cells[0].items),
        arms=reports,
        differences=differences,
        verdict=decide(roles, values, differences, treatment),
        verdicts={name: decide(roles, values, differences, name) for name in treatments},
        rules=RULES,
    )


def _grouped(cells: Sequence[CellOutcome], metric: str) -> dict[str, dict[int, CellOutcome]]:
    """Group cells by arm, seeds ascending, and refuse what cannot be compared."""
    if not cells:
        raise BadInput("No arm finished: there is nothing to report.")
    arms: dict[str, dict[int, CellOutcome]] = {}
    for cell in cells:
        _check_cell(cell, cells[0], metric)
        by_seed = arms.setdefault(cell.arm, {})
        if cell.seed in by_seed:
            raise BadInput(f"Arm {cell.arm!r} has seed {cell.seed} twice; keep one of the cells.")
        _check_same_arm(cell, next(iter(by_seed.values()), cell))
        by_seed[cell.seed] = cell
    return {name: dict(sorted(by_seed.items())) for name, by_seed in arms.items()}


def _check_cell(cell: CellOutcome, first: CellOutcome, metric: str) -> None:
    where = f"arm {cell.arm!r}, seed {cell.seed}"
    if cell.items != first.items:
        raise BadInput(
            f"The items of {where} are not those of arm {first.arm!r}, seed {first.seed}; "
            "every arm and seed must answer the same items in the same order."
        )
    if metric not in cell.outcomes:
        raise BadInput(f"There is no metric {metric!r} in {where}; it has {sorted(cell.outcomes)}.")
    for name, values in cell.outcomes.items():
        if len(values) != len(cell.items):
            raise BadInput(
                f"Metric {name!r} of {where} has {len(values)} values for {len(cell.items)} items."
            )


def _check_same_arm(cell: CellOutcome, first: CellOutcome) -> None:
    for field in ("role", "learning_rate", "samples", "steps"):
        mine, theirs = getattr(cell, field), getattr(first, field)
        if mine != theirs:
            raise BadInput(
                f"Seeds {first.seed} and {cell.seed} of arm {cell.arm!r} differ in {field}: "
                f"{theirs} and {mine}. Seeds of an arm must have the same budget."
            )
    for field in ("outcomes", "old_skills"):
        mine, theirs = (
            {name: len(values) for name, values in getattr(each, field).items()}
            for each in (cell, first)
        )
        if mine != theirs:
            raise BadInput(
                f"Seeds {first.seed} and {cell.seed} of arm {cell.arm!r} measured different "
                f"{field}: {theirs} and {mine} (name and number of items)."
            )


def _arm_report(by_seed: Mapping[int, CellOutcome], metric: str) -> ArmReport:
    cells = list(by_seed.values())
    first = cells[0]
    metrics = {m: mean_interval([c.outcomes[m] for c in cells]) for m in first.outcomes}
    main = metrics[metric]
    return ArmReport(
        name=first.arm,
        role=first.role,
        value=main.mean,
        interval=(main.low, main.high),
        seeds=list(by_seed),
        n=main.n_items,
        per_seed=[float(np.mean(c.outcomes[metric])) for c in cells],
        metrics=metrics,
        old_skills={s: mean_interval([c.old_skills[s] for c in cells]) for s in first.old_skills},
        curve=_curve(cells),
        seconds=float(np.mean([c.seconds for c in cells])),
        trainable_parameters=max(c.trainable_parameters for c in cells),
        learning_rate=first.learning_rate,
        samples=first.samples,
        steps=first.steps,
    )


def _curve(cells: Sequence[CellOutcome]) -> list[CurvePoint]:
    """Return mean and Student interval over seeds at every step that all seeds recorded."""
    curves = [dict(cell.curve) for cell in cells]
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    points: list[CurvePoint] = []
    for step in steps:
        values = [curve[step] for curve in curves]
        mean, half = float(np.mean(values)), 0.0
        if len(values) > 1:
            critical = float(stats.t.isf((1 - LEVEL) / 2, len(values) - 1))
            half = critical * float(stats.sem(values))
        points.append((step, mean, mean - half, mean + half))
    return points

"""From the outcomes of every arm and seed to one report: intervals, differences, verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field

from nuggets.errors import BadInput
from nuggets.frozen import Frozen
from nuggets.statistics.comparisons import SeedOutcomes, compare_family, families, first_family
from nuggets.statistics.curves import CurvePoint, area_interval, compare_areas, curve_band
from nuggets.statistics.intervals import LEVEL, Interval, mean_interval
from nuggets.statistics.power import DetectableEffect, detectable_effect
from nuggets.statistics.spread import is_binary
from nuggets.statistics.verdict import RULES, Difference, Part, StoredRole, Verdict, decide


class CellOutcome(Frozen):
    """What one arm did with one seed; a seed that failed has no cell.

    `role` and `treatment` are its part in the comparison (see `verdict.Part`).
    `items` are item ids, the same in the same order for all cells; `outcomes` holds per metric
    one value per item, `old_skills` per skill one 0/1 value per item of that skill. `curve` is
    (step, mean of the main metric). `seconds` and `flops` are what building and training took;
    evaluation is not counted.
    """

    arm: str
    role: StoredRole
    treatment: str = ""
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
    flops: float = 0.0


class ArmReport(Frozen):
    """One arm over its seeds; `per_seed` follows `seeds`.

    `n` counts items; `seconds` and `flops` are means and `trainable_parameters` the most of all
    seeds. `area` is the mean height of the learning curve (see `curves`), `None` where only the
    end was measured.
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
    trainable_parameters: int
    learning_rate: float | None
    samples: int
    steps: int
    flops: float = 0.0
    area: Interval | None = None


class BenchmarkReport(Frozen):
    """Every arm, every difference and the verdict of one benchmark.

    `verdicts` judges each treatment by itself; `verdict` is that of the treatment named before
    the run. `n_validation` counts the items that learning rates were tuned on, of which
    `n_validation_in_test` count in the report too; None where nothing was tuned or, in reports of
    earlier versions, not written down. `planned` is what seeds and items promised to show before
    any of it was run; `area_differences` compares learning curves, over seeds alone, and decides
    nothing.
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
    planned: DetectableEffect | None = None
    area_differences: list[Difference] = Field(default_factory=list)
    n_validation: int | None = None
    n_validation_in_test: int | None = None

    @property
    def tuned_on(self) -> str:
        """How many items learning rates were tuned on, in words; empty where nothing was tuned."""
        if self.n_validation is None:
            return ""
        return (
            f"learning rates tuned on {self.n_validation} validation items, "
            f"{self.n_validation_in_test} of them test items"
        )

    @property
    def parts(self) -> dict[str, Part]:
        """Arm → its part in the comparison."""
        return {name: Part(arm.role, arm.treatment) for name, arm in self.arms.items()}


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
    firsts = {name: next(iter(by_seed.values())) for name, by_seed in arms.items()}
    parts = {name: Part(cell.role, cell.treatment) for name, cell in firsts.items()}
    treatments = [name for name, part in parts.items() if part.role == "treatment"]
    if treatment is not None and treatment not in treatments:
        raise BadInput(f"The treatment {treatment!r} is not among the arms {sorted(parts)}.")
    outcomes: dict[str, SeedOutcomes] = {
        name: {seed: cell.outcomes[metric] for seed, cell in by_seed.items()}
        for name, by_seed in arms.items()
    }
    differences = [
        difference
        for family in families(parts)
        for difference in compare_family(outcomes, family, higher_is_better)
    ]
    curves = {name: {s: c.curve for s, c in by_seed.items()} for name, by_seed in arms.items()}
    n_items = len(cells[0].items)
    reports = {name: _arm_report(by_seed, metric) for name, by_seed in arms.items()}
    values = {name: report.value for name, report in reports.items()}
    return BenchmarkReport(
        task=task,
        metric=metric,
        higher_is_better=higher_is_better,
        level=LEVEL,
        n_items=n_items,
        arms=reports,
        differences=differences,
        verdict=decide(parts, values, differences, treatment),
        verdicts={name: decide(parts, values, differences, name) for name in treatments},
        rules=RULES,
        planned=_planned(arms, parts, treatment or next(iter(treatments), ""), higher_is_better),
        area_differences=[
            difference
            for family in families(parts)
            for difference in compare_areas(curves, family, higher_is_better, n_items)
        ],
    )


def _planned(
    arms: Mapping[str, Mapping[int, CellOutcome]],
    parts: Mapping[str, Part],
    treatment: str,
    binary: bool,
) -> DetectableEffect | None:
    """Return what the design could show; nothing is assumed about the spread of losses."""
    cells = list(arms.get(treatment, {}).values())
    if not cells or not binary or len(cells[0].items) < 2:
        return None
    against = len(first_family(parts, treatment))
    return detectable_effect(len(cells), len(cells[0].items), max(against, 1))


def _grouped(cells: Sequence[CellOutcome], metric: str) -> dict[str, dict[int, CellOutcome]]:
    """Group cells by arm, seeds ascending, and refuse what cannot be compared."""
    if not cells:
        raise BadInput("No arm has finished, so there is nothing to report.")
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
    for field in ("role", "treatment", "learning_rate", "samples", "steps"):
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
        trainable_parameters=max(c.trainable_parameters for c in cells),
        learning_rate=first.learning_rate,
        samples=first.samples,
        steps=first.steps,
        flops=float(np.mean([c.flops for c in cells])),
        area=area_interval(curves, main.n_items, is_binary(outcomes)),
    )

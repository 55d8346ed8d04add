"""From the outcomes of every arm and seed to one report: intervals, differences, verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from nuggets.errors import BadInput
from nuggets.frozen import Frozen
from nuggets.statistics.arms import ArmReport, arm_report
from nuggets.statistics.cells import CellOutcome
from nuggets.statistics.comparisons import SeedOutcomes, compare_family, families, first_family
from nuggets.statistics.conditions import NO_GROUND, Ground, on_conditions
from nuggets.statistics.curves import compare_areas
from nuggets.statistics.intervals import LEVEL
from nuggets.statistics.power import DetectableEffect, detectable_effect
from nuggets.statistics.verdict import RULES, Difference, Part, Verdict, decide


class BenchmarkReport(Frozen):
    """Every arm, every difference and the verdict of one benchmark.

    `verdicts` judges each treatment by itself; `verdict` is that of the treatment named before
    the run. `n_validation` counts the items that learning rates were chosen on, of which
    `n_validation_in_test` count in the report too; None where rates were given or, in reports of
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
    def rates_chosen(self) -> str:
        """How learning rates were chosen, in words; empty where they were given."""
        grid = max((arm.tried for arm in self.arms.values()), key=len, default=[])
        if self.n_validation is None or not grid:
            return ""
        one, all_rates = (sum(each) for each in zip(*self._seconds(), strict=True))
        cost = f", {all_rates / one:.1f} times the training time of one rate" if one else ""
        return (
            f"every seed of every arm was trained at {len(grid)} learning rates "
            f"({', '.join(f'{rate:g}' for rate in grid)}) and kept the best on "
            f"{self.n_validation} validation items, {self.n_validation_in_test} of them test "
            f"items{cost}"
        )

    def _seconds(self) -> list[tuple[float, float]]:
        """Of every arm with several rates: training at one of them, and at all."""
        return [(arm.seconds, arm.all_seconds) for arm in self.arms.values() if arm.tried]

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
    ground: Ground = NO_GROUND,
) -> BenchmarkReport:
    """Summarise all cells and judge the treatments.

    Differences are those of `comparisons.families`, paired by the seeds that both arms have.

    Args:
        cells: One per arm and seed, in the order in which arms are to be shown.
        task: Name of the benchmark task.
        metric: The metric, a key of every cell's `outcomes`, that is judged.
        higher_is_better: False for losses: differences are turned so that positive is better.
        treatment: The arm that `verdict` judges; the first treatment when not given.
        ground: What the task demands before anything can be compared on it.

    Raises:
        BadInput: Cells disagree on items, roles or budgets, or one lacks the metric.
        NonFinite: An outcome is NaN or infinite.
    """
    arms = _grouped(cells, metric)
    reports = {name: arm_report(by_seed, metric) for name, by_seed in arms.items()}
    parts = {name: Part(arm.role, arm.treatment) for name, arm in reports.items()}
    treatments = [name for name, part in parts.items() if part.role == "treatment"]
    if treatment is not None and treatment not in treatments:
        raise BadInput(f"The treatment {treatment!r} is not among the arms {sorted(parts)}.")
    differences = _differences(arms, parts, metric, higher_is_better)
    curves = {name: {s: c.curve for s, c in by_seed.items()} for name, by_seed in arms.items()}
    n_items = len(cells[0].items)
    values = {name: report.value for name, report in reports.items()}

    def judged(arm: str | None) -> Verdict:
        return on_conditions(decide(parts, values, differences, arm), reports, parts, ground)

    return BenchmarkReport(
        task=task,
        metric=metric,
        higher_is_better=higher_is_better,
        level=LEVEL,
        n_items=n_items,
        arms=reports,
        differences=differences,
        verdict=judged(treatment),
        verdicts={name: judged(name) for name in treatments},
        rules=RULES,
        planned=_planned(arms, parts, treatment or next(iter(treatments), ""), higher_is_better),
        area_differences=[
            difference
            for family in families(parts)
            for difference in compare_areas(curves, family, higher_is_better, n_items)
        ],
    )


def _differences(
    arms: Mapping[str, Mapping[int, CellOutcome]],
    parts: Mapping[str, Part],
    metric: str,
    higher_is_better: bool,
) -> list[Difference]:
    outcomes: dict[str, SeedOutcomes] = {
        name: {seed: cell.outcomes[metric] for seed, cell in by_seed.items()}
        for name, by_seed in arms.items()
    }
    return [
        difference
        for family in families(parts)
        for difference in compare_family(outcomes, family, higher_is_better)
    ]


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
    for field in ("role", "treatment", "samples", "steps"):
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

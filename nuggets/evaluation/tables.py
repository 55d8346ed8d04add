"""What a model did on a benchmark, and tables of several models or arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, Literal

import numpy as np
from pydantic import model_validator

from nuggets.data.samples import Format
from nuggets.errors import BadInput
from nuggets.frozen import Frozen
from nuggets.statistics.arms import ArmReport
from nuggets.statistics.comparisons import compare_together, families, higher_is_better
from nuggets.statistics.conditions import NO_GROUND, Ground, on_conditions
from nuggets.statistics.intervals import (
    Interval,
    PairedDifference,
    mean_interval,
    paired_difference,
)
from nuggets.statistics.verdict import Difference, Part, StoredRole, Verdict, decide


class BenchmarkOutcome(Frozen):
    """One model, or one arm with one seed, on one benchmark.

    Attributes:
        benchmark: its name, shots and format included.
        model: what was measured.
        metric: the outcome that is reported first.
        items: item ids.
        outcomes: metric → one value per item.
        shots: solved examples above each question.
        format: how prompts were written.
        truncated_prompts: prompts (one per choice) that lost their beginning.
        unfinished_answers: free answers that reached their length limit.
        seconds: wall time, loading not included.
        peak_memory: the process's largest memory so far, in bytes.
        arm: the arm of a transfer; empty for a model by itself.
        seed: its seed.
        role: of the arm in the comparison; None for a model by itself.
        treatment: the one that the arm is or controls (see `verdict.Part`).
    """

    benchmark: str
    model: str
    metric: str
    items: list[str]
    outcomes: dict[str, list[float]]
    shots: int
    format: Format
    truncated_prompts: int
    unfinished_answers: int
    seconds: float
    peak_memory: int
    arm: str = ""
    seed: int = 0
    role: StoredRole | None = None
    treatment: str = ""


class BenchmarkRow(Frozen):
    """One model, or one arm over its seeds.

    `differences` are to the row that the table names as its base, per metric, paired by seed and
    item, and positive where the row is better, which is the smaller loss; empty for the base and
    where no seed is shared.
    """

    name: str
    seeds: list[int]
    metrics: dict[str, Interval]
    differences: dict[str, PairedDifference]
    truncated_prompts: int
    unfinished_answers: int
    seconds: float


class BenchmarkTable(Frozen):
    """All rows of one benchmark; intervals are 95 % over seeds and items.

    `comparisons` are paired differences in `metric` with Holm's adjustment: for the arms of one
    transfer those of its report, and its `verdict` by the same rules and conditions; for others
    each against the base. All benchmarks of a run are one family. Tables of version 1 had losses'
    differences as they were subtracted; they are turned when they are read.
    """

    version: Literal[2]
    benchmark: str
    metric: str
    base: str
    n_items: int
    rows: list[BenchmarkRow]
    comparisons: tuple[Difference, ...] = ()
    verdict: Verdict | None = None

    @model_validator(mode="before")
    @classmethod
    def _turn_losses(cls, found: Any) -> Any:
        if not isinstance(found, dict) or "version" in found:
            return found
        rows = [_turned(BenchmarkRow.model_validate(row)) for row in found.get("rows", [])]
        return found | {"version": 2, "rows": rows}


def _turned(row: BenchmarkRow) -> BenchmarkRow:
    def mirrored(found: PairedDifference) -> PairedDifference:
        i = found.interval
        sides = {"mean": -i.mean, "low": -i.high, "high": -i.low}
        return found.model_copy(update={"interval": i.model_copy(update=sides)})

    differences = {
        metric: found if higher_is_better(metric) else mirrored(found)
        for metric, found in row.differences.items()
    }
    return row.model_copy(update={"differences": differences})


def build_tables(
    outcomes: Sequence[BenchmarkOutcome],
    base: str = "",
    trained: Mapping[str, ArmReport] | None = None,
    ground: Ground = NO_GROUND,
) -> list[BenchmarkTable]:
    """One table per benchmark, rows in the order in which they are given.

    Args:
        outcomes: models, or arms with their seeds.
        base: the row that others are compared with; the first when absent or unknown.
        trained: of one transfer's arms, at which rates they were trained and what they learned.
        ground: what its task demands of them before a verdict may be given.

    Raises:
        BadInput: if the outcomes of one benchmark are about different items.
    """
    grouped: dict[str, list[BenchmarkOutcome]] = {}
    for outcome in outcomes:
        grouped.setdefault(outcome.benchmark, []).append(outcome)
    every = [_by_row(own) for own in grouped.values()]
    compared = _compared(every, base)
    tables = [_table(rows, base, found) for rows, found in zip(every, compared, strict=True)]
    return [
        table.model_copy(
            update={"verdict": _judged(rows, table.comparisons, trained or {}, ground)}
        )
        for table, rows in zip(tables, every, strict=True)
    ]


Rows = Mapping[str, Sequence[BenchmarkOutcome]]
"""Model or arm → what it did with every seed on one benchmark."""


def _by_row(outcomes: Sequence[BenchmarkOutcome]) -> Rows:
    first = outcomes[0]
    rows: dict[str, list[BenchmarkOutcome]] = {}
    for outcome in outcomes:
        if outcome.items != first.items or set(outcome.outcomes) != set(first.outcomes):
            raise BadInput(
                f"{outcome.model} and {first.model} were measured on different items of "
                f"{first.benchmark}; evaluate both again on the same items."
            )
        rows.setdefault(outcome.arm or outcome.model, []).append(outcome)
    return rows


def _table(rows: Rows, base: str, comparisons: Sequence[Difference]) -> BenchmarkTable:
    first, chosen = next(iter(rows.values()))[0], _base(rows, base)
    return BenchmarkTable(
        version=2,
        benchmark=first.benchmark,
        metric=first.metric,
        base=chosen,
        n_items=len(first.items),
        rows=[
            _row(name, own, [] if name == chosen else rows[chosen]) for name, own in rows.items()
        ],
        comparisons=tuple(comparisons),
    )


def _base(rows: Rows, base: str) -> str:
    return base if base in rows else next(iter(rows))


def _compared(every: Sequence[Rows], base: str) -> list[list[Difference]]:
    """Differences per benchmark; Holm over all benchmarks of a family.

    Arms of several transfers share no baseline and no seeds: they are compared as models are.
    """
    values = [
        {name: {o.seed: _better_up(o) for o in own} for name, own in rows.items()} for rows in every
    ]
    pairs = [
        families(parts)
        if (parts := _parts(rows))
        else [[(name, _base(rows, base)) for name in rows if name != _base(rows, base)]]
        for rows in every
    ]
    found: list[list[Difference]] = [[] for _ in every]
    for family in zip_longest(*pairs, fillvalue=[]):
        together = compare_together(list(zip(values, family, strict=True)), higher_is_better=True)
        for own, differences in zip(found, together, strict=True):
            own += differences
    return found


def _parts(rows: Rows) -> dict[str, Part]:
    """Row → its part in the one transfer that all are of; empty otherwise."""
    firsts = {name: own[0] for name, own in rows.items()}
    parts = {n: Part(first.role, first.treatment) for n, first in firsts.items() if first.role}
    baselines = sum(part.role == "baseline" for part in parts.values())
    return parts if baselines == 1 else {}


def _judged(
    rows: Rows, comparisons: Sequence[Difference], trained: Mapping[str, ArmReport], ground: Ground
) -> Verdict | None:
    """What the differences say of a transfer's treatment, if its training allows a verdict."""
    parts = _parts(rows)
    if "treatment" not in {part.role for part in parts.values()}:
        return None
    means = {n: float(np.mean([o.outcomes[o.metric] for o in rows[n]])) for n in parts}
    return on_conditions(decide(parts, means, comparisons), trained, parts, ground)


def _better_up(outcome: BenchmarkOutcome) -> Sequence[float]:
    """The outcomes in the table's metric, turned around where smaller ones are better."""
    found = outcome.outcomes[outcome.metric]
    return found if higher_is_better(outcome.metric) else [-value for value in found]


def _gain(
    metric: str, own: Sequence[Sequence[float]], base: Sequence[Sequence[float]]
) -> PairedDifference:
    """How much better a row is than the base."""
    return paired_difference(*((own, base) if higher_is_better(metric) else (base, own)))


def _row(
    name: str, own: Sequence[BenchmarkOutcome], base: Sequence[BenchmarkOutcome]
) -> BenchmarkRow:
    metrics = list(own[0].outcomes)
    theirs = {outcome.seed: outcome for outcome in base}
    pairs = [(outcome, theirs[outcome.seed]) for outcome in own if outcome.seed in theirs]
    return BenchmarkRow(
        name=name,
        seeds=[outcome.seed for outcome in own],
        metrics={m: mean_interval([o.outcomes[m] for o in own]) for m in metrics},
        differences={
            m: _gain(m, *([o.outcomes[m] for o in side] for side in zip(*pairs, strict=True)))
            for m in (metrics if pairs else [])
        },
        truncated_prompts=sum(outcome.truncated_prompts for outcome in own),
        unfinished_answers=sum(outcome.unfinished_answers for outcome in own),
        seconds=float(np.mean([outcome.seconds for outcome in own])),
    )

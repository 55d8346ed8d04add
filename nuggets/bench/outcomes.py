"""What a model did on a benchmark, and tables of several models or arms. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nuggets.bench.statistics import Interval, PairedDifference, mean_interval, paired_difference
from nuggets.core.architecture import Frozen
from nuggets.core.samples import Format
from nuggets.errors import BadInput


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


class BenchmarkRow(Frozen):
    """One model, or one arm over its seeds.

    `differences` are to the row that the table names as its base, per metric, paired by seed and
    item; empty for the base and where no seed is shared.
    """

    name: str
    seeds: list[int]
    metrics: dict[str, Interval]
    differences: dict[str, PairedDifference]
    truncated_prompts: int
    unfinished_answers: int
    seconds: float


class BenchmarkTable(Frozen):
    """All rows of one benchmark; intervals are 95 % over seeds and items."""

    benchmark: str
    metric: str
    base: str
    n_items: int
    rows: list[BenchmarkRow]


def build_tables(outcomes: Sequence[BenchmarkOutcome], base: str = "") -> list[BenchmarkTable]:
    """One table per benchmark, rows in the order in which they are given.

    Args:
        outcomes: models, or arms with their seeds.
        base: the row that others are compared with; the first when absent or unknown.

    Raises:
        BadInput: if the outcomes of one benchmark are about different items.
    """
    names = list(dict.fromkeys(outcome.benchmark for outcome in outcomes))
    return [_table([o for o in outcomes if o.benchmark == name], base) for name in names]


def _table(outcomes: Sequence[BenchmarkOutcome], base: str) -> BenchmarkTable:
    first = outcomes[0]
    rows: dict[str, list[BenchmarkOutcome]] = {}
    for outcome in outcomes:
        if outcome.items != first.items or set(outcome.outcomes) != set(first.outcomes):
            raise BadInput(
                f"{outcome.model} and {first.model} were measured on different items of "
                f"{first.benchmark}; measure both again on the same ones."
            )
        rows.setdefault(outcome.arm or outcome.model, []).append(outcome)
    chosen = base if base in rows else next(iter(rows))
    return BenchmarkTable(
        benchmark=first.benchmark,
        metric=first.metric,
        base=chosen,
        n_items=len(first.items),
        rows=[
            _row(name, own, [] if name == chosen else rows[chosen]) for name, own in rows.items()
        ],
    )


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
            m: paired_difference(
                [mine.outcomes[m] for mine, _ in pairs], [other.outcomes[m] for _, other in pairs]
            )
            for m in (metrics if pairs else [])
        },
        truncated_prompts=sum(outcome.truncated_prompts for outcome in own),
        unfinished_answers=sum(outcome.unfinished_answers for outcome in own),
        seconds=float(np.mean([outcome.seconds for outcome in own])),
    )

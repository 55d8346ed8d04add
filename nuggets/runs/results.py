"""Reading what a run left in its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from nuggets.documents.figures import interval_text
from nuggets.erasure.report import ErasureReport
from nuggets.errors import BadInput
from nuggets.evaluation.tables import BenchmarkTable
from nuggets.extraction.plan import ExtractionPlan
from nuggets.recipe import load_job
from nuggets.runs.store import Run
from nuggets.sensitivity.maps import SensitivityMap
from nuggets.statistics.cells import CellOutcome
from nuggets.statistics.intervals import paired_difference
from nuggets.statistics.power import spread_at_half
from nuggets.statistics.report import BenchmarkReport, build_report
from nuggets.statistics.verdict import EDITION

REPORT = "report/report.json"
PLAN = "plan/plan.json"
MAP = "map"
ERASURE = "erasure"
CELLS = "cells"
CELL = "cell.json"
RECORD = "record.json"
ANSWERS = "answers.json"
BENCHMARKS = "benchmarks"
OUTCOME = "outcome.json"
TABLES_FOLDER = "benchmarks/tables"
TABLES = "tables.json"


def report(run: Run) -> BenchmarkReport | None:
    """The report of a finished transfer; by today's rules, whichever it was written by."""
    path = run.folder / "artifacts" / REPORT
    if not path.is_file():
        return None
    found = BenchmarkReport.model_validate_json(path.read_text())
    if found.verdict.edition == EDITION:
        return found
    return _judged_again(run.folder, path.stat().st_mtime_ns) or found


@lru_cache(maxsize=128)
def _judged_again(folder: Path, written: int) -> BenchmarkReport | None:
    """A report's outcomes by today's rules; nothing if some of them are missing."""
    run = Run(folder)
    old = BenchmarkReport.model_validate_json((folder / "artifacts" / REPORT).read_text())
    found = cells(run)
    kept = {(cell.arm, cell.seed) for cell in found}
    if {(arm.name, seed) for arm in old.arms.values() for seed in arm.seeds} - kept:
        return None
    return build_report(
        found,
        task=old.task,
        metric=old.metric,
        higher_is_better=old.higher_is_better,
        ground=load_job(run.recipe_text()).ground,
    )


def measured_spread(run: Run) -> tuple[float, float, str]:
    """Mean of a run's plain LoRA, its spread over seeds where half is right, and whose they are.

    Raises:
        BadInput: if the run has no report of 0/1 outcomes with plain LoRA on two seeds or more.
    """
    found = report(run)
    arms = {} if found is None or not found.higher_is_better else found.arms
    plain = next((arm for arm in arms.values() if arm.role == "baseline"), None)
    if plain is None:
        raise BadInput(
            f"Run {run.id} has no report in which plain LoRA got a share of its items right; name "
            "a finished transfer with that arm, judged by another metric than loss."
        )
    return plain.value, spread_at_half(plain.per_seed), f"measured by plain LoRA in {run.id}"


def plan_of(run: Run) -> ExtractionPlan | None:
    """The extraction plan of a transfer, once it is made."""
    path = run.folder / "artifacts" / PLAN
    return ExtractionPlan.model_validate_json(path.read_text()) if path.is_file() else None


def map_of(run: Run) -> SensitivityMap | None:
    """The row and column sums of the map that a run measured or used."""
    folder = run.folder / "artifacts" / MAP
    return SensitivityMap.load(folder) if folder.is_dir() else None


def erasure_of(run: Run) -> ErasureReport | None:
    """What erasing showed in a finished run."""
    folder = run.folder / "artifacts" / ERASURE
    return ErasureReport.load(folder) if folder.is_dir() else None


def cell_folder(run: Run, arm: str, seed: int) -> Path:
    """Where one arm with one seed is kept."""
    return run.folder / "artifacts" / CELLS / f"{arm}-{seed}"


def cells(run: Run) -> list[CellOutcome]:
    """Every finished arm and seed, per-item outcomes included, in the recipe's order.

    What each arm is in the comparison is what the recipe says.
    """
    recipe = load_job(run.recipe_text())
    if recipe.job != "transfer":
        return []
    found = []
    for name, part in recipe.parts.items():
        for path in (cell_folder(run, name, seed) / CELL for seed in recipe.seeds):
            if path.is_file():
                cell = CellOutcome.model_validate_json(path.read_text())
                found.append(cell.model_copy(update=part._asdict()))
    return found


def answers(run: Run, arm: str, seed: int) -> list[dict[str, Any]]:
    """Question, expected answer and the arm's own answer per test item."""
    path = cell_folder(run, arm, seed) / ANSWERS
    return json.loads(path.read_text()) if path.is_file() else []


def benchmark_tables(run: Run) -> list[BenchmarkTable]:
    """One table per benchmark that a run measured; empty before it got there."""
    path = run.folder / "artifacts" / TABLES_FOLDER / TABLES
    found = json.loads(path.read_text()) if path.is_file() else []
    return [BenchmarkTable.model_validate(table) for table in found]


def compare(runs: Sequence[Run]) -> dict[str, Any]:
    """What differs in the recipes of several runs, beside what differs in their results.

    `differences` are those of every later run to the first, arm by arm, paired by the seeds and
    items that both have; positive is better, 95 %, not adjusted for how many are looked at.

    Raises:
        BadInput: for fewer than two runs.
    """
    if len(runs) < 2:
        raise BadInput(f"Comparing needs at least two runs, but got {len(runs)}.")
    fields = [_flat(load_job(run.recipe_text()).model_dump(mode="json")) for run in runs]
    names = list(dict.fromkeys(name for each in fields for name in each))
    differing = {
        name: [each.get(name) for each in fields]
        for name in names
        if len({json.dumps(each.get(name)) for each in fields}) > 1
    }
    reports = [report(run) for run in runs]
    arms = list(dict.fromkeys(name for each in reports if each for name in each.arms))
    results = {
        name: [None if r is None or name not in r.arms else _value(r, name) for r in reports]
        for name in arms
    }
    return {
        "runs": [{"run": run.id, "status": run.status()} for run in runs],
        "recipe": differing,
        "results": results,
        "differences": {name: _to_the_first(runs, reports, name) for name in arms},
        "verdicts": [None if r is None else r.verdict.sentence for r in reports],
    }


def _value(report: BenchmarkReport, arm: str) -> str:
    found = report.arms[arm]
    return f"{found.value:.3f} [{found.interval[0]:.3f}, {found.interval[1]:.3f}]"


def _to_the_first(
    runs: Sequence[Run], reports: Sequence[BenchmarkReport | None], arm: str
) -> list[str | None]:
    """Each later run minus the first; None where metric, seeds or items are not the same."""
    first = reports[0]
    found: list[str | None] = []
    for run, other in zip(runs[1:], reports[1:], strict=True):
        same = first is not None and other is not None and first.metric == other.metric
        pairs = _paired(runs[0], run, arm, first.metric) if first and same else []
        if not first or not pairs:
            found.append(None)
            continue
        ours, theirs = zip(*pairs, strict=True)
        a, b = (theirs, ours) if first.higher_is_better else (ours, theirs)
        apart = paired_difference(a, b).interval
        found.append(interval_text(apart.mean, apart.low, apart.high, signed=True))
    return found


def _paired(one: Run, other: Run, arm: str, metric: str) -> list[tuple[list[float], list[float]]]:
    """Outcomes of an arm in two runs, a pair for each seed that asked both the same items."""
    theirs = {cell.seed: cell for cell in cells(other) if cell.arm == arm}
    return [
        (ours.outcomes[metric], theirs[ours.seed].outcomes[metric])
        for ours in cells(one)
        if ours.arm == arm
        and ours.seed in theirs
        and ours.items == theirs[ours.seed].items
        and _asked(one, arm, ours.seed) == _asked(other, arm, ours.seed)
    ]


def _asked(run: Run, arm: str, seed: int) -> list[tuple[str, str]]:
    """Questions and right answers: ids alone, 0, 1, 2, may be those of another file's items."""
    return [(row["question"], row["expected"]) for row in answers(run, arm, seed)]


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested fields as dotted names."""
    if not isinstance(tree, dict | list) or not tree:
        return {prefix: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    flat: dict[str, Any] = {}
    for name, value in items:
        flat |= _flat(value, f"{prefix}.{name}" if prefix else str(name))
    return flat

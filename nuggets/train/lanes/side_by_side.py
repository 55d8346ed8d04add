"""Cells side by side: many arms and seeds trained and measured as lanes of one program.

`nuggets.train.cells.run_cell` stays the meaning of a cell: what is done here equals it up to
rounding, and it takes over where cells cannot share a program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from nuggets.compute.memory import is_out_of_memory
from nuggets.data.samples import Sample
from nuggets.evaluation.outcomes import Metric, Outcomes
from nuggets.progress import Progress, with_metrics
from nuggets.statistics.cells import Learned, Trial
from nuggets.train.cells import (
    LEARNED_METRICS,
    CellResult,
    learned_items,
    learned_of,
    record_cell,
    run_cell,
)
from nuggets.train.checkpoints import TrainLog
from nuggets.train.lab import Lab
from nuggets.train.lanes.model import Unstackable
from nuggets.train.lanes.packing import Form
from nuggets.train.lanes.program import Cell, Program
from nuggets.train.lanes.training import Lane
from nuggets.train.tuning import best_trial

R = TypeVar("R")


def run_batch(
    lab: Lab,
    cells: Sequence[Cell],
    form: Form,
    folder: Path | None = None,
    *,
    test: Sequence[Sample],
    validation: Sequence[Sample] = (),
    old_skills: Mapping[str, Sequence[Sample]] | None = None,
    metrics: Sequence[Metric] = ("exact_match", "loss"),
    answers: bool = False,
    progress: Progress | None = None,
    wanted: Callable[[Cell], bool] = lambda cell: True,
) -> Iterator[tuple[Cell, CellResult]]:
    """Builds, trains and measures cells: side by side where they can be, else one by one.

    With several learning rates every cell has a lane per rate, and the best one is its result.

    Args:
        lab: models, map, data and settings.
        cells: arms and seeds; all of them, also when a resume needs only some.
        form: what `nuggets.train.lanes.packing.plan_batches` chose.
        folder: for checkpoints, with which a call with the same arguments resumes; may be deleted
            afterwards. None for none.
        test: items that the report counts.
        validation: items on which rates are chosen; needed for several rates.
        old_skills: skill → items that show what was forgotten, by exact match.
        metrics: what is measured on the test items; the first makes the learning curve.
        answers: also keep what the trained models write.
        progress: of all cells together; can cancel.
        wanted: which cells to hand out; the others were finished before.

    Yields:
        The wanted cells and their results, in order.

    Raises:
        BadInput: if the pair or the data cannot serve an arm.
        NonFinite: naming the cell whose training or evaluation went to NaN or infinity.
        Cancelled: on request.
    """
    measures: dict[str, Any] = {"test": test, "validation": validation, "answers": answers}
    measures |= {"old_skills": old_skills, "metrics": metrics}
    if form != "alone":
        lanes = _lanes(lab, cells)
        results = try_side_by_side(
            lambda: Program(lab, lanes, folder, merge=form == "merged", progress=progress),
            lambda program: _train_and_measure(program, **measures),
            progress,
        )
        if results is not None:
            # Made one at a time: each holds a whole trained model until its receiver saved it.
            yield from ((c, make()) for c, make in zip(cells, results, strict=True) if wanted(c))
            return
    for cell in filter(wanted, cells):
        measures |= {"folder": folder and folder / cell.name, "progress": cell.progress}
        yield cell, run_cell(lab, cell.arm, cell.seed, **measures)


def _lanes(lab: Lab, cells: Sequence[Cell]) -> list[Cell]:
    """Every cell at every rate, the rates of a cell together; one of them is reported live."""
    rates = lab.train.rates
    shown = rates[len(rates) // 2]
    return [
        replace(cell, lr=lr, progress=with_metrics(cell.progress, lr == shown))
        for cell in cells
        for lr in rates
    ]


def try_side_by_side(
    make: Callable[[], Program], work: Callable[[Program], R], progress: Progress | None
) -> R | None:
    """What a program gives, or None if its cells must be trained one after another.

    That is so where their models or losses cannot be stacked, and where the memory, however
    carefully it was estimated, turns out too small.
    """
    try:
        return work(make())
    except Unstackable as problem:
        reason = str(problem)
    except Exception as problem:  # torch has no one class for it
        if not is_out_of_memory(problem):
            raise
        reason = "there is too little memory to train them together"
    if progress is not None:
        progress.log(f"Arms and seeds are trained one after another: {reason}.")
    return None


def _train_and_measure(
    program: Program,
    *,
    test: Sequence[Sample],
    validation: Sequence[Sample],
    old_skills: Mapping[str, Sequence[Sample]] | None,
    metrics: Sequence[Metric],
    answers: bool,
) -> list[Callable[[], CellResult]]:
    """Trains a program and measures its cells item by item; every result is made when called."""
    several = len(program.lab.train.rates) > 1
    differences = program.step0_differences(test)  # before the first step, as it must be
    for cell, difference in zip(program.cells, differences, strict=True):
        if cell.progress is not None:
            cell.progress.metric(step0=difference)
    trained, logs = program.train(test, metrics[0], keep_going=several)
    trials = _trials(program, trained, logs, validation, metrics[0]) if several else None
    kept = _kept(program, trials, metrics[0])
    on_test = program.measure(dict.fromkeys(kept, test), metrics, answers)
    measured = program.finite(on_test, kept)
    learned = _learned(program, kept)
    retained = {
        skill: program.finite(program.measure(dict.fromkeys(kept, items), ("exact_match",)), kept)
        for skill, items in (old_skills or {}).items()
    }

    def result(index: int, lane: int) -> CellResult:
        cell, trainee = program.cells[lane], program.finished(lane)
        record = record_cell(
            cell.arm,
            cell.seed,
            trainee,
            program.configs[lane],
            logs[lane],
            trials[index] if trials else [],
            learned[index],
            measured[index],
            {skill: outcomes[index] for skill, outcomes in retained.items()},
            differences[lane],
            program.flops[lane],
        )
        return CellResult(record, trainee, program.lab)

    return [partial(result, index, lane) for index, lane in enumerate(kept)]


def _trials(
    program: Program,
    lanes: Sequence[Lane],
    logs: Sequence[TrainLog],
    validation: Sequence[Sample],
    metric: Metric,
) -> list[list[Trial]]:
    """Every cell's rates and what they gave on the validation items."""
    found = []
    every = dict.fromkeys(range(len(lanes)), validation)
    measured = program.measure(every, (metric, "loss"))
    for lane, log, outcomes in zip(lanes, logs, measured, strict=True):
        value, loss = None, None
        if lane.stopped is None and isinstance(outcomes, Outcomes):
            value, loss = outcomes.mean(metric), outcomes.mean("loss")
        found.append(Trial(lr=lane.lr, value=value, loss=loss, seconds=log.seconds))
    n_rates = len(program.lab.train.rates)
    return [found[start : start + n_rates] for start in range(0, len(found), n_rates)]


def _kept(program: Program, trials: Sequence[list[Trial]] | None, metric: Metric) -> list[int]:
    """The lane that is each cell's result."""
    if trials is None:
        return list(range(len(program.cells)))
    kept = []
    for index, own in enumerate(trials):
        first = index * len(own)
        best = best_trial(own, metric, program.cells[first].arm.name)
        kept.append(first + own.index(best))
    return kept


def _learned(program: Program, kept: Sequence[int]) -> list[Learned | None]:
    """What each kept lane can say of its own seed's training items."""
    seeds = {lane: program.cells[lane].seed for lane in kept}
    items = {seed: learned_items(program.lab, seed) for seed in dict.fromkeys(seeds.values())}
    asked = {lane: items[seed][0] for lane, seed in seeds.items() if items[seed][0]}
    outcomes = program.finite(program.measure(asked, LEARNED_METRICS), list(asked))
    found = {
        lane: learned_of(own, items[seeds[lane]][1])
        for lane, own in zip(asked, outcomes, strict=True)
    }
    return [found.get(lane) for lane in kept]

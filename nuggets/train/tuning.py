"""Each arm's learning rate, from the same small grid, on a separate seed and separate items."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from nuggets.data.samples import Sample
from nuggets.errors import NonFinite
from nuggets.evaluation.outcomes import Metric, Outcomes
from nuggets.frozen import Frozen
from nuggets.progress import Progress
from nuggets.statistics.comparisons import higher_is_better
from nuggets.train.arms.family import Arm
from nuggets.train.cells import measure, shared_config, train_cell
from nuggets.train.lab import Lab, Workspace
from nuggets.train.lanes.packing import Form
from nuggets.train.lanes.side_by_side import Cell, Program, try_side_by_side


class Trial(Frozen):
    """One learning rate that was tried; value and loss are None where training diverged."""

    lr: float
    value: float | None
    loss: float | None


class Tuning(Frozen):
    """What tuning found for one arm."""

    arm: str
    lr: float
    trials: list[Trial]


def tune_lr(
    lab: Lab,
    arm: Arm,
    grid: Sequence[float],
    folder: Path | None = None,
    *,
    items: Sequence[Sample],
    metric: Metric = "exact_match",
    progress: Progress | None = None,
) -> Tuning:
    """Trains an arm at every learning rate of a grid on `lab.train.tuning_seed`.

    The best value of the metric wins, then the lowest loss (early in learning nothing is right
    yet and only the loss tells), then the smaller learning rate.

    Args:
        lab: as for the cells of the report.
        arm: which arm; one that does not train keeps the lab's learning rate.
        grid: learning rates, the same for all arms.
        folder: for checkpoints; None for none.
        items: items that the report does not count.
        metric: what the verdict is about.
        progress: receives events and can cancel.

    Raises:
        NonFinite: if training diverged at every learning rate.
    """
    seed = lab.train.tuning_seed
    built = arm.build(replace(lab, workspace=Workspace(folder, progress)), seed)
    if not built.trains or not grid:
        return Tuning(arm=arm.name, lr=lab.train.lr, trials=[])
    trials = []
    for lr in sorted(grid):
        config = shared_config(lab, seed, lr).model_copy(update={"evaluate_every": 0})
        trainee = replace(built, model=copy.deepcopy(built.model))
        place = folder and folder / f"lr-{lr:g}"
        try:
            train_cell(lab, trainee, config, seed, place, (), metric, progress)
            found = measure(lab, trainee.model, items, (metric, "loss"), progress)
        except NonFinite:
            trials.append(Trial(lr=lr, value=None, loss=None))
            continue
        trials.append(Trial(lr=lr, value=found.mean(metric), loss=found.mean("loss")))
    return Tuning(arm=arm.name, lr=_best(trials, metric, arm.name), trials=trials)


def tune_batch(
    lab: Lab,
    arms: Sequence[Arm],
    grid: Sequence[float],
    form: Form,
    folder: Path | None = None,
    *,
    items: Sequence[Sample],
    metric: Metric = "exact_match",
    progress: Progress | None = None,
    progress_of: Callable[[Arm], Progress | None] = lambda arm: None,
) -> list[Tuning]:
    """As `tune_lr` for several arms, side by side if `form` says so: a lane per learning rate.

    Args:
        lab: as for the cells of the report.
        arms: which arms.
        grid: learning rates, the same for all arms.
        form: what `nuggets.train.lanes.packing.plan_batches` chose.
        folder: for checkpoints; None for none.
        items: items that the report does not count.
        metric: what the verdict is about.
        progress: of all arms together; can cancel.
        progress_of: who receives an arm's own metrics.

    Raises:
        NonFinite: if an arm diverged at every learning rate.
    """
    seed = lab.train.tuning_seed
    still = replace(lab, train=lab.train.model_copy(update={"evaluate_every": 0}))
    cells = [Cell(arm, seed, lr, progress_of(arm)) for arm in arms for lr in sorted(grid)]
    trials = None
    if form != "alone":
        make = partial(Program, still, cells, folder, merge=form == "merged", progress=progress)
        trials = try_side_by_side(make, lambda program: _trials(program, items, metric), progress)
    if trials is None:
        return [
            tune_lr(
                lab,
                arm,
                grid,
                folder and folder / arm.name,
                items=items,
                metric=metric,
                progress=progress_of(arm),
            )
            for arm in arms
        ]
    rows = [trials[start : start + len(grid)] for start in range(0, len(trials), len(grid))]
    return [
        Tuning(arm=arm.name, lr=_best(own, metric, arm.name), trials=own)
        for arm, own in zip(arms, rows, strict=True)
    ]


def _trials(program: Program, items: Sequence[Sample], metric: Metric) -> list[Trial]:
    lanes, _ = program.train((), metric, keep_going=True)
    trials = []
    measured = program.measure(items, (metric, "loss"))
    for lane, found in zip(lanes, measured, strict=True):
        value, loss = None, None
        if lane.stopped is None and isinstance(found, Outcomes):
            value, loss = found.mean(metric), found.mean("loss")
        trials.append(Trial(lr=lane.lr, value=value, loss=loss))
    return trials


def _best(trials: Sequence[Trial], metric: Metric, name: str) -> float:
    sign = 1.0 if higher_is_better(metric) else -1.0
    ranked = [
        (sign * trial.value, -trial.loss, -trial.lr, trial.lr)
        for trial in trials
        if trial.value is not None and trial.loss is not None
    ]
    if not ranked:
        raise NonFinite(
            f"The arm {name} diverged at every learning rate: "
            f"{', '.join(f'{trial.lr:g}' for trial in trials)}. Add smaller ones to the grid."
        )
    return max(ranked)[-1]

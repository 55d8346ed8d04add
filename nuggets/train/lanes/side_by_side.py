"""Cells side by side: many arms and seeds trained and measured as lanes of one program.

`nuggets.train.cells.run_cell` stays the meaning of a cell: what is done here equals it up to
rounding, and it takes over where cells cannot share a program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from nuggets.compute.memory import is_out_of_memory
from nuggets.data.samples import Sample
from nuggets.errors import NonFinite
from nuggets.evaluation.outcomes import Metric, Outcomes, evaluate_lanes
from nuggets.models.forward import answer_logits, evaluation, pad_right
from nuggets.progress import Progress
from nuggets.train.arms.family import Arm, Graft
from nuggets.train.cells import (
    PROBED,
    CellResult,
    count_flops,
    record_cell,
    run_cell,
    shared_config,
)
from nuggets.train.checkpoints import TrainLog
from nuggets.train.lab import Lab, Trainee, Workspace
from nuggets.train.lanes.healing import heal_together
from nuggets.train.lanes.model import LaneModel, Unstackable
from nuggets.train.lanes.packing import Form
from nuggets.train.lanes.threads import Threads, one_processor_each
from nuggets.train.lanes.training import Lane, LaneTrainer, TrainingLoop
from nuggets.train.losses import DistillationLoss

R = TypeVar("R")

STACKED = 6
"""Lanes in one model on a processor: more leave its cache. A GPU gets all."""
EVALUATED = 16
"""Items per forward pass of all lanes: larger passes leave the processor's cache."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One arm with one seed.

    Attributes:
        arm: what is compared.
        seed: of samples, initialisation and order.
        lr: learning rate instead of the lab's.
        progress: receives this cell's metrics.
    """

    arm: Arm
    seed: int
    lr: float | None = None
    progress: Progress | None = None

    @property
    def name(self) -> str:
        """For folders and messages."""
        return f"{self.arm.name}-{self.seed}"


class Program:
    """Some cells stacked into a few models, ready to be trained and measured."""

    def __init__(
        self,
        lab: Lab,
        cells: Sequence[Cell],
        folder: Path | None,
        *,
        merge: bool,
        progress: Progress | None = None,
    ) -> None:
        """Builds every cell's arm and stacks what they train.

        Args:
            lab: models, map, data and settings.
            cells: arms and seeds; all of the same `stacks`.
            folder: for checkpoints; None for none.
            merge: see `LaneModel`.
            progress: of all cells together; can cancel.

        Raises:
            Unstackable: if they cannot share a program.
            BadInput: if the pair or the data cannot serve an arm.
        """
        self.lab, self.cells = lab, list(cells)
        self.folder, self.progress = folder, progress
        self.configs = [shared_config(lab, cell.seed, cell.lr) for cell in cells]
        if len({config.steps for config in self.configs}) != 1 or not self.configs[0].steps:
            raise Unstackable("cells of different steps")
        self.flops = [0.0] * len(self.cells)
        self.trainees = self._build_all(merge)
        for trainee in self.trainees:
            # Lanes part the logits of one forward pass: a loss that calls the model cannot.
            if not (trainee.loss is None or isinstance(trainee.loss, DistillationLoss)):
                raise Unstackable("a loss of its own")
        width = STACKED if lab.device.type == "cpu" else len(self.cells)
        self.models: list[LaneModel] = []
        for start in range(0, len(self.cells), width):
            end = start + width
            seeds = [cell.seed for cell in self.cells[start:end]]
            self.models.append(LaneModel(lab, self.trainees[start:end], seeds, merge=merge))

    def train(
        self, test: Sequence[Sample], metric: Metric, *, keep_going: bool = False
    ) -> tuple[list[Lane], list[TrainLog]]:
        """Trains all lanes; the learning curve is left out where there are no test items.

        Raises:
            NonFinite: naming the lane, unless lanes may stop one by one.
            Cancelled: on request.
        """
        lanes = [
            Lane(
                name=f"the arm {cell.arm.name}, seed {cell.seed}",
                encoded=trainee.encoded,
                seed=cell.seed,
                lr=config.lr,
                loss=trainee.loss,  # type: ignore[arg-type]  # checked above
                progress=cell.progress,
            )
            for cell, trainee, config in zip(self.cells, self.trainees, self.configs, strict=True)
        ]
        unassigned = iter(lanes)  # models hold lanes in their order
        trainers = [
            LaneTrainer(
                model,
                [next(unassigned) for _ in range(model.n_lanes)],
                self.configs[0],
                self.lab.device,
                bf16=self.lab.bf16,
                keep_going=keep_going,
            )
            for model in self.models
        ]

        def points(step: int) -> list[float]:
            outcomes = self.finite(self._measure(threads, test, (metric,), None, False))
            return [lane.mean(metric) for lane in outcomes]

        with one_processor_each(self.lab.threads, self.lab.device) as threads:
            loop = TrainingLoop(
                trainers,
                self.folder and self.folder / "training",
                threads,
                progress=self.progress,
                on_evaluate=points if test else None,
            )
            return lanes, loop.fit()

    def measure(
        self, samples: Sequence[Sample], metrics: Sequence[Metric], answers: bool = False
    ) -> list[Outcomes | NonFinite]:
        """Every lane's outcomes of the same items."""
        with one_processor_each(self.lab.threads, self.lab.device) as threads:
            return self._measure(threads, samples, metrics, self.progress, answers)

    def _measure(
        self,
        threads: Threads,
        samples: Sequence[Sample],
        metrics: Sequence[Metric],
        progress: Progress | None,
        answers: bool,
    ) -> list[Outcomes | NonFinite]:
        def measure_model(model: LaneModel) -> list[Outcomes | NonFinite]:
            if progress is not None:
                progress.check_cancelled()
            return evaluate_lanes(
                model.model,
                model.n_lanes,
                self.lab.tokenizer,
                samples,
                metrics,
                batch_size=EVALUATED,
                device=self.lab.device,
                max_length=self.lab.train.max_length,
                answers=answers,
                format=self.lab.format,
            )

        return [lane for lanes in threads.map(measure_model, self.models) for lane in lanes]

    def step0_differences(self, samples: Sequence[Sample]) -> list[float | None]:
        """As `nuggets.train.cells.step0_difference`, for every lane of this program."""
        batch = self.lab.encode(list(samples[:PROBED]))
        differences: list[float] = []
        with evaluation(self.lab.student):
            theirs = answer_logits(self.lab.student, *pad_right(batch, self.lab.device))[0]
        for model in self.models:
            ids, labels = pad_right(batch * model.n_lanes, self.lab.device)
            with evaluation(model.model):
                ours = answer_logits(model.model, ids, labels)[0]
            # Every lane sees the same items: [lanes, answer tokens, vocab] against the student's.
            lanes = ours.view(model.n_lanes, *theirs.shape)
            differences += (lanes - theirs).abs().flatten(1).amax(1).tolist()
        return [
            None if trainee.own_base else difference
            for trainee, difference in zip(self.trainees, differences, strict=True)
        ]

    def finished(self, index: int) -> Trainee:
        """A trainee with what its lane learned."""
        trainee = self.trainees[index]
        # Every model but the last holds as many lanes as the first.
        stack, lane = divmod(index, self.models[0].n_lanes)
        model = self.models[stack]
        if trainee.adapter is not None:
            return replace(trainee, adapter=model.factors(lane))
        model.write_back(lane, trainee)
        return trainee

    def finite(self, measured: list[Outcomes | NonFinite]) -> list[Outcomes]:
        """The outcomes.

        Raises:
            NonFinite: if a lane has none, naming it.
        """
        finite: list[Outcomes] = []
        for cell, outcomes in zip(self.cells, measured, strict=True):
            if isinstance(outcomes, NonFinite):
                raise NonFinite(f"The arm {cell.arm.name}, seed {cell.seed}: {outcomes}")
            finite.append(outcomes)
        return finite

    def _build_all(self, merge: bool) -> list[Trainee]:
        """Every cell's trainee; cells that differ in the learning rate alone share one."""
        # Grafts first: their students are healed as lanes too, and `build` then reads them back.
        grafts = [(c.arm, c.seed, c.progress) for c in self.cells if isinstance(c.arm, Graft)]
        if grafts and self.lab.kept is not None:
            place = self.folder and self.folder / "healing"
            heal_together(self.lab, grafts, place, progress=self.progress)
        built: dict[str, Trainee] = {}
        for index, cell in enumerate(self.cells):
            if cell.name not in built:
                built[cell.name] = self._build(index, merge)
        return [built[cell.name] for cell in self.cells]

    def _build(self, index: int, merge: bool) -> Trainee:
        """Builds one arm; without `merge` only its adapter is kept."""
        cell = self.cells[index]
        if self.progress is not None:
            self.progress.check_cancelled()
        work = Workspace(self.folder and self.folder / cell.name, cell.progress)
        trainee = cell.arm.build(replace(self.lab, workspace=work), cell.seed)
        self.flops[index] = count_flops(self.lab, trainee, self.configs[index], cell.seed)
        if merge or trainee.whole or trainee.own_base:
            return trainee
        # On a shared base a lane is its factors alone: holding a student per arm until all arms
        # are built would take the memory that this form saves.
        return replace(trainee, model=None, adapter=trainee.factors())


def run_batch(
    lab: Lab,
    cells: Sequence[Cell],
    form: Form,
    folder: Path | None = None,
    *,
    test: Sequence[Sample],
    old_skills: Mapping[str, Sequence[Sample]] | None = None,
    metrics: Sequence[Metric] = ("exact_match", "loss"),
    answers: bool = False,
    progress: Progress | None = None,
    wanted: Callable[[Cell], bool] = lambda cell: True,
) -> Iterator[tuple[Cell, CellResult]]:
    """Builds, trains and measures cells: side by side where they can be, else one by one.

    Args:
        lab: models, map, data and settings.
        cells: arms and seeds; all of them, also when a resume needs only some.
        form: what `nuggets.train.lanes.packing.plan_batches` chose.
        folder: for checkpoints, with which a call with the same arguments resumes; may be deleted
            afterwards. None for none.
        test: items that the report counts.
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
    measures: dict[str, Any] = {
        "test": test,
        "old_skills": old_skills,
        "metrics": metrics,
        "answers": answers,
    }
    if form != "alone":
        results = try_side_by_side(
            lambda: Program(lab, cells, folder, merge=form == "merged", progress=progress),
            lambda program: _train_and_measure(program, **measures),
            progress,
        )
        if results is not None:
            # Made one at a time: each holds a whole trained model until its receiver saved it.
            yield from ((c, make()) for c, make in zip(cells, results, strict=True) if wanted(c))
            return
    for cell in filter(wanted, cells):
        options: dict[str, Any] = {"lr": cell.lr, "progress": cell.progress}
        place = folder and folder / cell.name
        yield cell, run_cell(lab, cell.arm, cell.seed, place, **measures, **options)


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
    old_skills: Mapping[str, Sequence[Sample]] | None,
    metrics: Sequence[Metric],
    answers: bool,
) -> list[Callable[[], CellResult]]:
    """Trains a program and measures its cells item by item; every result is made when called."""
    differences = program.step0_differences(test)  # before the first step, as it must be
    for cell, difference in zip(program.cells, differences, strict=True):
        if cell.progress is not None:
            cell.progress.metric(step0=difference)
    _, logs = program.train(test, metrics[0])
    measured = program.finite(program.measure(test, metrics, answers))
    retained = {
        skill: program.finite(program.measure(items, ("exact_match",)))
        for skill, items in (old_skills or {}).items()
    }

    def result(lane: int) -> CellResult:
        cell, trainee = program.cells[lane], program.finished(lane)
        record = record_cell(
            cell.arm,
            cell.seed,
            trainee,
            program.configs[lane],
            logs[lane],
            measured[lane],
            {skill: lanes[lane] for skill, lanes in retained.items()},
            differences[lane],
            program.flops[lane],
        )
        return CellResult(record, trainee, program.lab)

    return [partial(result, lane) for lane in range(len(program.cells))]

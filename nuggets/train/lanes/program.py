"""Lanes of one program: many arms and seeds stacked into a few models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nuggets.data.samples import Sample
from nuggets.errors import NonFinite
from nuggets.evaluation.outcomes import Metric, Outcomes, evaluate_lanes
from nuggets.models.forward import answer_logits, evaluation, pad_right
from nuggets.progress import Progress
from nuggets.train.arms.family import Arm, Graft
from nuggets.train.cells import (
    PROBED,
    count_flops,
    shared_config,
    student_logits,
)
from nuggets.train.checkpoints import TrainLog
from nuggets.train.lab import Lab, Trainee, Workspace
from nuggets.train.lanes.healing import heal_together
from nuggets.train.lanes.model import LaneModel, Unstackable
from nuggets.train.lanes.threads import Threads, one_processor_each
from nuggets.train.lanes.training import Lane, LaneTrainer, TrainingLoop
from nuggets.train.losses import DistillationLoss

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
        progress: receives this cell's metrics.
        lr: the one rate of a lane; a cell is trained at all rates of the lab.
    """

    arm: Arm
    seed: int
    progress: Progress | None = None
    lr: float | None = None

    @property
    def name(self) -> str:
        """For folders and messages."""
        return f"{self.arm.name}-{self.seed}"


class Program:
    """Some lanes stacked into a few models, ready to be trained and measured."""

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
        """Trains all lanes, with a learning curve on the test items.

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
            every = dict.fromkeys(range(len(self.cells)), test)
            outcomes = self._measure(threads, every, (metric,), None, False)
            if not keep_going:
                outcomes = list(self.finite(outcomes))
            return [o.mean(metric) if isinstance(o, Outcomes) else math.nan for o in outcomes]

        with one_processor_each(self.lab.threads, self.lab.device) as threads:
            loop = TrainingLoop(
                trainers,
                self.folder and self.folder / "training",
                threads,
                progress=self.progress,
                on_evaluate=points,
            )
            return lanes, loop.fit()

    def measure(
        self,
        items: Mapping[int, Sequence[Sample]],
        metrics: Sequence[Metric],
        answers: bool = False,
    ) -> list[Outcomes | NonFinite | None]:
        """Outcomes of some lanes, each with its own items; for other lanes there may be None."""
        with one_processor_each(self.lab.threads, self.lab.device) as threads:
            return self._measure(threads, items, metrics, self.progress, answers)

    def _measure(
        self,
        threads: Threads,
        items: Mapping[int, Sequence[Sample]],
        metrics: Sequence[Metric],
        progress: Progress | None,
        answers: bool,
    ) -> list[Outcomes | NonFinite | None]:
        width = self.models[0].n_lanes  # every model but the last holds as many

        def measure_model(place: int) -> Sequence[Outcomes | NonFinite | None]:
            model = self.models[place]
            lanes = range(place * width, place * width + model.n_lanes)
            some = next((items[lane] for lane in lanes if lane in items), None)
            if some is None:
                return [None] * model.n_lanes
            if progress is not None:
                progress.check_cancelled()
            return evaluate_lanes(
                model.model,
                self.lab.tokenizer,
                [items.get(lane, some) for lane in lanes],
                metrics,
                batch_size=EVALUATED,
                device=self.lab.device,
                max_length=self.lab.train.max_length,
                answers=answers,
                format=self.lab.format,
            )

        found = threads.map(measure_model, range(len(self.models)))
        return [outcomes for own in found for outcomes in own]

    def step0_differences(self, samples: Sequence[Sample]) -> list[float | None]:
        """As `nuggets.train.cells.step0_difference`, for every lane of this program."""
        batch = self.lab.encode(list(samples[:PROBED]))
        differences: list[float] = []
        theirs = student_logits(self.lab, samples)
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

    def finite(
        self, measured: Sequence[Outcomes | NonFinite | None], lanes: Sequence[int] | None = None
    ) -> list[Outcomes]:
        """The outcomes of some lanes, or of all.

        Raises:
            NonFinite: if a lane has none, naming it.
        """
        finite: list[Outcomes] = []
        for lane in range(len(self.cells)) if lanes is None else lanes:
            cell, outcomes = self.cells[lane], measured[lane]
            if not isinstance(outcomes, Outcomes):
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
        built: dict[str, tuple[Trainee, float]] = {}
        for index, cell in enumerate(self.cells):
            if cell.name not in built:
                built[cell.name] = self._build(index, merge)
        self.flops = [built[cell.name][1] for cell in self.cells]
        return [built[cell.name][0] for cell in self.cells]

    def _build(self, index: int, merge: bool) -> tuple[Trainee, float]:
        """Builds one arm and counts its operations; without `merge` only its adapter is kept."""
        cell = self.cells[index]
        if self.progress is not None:
            self.progress.check_cancelled()
        work = Workspace(self.folder and self.folder / cell.name, cell.progress)
        trainee = cell.arm.build(replace(self.lab, workspace=work), cell.seed)
        flops = count_flops(self.lab, trainee, self.configs[index], cell.seed)
        if merge or trainee.whole or trainee.own_base:
            return trainee, flops
        # On a shared base a lane is its factors alone: holding a student per arm until all arms
        # are built would take the memory that this form saves.
        return replace(trainee, model=None, adapter=trainee.factors()), flops

"""Training many lanes at once; each as if it were trained alone by `nuggets.train.finetune`."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from nuggets.data.samples import IGNORED, Encoded
from nuggets.disk.commit import commit_folder, newest_valid
from nuggets.errors import Damaged, NonFinite
from nuggets.models.forward import pad_right
from nuggets.models.piecewise.answers import Judge, at_answers
from nuggets.progress import Progress
from nuggets.train.checkpoints import LOG, PREFIX, WEIGHTS, TrainLog, drop_old, step_of
from nuggets.train.config import TrainConfig
from nuggets.train.lanes.model import LaneModel
from nuggets.train.lanes.threads import Threads
from nuggets.train.losses import DistillationLoss, surprise
from nuggets.train.micro_batches import MicroBatches
from nuggets.train.schedule import POINTS, SCHEDULES, batch_order, count_warmup

TEACHER_CACHE = 2**28
"""Bytes of the teacher's states that are kept for samples that return."""


@dataclass(eq=False)
class Lane:
    """One arm with one seed while it is trained beside others.

    Attributes:
        name: for messages.
        encoded: its own training samples.
        seed: of their order and of dropout.
        lr: its own peak learning rate.
        loss: distillation, or None for the answer's likelihood.
        progress: receives its metrics.
        losses: of every step so far.
        curve: its learning curve so far.
        stopped: why it takes part no more, where that is allowed.
    """

    name: str
    encoded: Sequence[Encoded]
    seed: int
    lr: float
    loss: DistillationLoss | None = None
    progress: Progress | None = None
    losses: list[float] = field(default_factory=list)
    curve: list[tuple[int, float]] = field(default_factory=list)
    stopped: NonFinite | None = None


class LaneTrainer:
    """Steps and state of the lanes of one model; see `nuggets.train.finetune` for the promises.

    Args:
        model: what is trained.
        lanes: as many as the model has, in its order.
        config: steps, batch size, schedule and clipping, shared by all lanes.
        device: where the model is.
        bf16: compute in bfloat16 on a GPU.
        keep_going: a lane that is not finite any more stops alone, not all.
    """

    def __init__(
        self,
        model: LaneModel,
        lanes: Sequence[Lane],
        config: TrainConfig,
        device: torch.device,
        *,
        bf16: bool = False,
        keep_going: bool = False,
    ) -> None:
        self.model, self.lanes, self.config, self.device = model, list(lanes), config, device
        self.half, self.keep_going = bf16 and device.type == "cuda", keep_going
        # lane → step → places of the batch's samples in `lane.encoded`; the whole training's
        # order is known before the first step, so a resume needs no state of it.
        self.batches = [
            batch_order(lane.encoded, config, config.steps, lane.seed) for lane in lanes
        ]
        self.optimizer, self.owners = self._optimizer()
        self.shares = learning_rates(config)
        self.teacher = _TeacherCache()
        self.plan = MicroBatches(model.model, config, device)

    def step(self, step: int) -> None:
        """One step of every lane, in the order of `nuggets.train.trainer`; the first is 1."""
        if not self.model.model.training:
            self.model.model.train()
        # A lane that is not finite stops before its bad numbers reach a checkpoint. With
        # `keep_going` it computes on, but only in its own row: the others never see it.
        losses = self._differentiate(step)
        for lane, value in zip(self.lanes, losses.tolist(), strict=True):
            lane.losses.append(value)
            if not math.isfinite(value):
                self._stop(lane, f"loss became {value}", step)
        self._clip(step)
        for group, lane in zip(self.optimizer.param_groups, self.owners, strict=True):
            group["lr"] = lane.lr * self.shares[step - 1]  # the schedule moves after the step
        self.optimizer.step()
        norms = self.model.parameters.flat.norm(dim=1).tolist()
        for lane, norm in zip(self.lanes, norms, strict=True):
            if not math.isfinite(norm):
                self._stop(lane, "weights became NaN or infinite", step)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds besides logs: weights, moments and generators of all lanes."""
        state = {"weights": self.model.parameters.flat}
        for index, group in enumerate(self.optimizer.param_groups):
            moments = self.optimizer.state[group["params"][0]]
            state |= {f"{name}.{index}": value for name, value in moments.items()}
        if self.model.dropout is not None:
            for lane, generator in enumerate(self.model.dropout.generators):
                state[f"generator.{lane}"] = generator.get_state()
        return {name: value.cpu().contiguous() for name, value in state.items()}

    def load_state(self, stored: Mapping[str, Tensor]) -> None:
        """Restores what `state` gave.

        Raises:
            Damaged: if it belongs to other lanes.
        """
        flat = self.model.parameters.flat
        if stored["weights"].shape != flat.shape:
            raise Damaged(
                f"The checkpoint holds {list(stored['weights'].shape)} values, but these arms have "
                f"{list(flat.shape)}. Delete the checkpoints and start again."
            )
        flat.copy_(stored["weights"])
        for index, group in enumerate(self.optimizer.param_groups):
            # The names of torch's AdamW. Not by its `load_state_dict`, which would want the
            # groups' own settings stored as well; those follow from the recipe.
            moments = {"step": stored[f"step.{index}"]}
            for name in ("exp_avg", "exp_avg_sq"):
                moments[name] = stored[f"{name}.{index}"].to(self.device)
            self.optimizer.state[group["params"][0]] = moments
        if self.model.dropout is not None:
            for lane, generator in enumerate(self.model.dropout.generators):
                generator.set_state(stored[f"generator.{lane}"])

    def _optimizer(self) -> tuple[torch.optim.AdamW, list[Lane]]:
        """AdamW with one group per lane and kind of decay, and the lane of each group."""
        parameters, decayed = self.model.parameters, self.model.parameters.decayed
        groups: list[dict[str, Any]] = []
        owners: list[Lane] = []
        for row, lane in enumerate(self.lanes):
            for columns, decay in (
                (slice(0, decayed), self.config.weight_decay),
                (slice(decayed, parameters.flat.shape[1]), 0.0),
            ):
                if columns.start == columns.stop:
                    continue
                # Views of `flat` and `grad`: AdamW reads and writes where the layers look. The
                # gradient is overwritten at every step and never set to None.
                values = torch.nn.Parameter(parameters.flat[row, columns])
                values.grad = parameters.grad[row, columns]
                groups.append({"params": [values], "weight_decay": decay})
                owners.append(lane)
        # A rate of its own per group is set at every step; one of 0 shows if that is forgotten.
        return torch.optim.AdamW(groups, lr=0.0, fused=True), owners

    def _differentiate(self, step: int) -> Tensor:
        """Every lane's own loss `[lanes]`, with its gradient in the parameters."""
        batches = [
            [lane.encoded[i] for i in order[step - 1]]
            for lane, order in zip(self.lanes, self.batches, strict=True)
        ]
        # The stack is one tensor [lanes · rows, tokens]: a lane whose batch is shorter (the last
        # of an epoch) is filled up with rows of one token and no label, which add no loss.
        n = max(map(len, batches))
        filled = [[*batch, *[([0], [IGNORED])] * (n - len(batch))] for batch in batches]
        ids, labels = pad_right([sample for batch in filled for sample in batch], self.device)
        ids, labels = (each.view(len(batches), n, -1) for each in (ids, labels))
        totals = (labels[..., 1:] != IGNORED).sum((1, 2))
        dropout = self.model.dropout
        alone = [] if dropout is None else [pad_right(b, self.device)[1] for b in batches]
        losses = torch.zeros(len(batches), device=self.device)
        size = self.plan.rows(n, ids.shape[2])
        for start in range(0, n, size):
            rows = slice(start, start + size)
            if dropout is not None:
                dropout.begin([labels_of_lane[rows] for labels_of_lane in alone])
            judge = self._judge([batch[rows] for batch in batches])
            part = ids[:, rows].flatten(0, 1), labels[:, rows].flatten(0, 1)
            total, means = self._forward(*part, judge, totals)
            self.model.parameters.differentiate(total, add=start > 0)
            losses += means
        return losses

    def _forward(
        self, ids: Tensor, labels: Tensor, judge: Judge, totals: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What some rows of all lanes add to the sum of their losses, and to each one's own."""
        with torch.autocast("cuda", dtype=torch.bfloat16) if self.half else nullcontext():
            # Each lane's loss is the mean over its own answer tokens, as it would be alone.
            return at_answers(
                self.model.model,
                ids,
                labels,
                lambda answers: answers.means(judge, totals),
                len(self.lanes),
            )

    def _judge(self, batches: Sequence[list[Encoded]]) -> Judge:
        """What every lane minimises, as `nuggets.train.losses` has it."""
        judges = [
            surprise
            if lane.loss is None or not batch
            else lane.loss.distance(self.teacher.of(lane.loss, batch, self.device))
            for lane, batch in zip(self.lanes, batches, strict=True)
        ]
        if all(judge is surprise for judge in judges):
            return surprise  # of all lanes at once

        def judge(logits: Tensor, targets: Tensor, at: slice) -> Tensor:
            lanes = zip(judges, logits.split(1), targets.split(1), strict=True)
            return torch.cat([own(rows, words, at) for own, rows, words in lanes])

        return judge

    def _clip(self, step: int) -> None:
        """Clips every lane to its own norm, as `torch.nn.utils.clip_grad_norm_` does."""
        grad = self.model.parameters.grad
        norms = torch.linalg.vector_norm(grad, dim=1)
        for lane, norm in zip(self.lanes, norms.tolist(), strict=True):
            if not math.isfinite(norm):
                self._stop(lane, f"gradient norm became {norm}", step)
        factors = (self.config.max_grad_norm / (norms + 1e-6)).clamp(max=1.0)  # torch's own 1e-6
        grad.mul_(factors[:, None])

    def _stop(self, lane: Lane, what: str, step: int) -> None:
        """Ends a lane that cannot go on, or the whole training."""
        problem = NonFinite(
            f"The {what} at step {step} of {lane.name} (learning rate {lane.lr:g}). Training "
            "stopped, and the last checkpoint is finite. Lower the learning rate or check the "
            "data."
        )
        if not self.keep_going:
            raise problem
        lane.stopped = lane.stopped or problem


class TrainingLoop:
    """Trains all lanes of several models, one thread per processor.

    The models are stepped by Python threads of which each computes alone: torch's own threads
    wait for each other at every operation, and such small operations end before that. Which
    thread does what changes no result.

    Args:
        trainers: each with its model.
        folder: for checkpoints only; None for none.
        threads: how many models are stepped at the same time.
        progress: of all lanes together; can cancel at every step.
        on_evaluate: step → every lane's point of the learning curve.
    """

    def __init__(
        self,
        trainers: Sequence[LaneTrainer],
        folder: Path | None,
        threads: Threads,
        *,
        progress: Progress | None = None,
        on_evaluate: Callable[[int], list[float]] | None = None,
    ) -> None:
        self.trainers, self.folder, self.threads = list(trainers), folder, threads
        self.progress, self.on_evaluate = progress, on_evaluate
        self.lanes = [lane for trainer in trainers for lane in trainer.lanes]
        self.config = self.trainers[0].config
        self.seconds_before, self.started = 0.0, time.monotonic()

    def fit(self) -> list[TrainLog]:
        """Trains from the newest valid checkpoint, or from the start."""
        newest = None if self.folder is None else newest_valid(self.folder, PREFIX)
        start = 0
        if newest is not None:
            start = self._load(newest)
        else:
            self._measure(0)
        self.started = time.monotonic()  # loading and the first point are not training
        for step in range(start + 1, self.config.steps + 1):
            if self.progress is not None:
                self.progress.check_cancelled()
            self.threads.map(lambda trainer, step=step: trainer.step(step), self.trainers)
            self._after(step)
        return self.logs()

    def logs(self) -> list[TrainLog]:
        """Every lane's log so far; its time is its share of the time of all."""
        seconds = self.seconds_before + time.monotonic() - self.started
        share = seconds / len(self.lanes)
        return [
            TrainLog(losses=lane.losses, curve=lane.curve, seconds=share) for lane in self.lanes
        ]

    def _after(self, step: int) -> None:
        """Measures, reports and saves, in this order."""
        last, every = self.config.steps, self.config.evaluate_every
        measured = step == last or (every and step % every == 0)
        if measured:
            self._measure(step)
        if measured or step % max(1, last // POINTS) == 0:
            for lane in self.lanes:
                if lane.progress is not None:
                    rate = lane.lr * self.trainers[0].shares[step]
                    point = {"point": lane.curve[-1][1]} if measured and lane.curve else {}
                    lane.progress.metric(step=step, loss=lane.losses[-1], lr=rate, **point)
        if self.progress is not None:
            self.progress.progress(step, last, "training")
        if self.folder is not None and (step == last or step % self.config.checkpoint_every == 0):
            self._save(step, self.folder)

    def _measure(self, step: int) -> None:
        """Adds a point to every learning curve; its time is not training time."""
        if self.on_evaluate is None:
            return
        start = time.monotonic()
        for lane, value in zip(self.lanes, self.on_evaluate(step), strict=True):
            lane.curve.append((step, value))
        self.started += time.monotonic() - start

    def _save(self, step: int, folder: Path) -> None:
        with commit_folder(folder / f"{PREFIX}{step}") as temp:
            for index, trainer in enumerate(self.trainers):
                save_file(trainer.state(), temp / f"{index}-{WEIGHTS}")
            logs = [log.model_dump() for log in self.logs()]
            (temp / LOG).write_text(json.dumps(logs))
        drop_old(folder)

    def _load(self, folder: Path) -> int:
        """Restores a checkpoint; returns its step."""
        for index, trainer in enumerate(self.trainers):
            trainer.load_state(load_file(folder / f"{index}-{WEIGHTS}"))
        logs = [TrainLog.model_validate(log) for log in json.loads((folder / LOG).read_text())]
        for lane, log in zip(self.lanes, logs, strict=True):
            lane.losses, lane.curve = log.losses, log.curve
        self.seconds_before = sum(log.seconds for log in logs)
        return step_of(folder)


class _TeacherCache:
    """The teacher's states of samples that lanes share and epochs repeat."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, ...], Tensor] = {}
        self.bytes = 0

    def of(self, loss: DistillationLoss, batch: list[Encoded], device: torch.device) -> Tensor:
        """States `[1, tokens, hidden]` where a batch's answer tokens are predicted, row by row."""
        keys = [(*ids, *labels) for ids, labels in batch]
        new = [i for i, key in enumerate(keys) if key not in self.known]
        computed: dict[int, Tensor] = {}
        if new:
            ids, labels = pad_right([batch[i] for i in new], device)
            counts = (labels[:, 1:] != IGNORED).sum(1).tolist()
            rows = loss.states(ids, labels)[0, : sum(counts)].split(counts)
            computed = dict(zip(new, rows, strict=True))
        for i, rows in computed.items():
            size = rows.numel() * rows.element_size()
            if self.bytes + size <= TEACHER_CACHE and keys[i] not in self.known:
                self.known[keys[i]] = rows.clone()  # a view would keep the whole batch's tensor
                self.bytes += size
        found = [computed[i] if i in computed else self.known[k] for i, k in enumerate(keys)]
        return torch.cat(found)[None]


def learning_rates(config: TrainConfig) -> list[float]:
    """The share of the peak learning rate after 0, 1, … steps."""
    # transformers' own schedules, so that a lane's rates are those that its Trainer would use. They
    # come with an optimiser: this one has nothing to train.
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    warmup = count_warmup(config, config.steps)
    schedule: Any = transformers.get_scheduler(
        SCHEDULES[config.schedule], optimizer, warmup, config.steps
    )
    (share,) = schedule.lr_lambdas
    return [share(step) for step in range(config.steps + 1)]

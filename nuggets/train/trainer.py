"""transformers' Trainer with ready-made batches, our checkpoints and our checks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from nuggets.bench.evaluate import Encoded, pad_right
from nuggets.core.memory import is_out_of_memory, memory_reported
from nuggets.core.progress import Progress
from nuggets.core.samples import IGNORED
from nuggets.errors import NonFinite
from nuggets.train.checkpoints import (
    LOG,
    PREFIX,
    Storage,
    TrainLog,
    drop_old,
    load_weights,
    save_weights,
    trainable,
)
from nuggets.train.config import TrainConfig
from nuggets.train.losses import Loss
from nuggets.train.team import Team

POINTS = 100
"""Loss reports per training: more than a chart can show only tires the disk."""


class CheckedTrainer(Trainer):
    """Trains on given batches; see `nuggets.train.finetune` for what is promised.

    Trainer's own traps: it saves straight into the final folder, and with NaN weights it logs a
    loss of 0.0 and ends as if all were well.
    """

    def __init__(
        self,
        *,
        model: Any,
        args: TrainingArguments,
        batches: list[list[int]],
        encoded: Sequence[Encoded],
        folder: Path,
        progress: Progress | None,
        storage: Storage | None,
        on_evaluate: Callable[[int], float] | None,
        loss: Loss,
        bf16: bool,
        config: TrainConfig,
        team: Team,
    ) -> None:
        super().__init__(model=model, args=args)
        # It collects all garbage at every start, which takes as long as many small steps.
        self.accelerator.free_memory = lambda *objects: list(objects)
        self.remove_callback(PrinterCallback)
        self.add_callback(_Steps(self))
        self.batches, self.encoded, self.folder = batches, encoded, folder
        self.progress, self.storage, self.on_evaluate = progress, storage, on_evaluate
        self.loss, self.bf16, self.config, self.team = loss, bf16, config, team
        self.parts = 1
        self.losses: list[float] = []
        self.curve: list[tuple[int, float]] = []
        self.weights = list(trainable(model).values())
        self.seconds_before, self.started = 0.0, time.monotonic()

    def fit(self, newest: Path | None) -> TrainLog:
        """Trains from a checkpoint, or from the start."""
        assert self.model is not None
        self.model.train()  # every part of it: PEFT leaves the base as the student was
        if newest is None:
            self.measure(0)
            self.started = time.monotonic()
        self.train(resume_from_checkpoint=str(newest) if newest else None)
        return self.log_so_far()

    def log_so_far(self) -> TrainLog:
        """The log at this step."""
        seconds = self.seconds_before + time.monotonic() - self.started
        return TrainLog(losses=self.losses, curve=self.curve, seconds=seconds)

    def measure(self, step: int) -> None:
        """Adds a point to the learning curve; its time is not training time."""
        if self.on_evaluate is None:
            return
        start = time.monotonic()
        self.curve.append((step, self.on_evaluate(step)))
        self.started += time.monotonic() - start

    def get_train_dataloader(self) -> DataLoader:
        """Batches in our order; nothing is drawn here, so a resumed run sees the same."""
        return DataLoader(
            self.batches,  # type: ignore[arg-type]  # a list is a map-style dataset
            batch_size=1,
            shuffle=False,
            collate_fn=lambda rows: pad_right([self.encoded[i] for i in rows[0]], "cpu"),
        )

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The next batch; our losses are means and need no count of tokens."""
        return [next(epoch_iterator)], None

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One forward and backward pass, in halves once a whole batch found no memory."""
        if self.progress is not None:
            self.progress.check_cancelled()
        if not model.training:  # after an evaluation; walking over all modules takes its time
            model.train()
        if self.state.global_step == 0:  # whatever was drawn so far: dropout follows from the seed
            torch.manual_seed(self.args.seed)
        self.team.begin_step(self.args.seed, self.state.global_step)
        ids, labels = (tensor.to(self.args.device) for tensor in inputs)
        loss = self._backward_or_nothing(model, ids, labels) if self.parts == 1 else None
        if loss is None:
            with memory_reported("Half a training batch", "lower train.batch_size or max_length"):
                loss = self._backward(model, ids, labels)
        loss = self.team.add_up(loss, self.weights)
        if not math.isfinite(float(loss)):
            raise self.stopped(f"loss became {float(loss)}")
        self.losses.append(float(loss))
        return loss

    def _backward_or_nothing(self, model: Any, ids: Tensor, labels: Tensor) -> Tensor | None:
        """Tries the batch whole; None if there is no memory for it, and it is to be halved."""
        try:
            return self._backward(model, ids, labels)
        except Exception as problem:
            if len(ids) == 1 or not is_out_of_memory(problem):
                raise
        for weight in self.weights:  # whatever part of the gradient was there already
            weight.grad = None
        if self.args.device.type == "cuda":
            torch.cuda.empty_cache()
        self.parts = 2
        if self.progress is not None:
            self.progress.log(
                f"A batch of {len(ids)} did not fit into memory. From step "
                f"{self.state.global_step + 1} on, batches are computed in two halves, which "
                "gives the same gradient."
            )
        return None

    def _backward(self, model: Any, ids: Tensor, labels: Tensor) -> Tensor:
        """Loss and gradient of this process's rows of a batch, in `parts`.

        The loss is a mean over answer tokens, so every part counts by its own.
        """
        half = self.bf16 and self.args.device.type == "cuda"
        own = self.team.rows(len(ids))
        size = math.ceil(len(ids[own]) / self.parts) or 1
        total = _answer_tokens(labels)
        whole = ids.new_zeros((), dtype=torch.float32)
        for part, answers in zip(ids[own].split(size), labels[own].split(size), strict=True):
            share = 1.0 if len(part) == len(ids) else _answer_tokens(answers) / total
            if share == 0:  # no row of this batch is ours
                continue
            with torch.autocast("cuda", dtype=torch.bfloat16) if half else nullcontext():
                loss = self.loss(model, part, answers)
            loss = loss if share == 1 else loss * share
            loss.backward()
            whole = whole + loss.detach()
        return whole

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: it walks over all parameters at every step."""
        return 0

    def _track_num_input_tokens(self, inputs: Any) -> None:
        """Not counted."""

    def _clip_grad_norm(self, model: Any) -> Tensor:
        """Clips, and stops before a bad gradient reaches the weights."""
        norm = clip_grad_norm_(self.weights, self.config.max_grad_norm)
        if not math.isfinite(float(norm)):
            raise self.stopped(f"gradient norm became {float(norm)}")
        return norm

    def check_weights(self) -> None:
        """Stops after an update that overflowed, before it is saved."""
        norm = float(get_total_norm([p.detach() for p in self.weights]))
        if not math.isfinite(norm):
            raise self.stopped("weights became NaN or infinite", self.state.global_step)

    def stopped(self, what: str, step: int | None = None) -> NonFinite:
        """The error for a training that cannot go on."""
        step = self.state.global_step + 1 if step is None else step
        rate = f"{self.config.lr:g}"
        return NonFinite(
            f"The {what} at step {step} (learning rate {rate}). Training stopped, and the last "
            "checkpoint is finite. Lower the learning rate or check the data."
        )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """One atomic folder instead of Trainer's files in their final place."""
        assert self.storage is not None
        with self.storage.commit(self.folder / f"{PREFIX}{self.state.global_step}") as temp:
            save_weights(self.model, temp)
            self._save_optimizer_and_scheduler(str(temp))
            self._save_rng_state(str(temp))
            self.state.save_to_json(str(temp / "trainer_state.json"))
            (temp / LOG).write_text(self.log_so_far().model_dump_json())
        drop_old(self.folder, self.storage)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Reads what `_save_checkpoint` wrote; Trainer itself reads optimiser and generators."""
        folder = Path(resume_from_checkpoint)
        load_weights(self.model, folder)
        log = TrainLog.model_validate_json((folder / LOG).read_text())
        self.losses, self.curve, self.seconds_before = log.losses, log.curve, log.seconds


def _answer_tokens(labels: Tensor) -> int:
    return int((labels[:, 1:] != IGNORED).sum())


class _Steps(TrainerCallback):
    """What happens after every step, in this order: check, measure, report, save."""

    def __init__(self, trainer: CheckedTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Runs after the weights were updated."""
        trainer, step, last = self.trainer, state.global_step, state.max_steps
        trainer.check_weights()
        every = trainer.config.evaluate_every
        if step == last or (every and step % every == 0):
            trainer.measure(step)
        if trainer.progress is not None:
            if step == last or step % max(1, last // POINTS) == 0:
                rate = trainer._get_learning_rate()
                trainer.progress.metric(step=step, loss=trainer.losses[-1], lr=rate)
            trainer.progress.progress(step, last, "training")
        due = step == last or step % trainer.config.checkpoint_every == 0
        control.should_save = trainer.storage is not None and due
        return control

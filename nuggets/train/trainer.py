"""transformers' Trainer with ready-made batches, our checkpoints and our checks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from nuggets.compute.memory import is_out_of_memory, memory_reported
from nuggets.data.samples import IGNORED, Encoded
from nuggets.disk.commit import commit_folder
from nuggets.errors import NonFinite
from nuggets.models.forward import pad_right
from nuggets.progress import Progress
from nuggets.train.checkpoints import (
    LOG,
    PREFIX,
    TrainLog,
    drop_old,
    load_weights,
    save_weights,
    trainable,
)
from nuggets.train.config import TrainConfig
from nuggets.train.losses import Loss
from nuggets.train.micro_batches import MicroBatches
from nuggets.train.randomness import generator
from nuggets.train.schedule import POINTS


@dataclass(frozen=True, eq=False)
class Training:
    """All that every process of a training needs; see `nuggets.train.finetune`."""

    model: Any
    encoded: Sequence[Encoded]
    config: TrainConfig
    steps: int
    seed: int
    folder: Path | None
    newest: Path | None
    loss: Loss
    bf16: bool


class CheckedTrainer(Trainer):
    """Trains on given batches; see `nuggets.train.finetune` for what is promised.

    Trainer's own traps: it saves straight into the final folder, and with NaN weights it logs a
    loss of 0.0 and ends as if all were well.
    """

    def __init__(
        self,
        training: Training,
        args: TrainingArguments,
        batches: list[list[int]],
        progress: Progress | None = None,
        on_evaluate: Callable[[int], float] | None = None,
    ) -> None:
        super().__init__(model=training.model, args=args)
        self.model_accepts_loss_kwargs = True  # so that answer tokens of all processes are counted
        # It collects all garbage at every start, which takes as long as many small steps.
        self.accelerator.free_memory = lambda *objects: list(objects)
        self.remove_callback(PrinterCallback)
        self.add_callback(_Steps(self))
        self.training, self.config, self.batches = training, training.config, batches
        self.progress, self.on_evaluate = progress, on_evaluate
        self.plan, self.halved = MicroBatches(training.model, self.config, args.device), False
        self.losses: list[float] = []
        self.curve: list[tuple[int, float]] = []
        self.weights = list(trainable(training.model).values())
        self.seconds_before, self.started = 0.0, time.monotonic()

    def fit(self) -> TrainLog:
        """Trains from a checkpoint, or from the start."""
        assert self.model is not None
        newest = self.training.newest
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

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        """Of several processes, each gets the mean of all gradients, in place."""
        if self.args.world_size == 1:
            return model
        wrapped = DistributedDataParallel(
            model, find_unused_parameters=True, gradient_as_bucket_view=True
        )
        wrapped.broadcast_buffers = False  # they follow from the config; halves have more passes
        return wrapped

    def get_train_dataloader(self) -> DataLoader:
        """This process's rows of our batches; nothing is drawn, so a resumed run sees the same.

        One that has none, since the batch is smaller than the number of processes, gets a row
        without an answer.
        """
        place, n = self.args.process_index, self.args.world_size

        def collate(batch: list[list[int]]) -> dict[str, Tensor]:
            rows = [self.training.encoded[i] for i in batch[0][place::n]] or [([0], [IGNORED])]
            return dict(zip(("input_ids", "labels"), pad_right(rows, "cpu"), strict=True))

        # A list is a map-style dataset.
        return DataLoader(self.batches, batch_size=1, shuffle=False, collate_fn=collate)  # type: ignore[arg-type]

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One forward and backward pass, in parts where the whole batch finds no memory.

        `inputs` are this process's rows, and `num_items_in_batch` the answer tokens of all.
        """
        assert self.model is not None
        if self.progress is not None:
            self.progress.check_cancelled()
        if not self.model.training:  # after an evaluation; walking over all modules takes its time
            self.model.train()
        seed, step = self.args.seed, self.state.global_step
        if self.args.world_size > 1:  # each drops out other things, the same ones after a resume
            name = f"step {step} of process {self.args.process_index}"
            torch.manual_seed(generator(seed, name).initial_seed())
        elif step == 0:  # whatever was drawn so far: dropout follows from the seed
            torch.manual_seed(seed)
        ids, labels = (inputs[name].to(self.args.device) for name in ("input_ids", "labels"))
        total = int(num_items_in_batch)
        loss = None if self.halved else self._backward_or_nothing(model, ids, labels, total)
        if loss is None:
            with memory_reported("Half a training batch", "lower train.batch_size or max_length"):
                loss = self._backward(model, ids, labels, total)
        whole = float(self.accelerator.reduce(loss))  # type: ignore[arg-type]  # a tensor's sum
        if not math.isfinite(whole):
            raise self.stopped(f"loss became {whole}")
        self.losses.append(whole)
        return loss

    def _backward_or_nothing(
        self, model: Any, ids: Tensor, labels: Tensor, total: int
    ) -> Tensor | None:
        """Tries what memory should allow; None if there is none, and it is to be halved."""
        size = self._rows(ids)
        try:
            return self._backward(model, ids, labels, total)
        except Exception as problem:
            if size == 1 or not is_out_of_memory(problem):
                raise
            if self.args.world_size > 1:
                if any(weight.grad is not None for weight in self.weights):
                    raise  # the others may have these gradients already
                model.reducer._reset_state()  # which waits for the gradients of this pass
        for weight in self.weights:  # whatever part of the gradient was there already
            weight.grad = None
        if self.args.device.type == "cuda":
            torch.cuda.empty_cache()
        self.halved = True
        if self.progress is not None:
            self.progress.log(
                f"{size} samples did not fit into memory at once. From step "
                f"{self.state.global_step + 1} on, {self._rows(ids)} are computed at once, which "
                "gives the same gradient."
            )
        return None

    def _rows(self, ids: Tensor) -> int:
        """Rows of a batch that are computed at once."""
        size = self.plan.rows(*ids.shape)
        return -(-size // 2) if self.halved else size

    def _backward(self, model: Any, ids: Tensor, labels: Tensor, total: int) -> Tensor:
        """This process's part of the loss, and gradients, computed in parts.

        The loss is a mean over answer tokens, so every part counts by its own.
        """
        half = self.training.bf16 and self.args.device.type == "cuda"
        whole = ids.new_zeros((), dtype=torch.float32)
        size = self._rows(ids)
        parts = list(zip(ids.split(size), labels.split(size), strict=True))
        for left, (part, answers) in zip(reversed(range(len(parts))), parts, strict=True):
            with self.accelerator.no_sync(model) if left else nullcontext():
                with torch.autocast("cuda", dtype=torch.bfloat16) if half else nullcontext():
                    loss = self._share(model, part, answers, total)
                (loss * self.args.world_size).backward()  # whose mean over processes is taken
            whole = whole + loss.detach()
        return whole

    def _share(self, model: Any, ids: Tensor, labels: Tensor, total: int) -> Tensor:
        """What some rows contribute to a mean over `total` answer tokens."""
        answers = int((labels[:, 1:] != IGNORED).sum())
        return self.training.loss(model, ids, labels) * (answers / total)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: it walks over all parameters at every step."""
        return 0

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
        folder = self.training.folder
        assert folder is not None
        with commit_folder(folder / f"{PREFIX}{self.state.global_step}") as temp:
            save_weights(self.model, temp)
            self._save_optimizer_and_scheduler(str(temp))
            if self.args.world_size == 1:  # several seed their generators at every step
                self._save_rng_state(str(temp))
            self.state.save_to_json(str(temp / "trainer_state.json"))
            (temp / LOG).write_text(self.log_so_far().model_dump_json())
        drop_old(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Reads what `_save_checkpoint` wrote; Trainer itself reads optimiser and generators."""
        folder = Path(resume_from_checkpoint)
        load_weights(self.model, folder)
        log = TrainLog.model_validate_json((folder / LOG).read_text())
        self.losses, self.curve, self.seconds_before = log.losses, log.curve, log.seconds


class _Steps(TrainerCallback):
    """What happens after every step, in this order: check, measure, report, save."""

    def __init__(self, trainer: CheckedTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Runs after the weights were updated."""
        trainer, step, last = self.trainer, state.global_step, state.max_steps
        trainer.check_weights()
        every = trainer.config.evaluate_every
        measured = step == last or (every and step % every == 0)
        if measured:
            trainer.measure(step)
        if trainer.progress is not None:
            if measured or step % max(1, last // POINTS) == 0:
                rate = trainer._get_learning_rate()
                point = {"point": trainer.curve[-1][1]} if measured and trainer.curve else {}
                trainer.progress.metric(step=step, loss=trainer.losses[-1], lr=rate, **point)
            trainer.progress.progress(step, last, "training")
        due = step == last or step % trainer.config.checkpoint_every == 0
        control.should_save = trainer.training.folder is not None and due
        return control

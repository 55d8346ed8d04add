"""Fine-tuning on transformers' Trainer: our events, atomic checkpoints, stop at non-finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from nuggets.compute.memory import memory_reported
from nuggets.data.samples import Encoded
from nuggets.disk.commit import newest_valid
from nuggets.progress import Progress
from nuggets.sensitivity.hooks import blocks_to_checkpoint, checkpointed
from nuggets.train.checkpoints import PREFIX, TrainLog
from nuggets.train.config import TrainConfig
from nuggets.train.losses import Loss, answer_loss
from nuggets.train.randomness import seeded
from nuggets.train.schedule import SCHEDULES, batch_order, count_steps, count_warmup
from nuggets.train.team import leading
from nuggets.train.trainer import CheckedTrainer, Training


def finetune(
    model: Any,
    encoded: Sequence[Encoded],
    config: TrainConfig,
    seed: int,
    folder: Path | None = None,
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    on_evaluate: Callable[[int], float] | None = None,
    loss: Loss | None = None,
    bf16: bool = False,
    helpers: Sequence[str] = (),
) -> TrainLog:
    """Trains a model in place: a PEFT model's adapter, or every weight that requires gradients.

    A batch whose activations find no room is computed in parts, which give the same gradient.
    Order of the samples and dropout follow from `seed`; global random generators are left as
    they were. Checkpoints are committed into `folder`, and a later call continues after the newest
    one that verifies, on the CPU bit for bit as if it had never stopped.

    Args:
        model: what is trained, on `device`, as its arm built it.
        encoded: token ids and labels per sample.
        config: steps (or epochs), batch size, learning rate and schedule.
        seed: of the order of samples and of dropout.
        folder: for checkpoints only; nothing is kept when not given.
        device: where the model is.
        progress: receives step, loss and learning rate, and can cancel at every step.
        on_evaluate: step → a point of the learning curve.
        loss: what is minimised, a mean over answer tokens; their likelihood when not given.
        bf16: compute in bfloat16 on a GPU; weights keep their dtype.
        helpers: other devices, each of which takes a share of every batch in a process of its own.

    Returns:
        Losses and learning curve of the whole training, resumed parts included.

    Raises:
        Cancelled: at the step at which somebody asked to stop.
        OutOfMemory: if not even half of what should fit does; what does not is halved once, unless
            helpers may have had a part of its gradient already.
        NonFinite: at the very step at which a loss, gradient or weight is not finite.
        NuggetsError: if a helper failed.
    """
    steps = count_steps(config, len(encoded))
    if steps == 0:
        return TrainLog(curve=[] if on_evaluate is None else [(0, on_evaluate(0))])
    newest = None if folder is None else newest_valid(folder, PREFIX)
    training = Training(
        model, encoded, config, steps, seed, folder, newest, loss or answer_loss, bf16
    )
    device = torch.device(device)
    alike = partial(_train, replace(training, folder=None))  # helpers keep nothing
    with leading(alike, device, helpers, folder):
        return _train(training, device, progress, on_evaluate)


def _train(
    training: Training,
    device: torch.device,
    progress: Progress | None = None,
    on_evaluate: Callable[[int], float] | None = None,
) -> TrainLog:
    """Trains in this process; helpers report, save and measure nothing."""
    model, config, seed, steps = training.model, training.config, training.seed, training.steps
    blocks = blocks_to_checkpoint(model) if config.activation_checkpointing else []
    reported = memory_reported("Training", "lower train.batch_size or train.max_length")
    with seeded(seed, device), checkpointed(blocks), _left_as_it_was(model), reported:
        args = _arguments(training, device)
        batches = batch_order(training.encoded, config, steps, seed)
        return CheckedTrainer(training, args, batches, progress, on_evaluate).fit()


@contextmanager
def _left_as_it_was(model: Any) -> Iterator[None]:
    used_cache = model.config.use_cache  # Trainer switches it off in the model's own config
    was_training = model.training
    try:
        yield
    finally:
        model.config.use_cache = used_cache
        model.train(was_training)


def _arguments(training: Training, device: torch.device) -> TrainingArguments:
    config, steps, cuda = training.config, training.steps, device.type == "cuda"

    class OneDevice(TrainingArguments):
        """Trainer would take the first GPU, spread batches over all, and make its folder."""

        @property
        def should_save(self) -> bool:
            return training.folder is not None

        @property
        def device(self) -> torch.device:
            _ = super().device  # sets up what else Trainer needs
            if cuda:
                torch.cuda.set_device(device)
            return device

        @property
        def n_gpu(self) -> int:
            return int(cuda)

    return OneDevice(
        output_dir=str(training.folder or ""),
        max_steps=steps,
        per_device_train_batch_size=1,  # one ready-made batch
        learning_rate=config.lr,
        lr_scheduler_type=SCHEDULES[config.schedule],
        warmup_steps=count_warmup(config, steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=training.seed % 2**32,
        use_cpu=device.type == "cpu",
        logging_nan_inf_filter=False,
        logging_strategy="no",
        save_strategy="no",  # we ask for saves ourselves
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
    )

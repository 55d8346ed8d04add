"""Fine-tuning on transformers' Trainer: our events, atomic checkpoints, stop at non-finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer

from nuggets.bench.evaluate import Encoded
from nuggets.core.memory import memory_reported
from nuggets.core.progress import Progress
from nuggets.core.sensitivity import checkpointed
from nuggets.errors import BadInput
from nuggets.train.checkpoints import PREFIX, Storage, TrainLog
from nuggets.train.config import TrainConfig
from nuggets.train.losses import Loss, answer_loss
from nuggets.train.randomness import generator, seeded
from nuggets.train.team import Team, leading
from nuggets.train.trainer import CheckedTrainer

GROUPED = 8
"""Batches whose samples are sorted by length together."""
SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


def finetune(
    model: Any,
    encoded: Sequence[Encoded],
    config: TrainConfig,
    seed: int,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    storage: Storage | None = None,
    on_evaluate: Callable[[int], float] | None = None,
    loss: Loss | None = None,
    bf16: bool = False,
    helpers: Sequence[str] = (),
) -> TrainLog:
    """Trains a model in place: a PEFT model's adapter, or every weight that requires gradients.

    Order of the samples and dropout follow from `seed`; global random generators are left as
    they were. With `storage`, checkpoints are committed into `folder`, and a later call continues
    after the newest one that verifies, on the CPU bit for bit as if it had never stopped.

    Args:
        model: what is trained, on `device`, as its arm built it.
        encoded: token ids and labels per sample.
        config: steps (or epochs), batch size, learning rate and schedule.
        seed: of the order of samples and of dropout.
        folder: for checkpoints only.
        device: where the model is.
        progress: receives step, loss and learning rate, and can cancel at every step.
        storage: how checkpoints are committed and found.
        on_evaluate: step → a point of the learning curve.
        loss: what is minimised, a mean over answer tokens; their likelihood when not given.
        bf16: compute in bfloat16 on a GPU; weights keep their dtype.
        helpers: other devices, each of which takes a share of every batch in a process of its own.

    Returns:
        Losses and learning curve of the whole training, resumed parts included.

    Raises:
        Cancelled: at the step at which somebody asked to stop.
        OutOfMemory: if even half a batch does not fit; a whole one that does not is halved.
        NonFinite: at the very step at which a loss, gradient or weight is not finite.
        NuggetsError: if a helper failed.
    """
    steps = count_steps(config, len(encoded))
    if steps == 0:
        return TrainLog(curve=[] if on_evaluate is None else [(0, on_evaluate(0))])
    newest = storage.newest(folder, PREFIX) if storage else None
    training = Training(
        model, encoded, config, steps, seed, folder, newest, loss or answer_loss, bf16
    )
    device = torch.device(device)
    with leading(training, device, helpers, folder) as team:
        return training(device, team, progress, storage, on_evaluate)


@dataclass(frozen=True, eq=False)
class Training:
    """All that every process of a training needs; see `finetune`. Calling it trains."""

    model: Any
    encoded: Sequence[Encoded]
    config: TrainConfig
    steps: int
    seed: int
    folder: Path
    newest: Path | None
    loss: Loss
    bf16: bool

    def __call__(
        self,
        device: torch.device,
        team: Team,
        progress: Progress | None = None,
        storage: Storage | None = None,
        on_evaluate: Callable[[int], float] | None = None,
    ) -> TrainLog:
        """Trains in this process; helpers report, save and measure nothing."""
        model, config, seed = self.model, self.config, self.seed
        blocks = _blocks(model) if config.activation_checkpointing else []
        reported = memory_reported("Training", "lower train.batch_size or train.max_length")
        writes = storage is not None
        with seeded(seed, device), checkpointed(blocks), _left_as_it_was(model), reported:
            trainer = CheckedTrainer(
                model=model,
                args=_arguments(config, self.steps, seed, self.folder, device, writes=writes),
                batches=batch_order(self.encoded, config, self.steps, seed),
                encoded=self.encoded,
                folder=self.folder,
                progress=progress,
                storage=storage,
                on_evaluate=on_evaluate,
                loss=self.loss,
                bf16=self.bf16,
                config=config,
                team=team,
            )
            return trainer.fit(self.newest)


@contextmanager
def _left_as_it_was(model: Any) -> Iterator[None]:
    used_cache = model.config.use_cache  # Trainer switches it off in the model's own config
    was_training = model.training
    try:
        yield
    finally:
        model.config.use_cache = used_cache
        model.train(was_training)


def count_steps(config: TrainConfig, n_samples: int) -> int:
    """Optimiser steps of a configuration; epochs count their last, smaller batch."""
    if n_samples == 0 and (config.epochs or config.steps):
        raise BadInput("There are no samples to train on; give at least one.")
    if config.epochs is None:
        return config.steps
    return math.ceil(config.epochs * math.ceil(n_samples / config.batch_size))


def batch_order(
    encoded: Sequence[Encoded], config: TrainConfig, steps: int, seed: int
) -> list[list[int]]:
    """`sample_order` of encoded samples, grouped by length if the configuration asks for it."""
    lengths = [len(ids) for ids, _ in encoded] if config.group_lengths else None
    return sample_order(len(encoded), steps, config.batch_size, seed, lengths)


def sample_order(
    n_samples: int,
    steps: int,
    batch_size: int,
    seed: int,
    lengths: Sequence[int] | None = None,
) -> list[list[int]]:
    """Which samples each step sees: a new permutation per epoch, the last batch smaller.

    With `lengths`, neighbours in length share a batch: stretches of the permutation are sorted,
    cut into batches, and the batches are drawn in a random order (the smaller one stays last).
    """
    batches: list[list[int]] = []
    epoch = 0
    while len(batches) < steps:
        draw = generator(seed, f"epoch {epoch}")
        order = torch.randperm(n_samples, generator=draw).tolist()
        if lengths is not None:
            stretch = GROUPED * batch_size
            parts = [order[i : i + stretch] for i in range(0, n_samples, stretch)]
            order = [i for part in parts for i in sorted(part, key=lengths.__getitem__)]
        cut = [order[i : i + batch_size] for i in range(0, n_samples, batch_size)]
        if lengths is not None:
            full = n_samples // batch_size
            places = torch.randperm(full, generator=draw).tolist()
            cut = [cut[place] for place in places] + cut[full:]
        batches += cut
        epoch += 1
    return batches[:steps]


def _blocks(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def _arguments(
    config: TrainConfig, steps: int, seed: int, folder: Path, device: torch.device, *, writes: bool
) -> TrainingArguments:
    cuda = device.type == "cuda"

    class OneDevice(TrainingArguments):
        """Trainer would take the first GPU, spread batches over all, and make its folder."""

        @property
        def should_save(self) -> bool:
            return writes

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
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=1,  # one ready-made batch
        learning_rate=config.lr,
        lr_scheduler_type=SCHEDULES[config.schedule],
        warmup_steps=math.ceil(config.warmup * steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=seed % 2**32,
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

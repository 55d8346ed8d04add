"""How arms are trained: the same data and steps for all."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from nuggets.frozen import Frozen


class TrainConfig(Frozen):
    """Fine-tuning, the same for every arm.

    Attributes:
        steps: optimiser steps; 0 trains nothing.
        epochs: passes over the samples instead of `steps` (the paper: 3).
        batch_size: samples per step.
        lr: peak learning rate of AdamW, used where `lr_grid` is empty.
        lr_grid: train every seed of every arm at each of these rates and keep the one that does
            best on validation items, which the report does not count. So a seed's luck with its
            rate is part of the spread over seeds.
        schedule: of the learning rate after warm-up.
        warmup: share of the steps (the paper: .03).
        weight_decay: of AdamW.
        max_grad_norm: gradients are clipped to this norm.
        evaluate_every: steps between points of the learning curve; 0 for the end only.
        checkpoint_every: steps between checkpoints; at most this many are lost by a kill.
        max_length: tokens after which a sample is cut.
        group_lengths: put samples of like length into a batch, so that less is padding. Samples
            still come once per epoch in an order drawn from the seed, the same for every arm.
        activation_checkpointing: keep what stands between blocks only and compute the rest
            twice: a third more work, the same numbers, and long samples fit.
        dtype: of the student's own weights, which a LoRA leaves as they are; what is trained is
            float32 in any case. `bfloat16` takes half the memory, and is refused where an arm
            changes the weights themselves. Arms are then trained one after another.
        concurrent: train arms and seeds side by side in one program. `auto` does so for small
            students and on GPUs, as far as memory allows; `always` wherever it is possible; `never`
            trains one after another. The results are the same up to rounding.
        processes: each arm is trained by so many, one GPU each, that share out every batch: the
            same steps up to rounding. Arms are then trained one after another.
    """

    steps: int = Field(default=200, ge=0)
    epochs: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=16, ge=1)
    lr: float = Field(default=3e-3, gt=0)
    lr_grid: tuple[Annotated[float, Field(gt=0)], ...] = ()
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = Field(default=0.03, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    evaluate_every: int = Field(default=0, ge=0)
    checkpoint_every: int = Field(default=100, ge=1)
    max_length: int = Field(default=2048, ge=8)
    group_lengths: bool = False
    activation_checkpointing: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    concurrent: Literal["auto", "always", "never"] = "auto"
    processes: int = Field(default=1, ge=1, le=64)

    @model_validator(mode="before")
    @classmethod
    def _without_tuning_seed(cls, fields: Any) -> Any:
        """0.1 chose a rate once per arm, on a seed of its own, which no longer means anything."""
        if not isinstance(fields, dict):
            return fields
        return {name: value for name, value in fields.items() if name != "tuning_seed"}

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates that every seed is trained at, ascending."""
        return tuple(sorted(set(self.lr_grid))) or (self.lr,)

    @model_validator(mode="after")
    def _one_way(self) -> TrainConfig:
        if self.processes > 1 and self.concurrent == "always":
            raise ValueError(
                "processes train one arm after another; set concurrent to auto or processes to 1"
            )
        return self

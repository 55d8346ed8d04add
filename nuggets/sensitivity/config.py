"""How sensitivity is measured."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from nuggets.frozen import Frozen
from nuggets.sensitivity.scores import Score, ThetaGrad


class SensitivityConfig(Frozen):
    """How sensitivity is measured.

    Attributes:
        score: what is summed over samples.
        keep: `full` keeps every entry; `windows` the sums of rows and columns and the windows for
            one student, searched when a matrix is complete, so that no map of the model is ever
            held; `sums` rows and columns only.
        dtype: of weights and gradients; accumulators are float32 in any case. `auto` is
            bfloat16 on a GPU and float32 elsewhere.
        max_length: tokens after which a sample is cut (the paper: 2,048).
        method: `hooks` loads the whole model; `streaming` one block at a time from its files,
            with the same result; `auto` streams when the model does not fit into memory, and takes
            several samples of a small one in one pass, with the same result up to rounding.
        processes: samples are split among so many, each with a copy of the model: one GPU each,
            or on the CPU a share of the threads.
        checkpoint: compute activations twice instead of keeping them; the same result.
    """

    score: Score = Field(default_factory=ThetaGrad)
    keep: Literal["full", "windows", "sums"] = "full"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    max_length: int = Field(default=2048, ge=8)
    method: Literal["auto", "hooks", "streaming"] = "auto"
    processes: int = Field(default=1, ge=1, le=64)
    checkpoint: bool = False

    @model_validator(mode="after")
    def _one_way(self) -> SensitivityConfig:
        if self.processes > 1 and self.method == "streaming":
            raise ValueError(
                "several processes need the method hooks; set method to hooks or processes to 1"
            )
        return self

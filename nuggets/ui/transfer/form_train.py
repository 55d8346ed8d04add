"""How every arm is trained."""

from __future__ import annotations

from typing import Any

import streamlit as st

from nuggets.recipe import TransferRecipe
from nuggets.ui.frame import fields
from nuggets.ui.transfer.form_strategy import Control, shown_of

Tree = dict[str, Any]
SAMPLES = Control("samples", "data.n_train", "Training samples",
                  "Each seed draws its own samples, shared by all arms.", step=16)  # fmt: skip
BATCH = Control("batch", "train.batch_size", "Batch size", high=4096)
STEPS = Control("steps", "train.steps", "Steps", step=10)
LR = Control("lr", "train.lr", "Learning rate", low=1e-7, high=1, step=1e-4, format="%.1e")
ADVANCED = (
    (
        Control("schedule", "train.schedule", "Schedule", "Learning rate after warm-up."),
        Control("decay", "train.weight_decay", "Weight decay", high=1, step=0.01),
        Control("curve", "train.evaluate_every", "Evaluate every",
                "Steps between points of the learning curve; 0 = only at the end.", step=10),
        Control("max_length", "train.max_length", "Max length (tokens)",
                "Longer samples are truncated.", step=64),
        Control("weights", "train.dtype", "Precision",
                "Of the student's own weights. bfloat16 takes half the memory; LoRAs stay "
                "float32, and arms that change the student's weights are refused."),
    ),
    (
        Control("warmup", "train.warmup", "Warm-up", "As a share of all steps.",
                high=0.99, step=0.01),
        Control("clip", "train.max_grad_norm", "Clip gradients", "Maximum norm of the gradient.",
                step=0.1),
        Control("checkpoint", "train.checkpoint_every", "Checkpoint every",
                "In steps. An interrupted run loses at most this many.", step=10),
        Control("concurrent", "train.concurrent", "Train arms together",
                "Trains several arms and seeds at once: faster, with the same results up to "
                "rounding."),
        Control("processes", "train.processes", "Processes",
                "Number of GPUs that share every batch; arms are then trained one after another."),
    ),
)  # fmt: skip
SWITCHES = (
    Control("group", "train.group_lengths", "Group samples by length",
            "Less padding in a batch; each sample still comes once per epoch."),
    Control("recompute", "train.activation_checkpointing", "Recompute activations",
            "Gradient checkpointing: long samples fit, for a third more work."),
)  # fmt: skip
"""Too long to stand beside each other."""


def values(base: TransferRecipe) -> Tree:
    """What each control shows for a recipe, by key."""
    train = base.train
    return shown_of(base, SAMPLES, BATCH, STEPS, LR, *ADVANCED[0], *ADVANCED[1], *SWITCHES) | {
        "length": "steps" if train.epochs is None else "epochs",
        "epochs": float(train.epochs or 3),
        "grid": ", ".join(f"{rate:g}" for rate in train.lr_grid),
    }


def draw(base: TransferRecipe, tree: Tree) -> None:
    """Draws the controls and writes what they say into a recipe's tree."""
    shown, train = values(base), tree["train"]
    left, right = st.columns(2)
    with left:
        SAMPLES.draw(shown, tree)
        kind = fields.switch(
            "Length in", ("steps", "epochs"), shown["length"], "length",
            "Optimiser steps, or passes over the samples (the paper: 3 epochs).",
        )  # fmt: skip
    with right:
        BATCH.draw(shown, tree)
        if kind == "steps":
            STEPS.draw(shown, tree)
            train["epochs"] = None
        else:
            train["epochs"] = fields.number("Epochs", 0.1, 100.0, shown["epochs"], "epochs")
    grid = st.session_state.get("grid", shown["grid"])
    unused = f"Not used: every seed keeps its best of {grid}."
    LR._replace(help=unused if grid else "The same for all arms.").draw(shown, tree)
    with st.expander("Advanced"):
        text = fields.text(
            "Several learning rates", shown["grid"], "grid",
            "Every seed of every arm is trained at each of these and keeps the best on validation "
            "items, which are never test items: as fair as it gets, at so many times the training "
            "time. Leave empty to train all at the one rate above.",
            "for example 1e-3, 3e-3, 1e-2",
        )  # fmt: skip
        train["lr_grid"] = [_rate(part) for part in text.split(",") if part.strip()]
        for column, controls in zip(st.columns(2), ADVANCED, strict=True):
            with column:
                for control in controls:
                    control.draw(shown, tree)
        for switch in SWITCHES:
            switch.draw(shown, tree)


def _rate(text: str) -> float | str:
    """A number; anything else is left for the recipe to refuse."""
    try:
        return float(text)
    except ValueError:
        return text.strip()

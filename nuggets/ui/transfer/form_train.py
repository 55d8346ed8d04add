"""How every arm is trained."""

from __future__ import annotations

from typing import Any

import streamlit as st

from nuggets.recipe import TransferRecipe
from nuggets.ui.frame import fields

Tree = dict[str, Any]
SCHEDULES = ("linear", "cosine", "constant")
CONCURRENT = ("auto", "always", "never")


def values(base: TransferRecipe) -> Tree:
    """What each control shows for a recipe, by key."""
    train = base.train
    return {
        "samples": base.data.n_train,
        "length": "steps" if train.epochs is None else "epochs",
        "steps": train.steps,
        "epochs": float(train.epochs or 3),
        "lr": train.lr,
        "batch": train.batch_size,
        "grid": ", ".join(f"{rate:g}" for rate in train.lr_grid),
        "schedule": train.schedule,
        "warmup": train.warmup,
        "decay": train.weight_decay,
        "clip": train.max_grad_norm,
        "curve": train.evaluate_every,
        "checkpoint": train.checkpoint_every,
        "max_length": train.max_length,
        "concurrent": train.concurrent,
        "processes": train.processes,
    }


def draw(base: TransferRecipe, tree: Tree) -> None:
    """Draws the controls and writes what they say into a recipe's tree."""
    shown, train = values(base), tree["train"]
    left, right = st.columns(2)
    with left:
        tree["data"]["n_train"] = fields.number(
            "Training samples", 1, 1_000_000, shown["samples"], "samples",
            "Each seed draws its own samples, shared by all arms.", 16,
        )  # fmt: skip
        kind = fields.switch(
            "Length in", ("steps", "epochs"), shown["length"], "length",
            "Optimiser steps, or passes over the samples (the paper: 3 epochs).",
        )  # fmt: skip
    with right:
        train["batch_size"] = fields.number("Batch size", 1, 4096, shown["batch"], "batch")
        if kind == "steps":
            train["steps"] = fields.number("Steps", 0, 1_000_000, shown["steps"], "steps", step=10)
            train["epochs"] = None
        else:
            train["epochs"] = fields.number("Epochs", 0.1, 100.0, shown["epochs"], "epochs")
    grid = st.session_state.get("grid", shown["grid"])
    train["lr"] = fields.number(
        "Learning rate", 1e-7, 1.0, shown["lr"], "lr",
        f"Not used: each arm chooses its own from {grid}." if grid else "The same for all arms.",
        1e-4, "%.1e",
    )  # fmt: skip
    with st.expander("Advanced"):
        _advanced(train, shown)


def _advanced(train: Tree, shown: Tree) -> None:
    text = fields.text(
        "Learning rates to tune on", shown["grid"], "grid",
        "Each arm uses its best rate of these, chosen on another seed and other items. Leave "
        "empty for no tuning.",
        "for example 1e-3, 3e-3, 1e-2",
    )  # fmt: skip
    train["lr_grid"] = [_rate(part) for part in text.split(",") if part.strip()]
    left, right = st.columns(2)
    with left:
        train["schedule"] = fields.select(
            "Schedule", SCHEDULES, shown["schedule"], "schedule", "Learning rate after warm-up."
        )
        train["weight_decay"] = fields.number(
            "Weight decay", 0.0, 1.0, shown["decay"], "decay", step=0.01
        )
        train["evaluate_every"] = fields.number(
            "Evaluate every", 0, 1_000_000, shown["curve"], "curve",
            "Steps between points of the learning curve; 0 = only at the end.", 10,
        )  # fmt: skip
        train["max_length"] = fields.number(
            "Max length (tokens)", 8, 1_000_000, shown["max_length"], "max_length",
            "Longer samples are truncated.", 64,
        )  # fmt: skip
    with right:
        train["warmup"] = fields.number(
            "Warm-up", 0.0, 0.99, shown["warmup"], "warmup", "As a share of all steps.", 0.01
        )
        train["max_grad_norm"] = fields.number(
            "Clip gradients", 0.0, 1e6, shown["clip"], "clip", "Maximum norm of the gradient.", 0.1
        )
        train["checkpoint_every"] = fields.number(
            "Checkpoint every", 1, 1_000_000, shown["checkpoint"], "checkpoint",
            "In steps. An interrupted run loses at most this many.", 10,
        )  # fmt: skip
        train["concurrent"] = fields.select(
            "Train arms together", CONCURRENT, shown["concurrent"], "concurrent",
            "Trains several arms and seeds at once: faster, with the same results up to rounding.",
        )  # fmt: skip
        train["processes"] = fields.number(
            "Processes", 1, 64, shown["processes"], "processes",
            "Number of GPUs that share every batch; arms are then trained one after another.",
        )  # fmt: skip


def _rate(text: str) -> float | str:
    """A number; anything else is left for the recipe to refuse."""
    try:
        return float(text)
    except ValueError:
        return text.strip()

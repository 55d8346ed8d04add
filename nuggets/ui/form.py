"""The controls of a transfer: from a recipe to widgets, and back to a checked recipe.

Every widget is bound to the address under its key. Values of an address are checked twice: by the
widget's options here, and by the recipe's own rules in `api.parse_job`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, get_args

import streamlit as st

from nuggets import api
from nuggets.recipe import Arm, TransferRecipe
from nuggets.ui import shell

LAYERS = ("sensitivity", "first", "last", "uniform", "random", "cka", "by_hand")
MATRICES = ("window", "rows_cols", "neurons", "weights", "random_window", "consistent")
LAYER_HELP = """How the teacher's layers are chosen. sensitivity: the most sensitive ones (the
paper). cka: the path of greatest similarity. by_hand: name one teacher layer per student layer."""
MATRIX_HELP = """Which entries of a teacher matrix are taken. window: one contiguous block (the
paper). consistent: the same dimensions, heads and neurons everywhere, the only choice that keeps a
working circuit."""

_ARMS: dict[str, Any] = {
    arm.model_fields["kind"].default: arm for arm in get_args(get_args(Arm)[0])
}


def reset(base: TransferRecipe) -> None:
    """Sets all controls to a recipe's own values; from a callback only.

    Dropping their state would not do: the address still has the old values.
    """
    own: dict[str, Any] = {
        "layers": base.extraction.layers.kind,
        "by_hand": _listed(base),
        "matrices": base.extraction.matrices.kind,
        "roles": list(base.extraction.roles),
        "r": base.lora.r,
        "alpha": float(base.lora.alpha or 0),
        "samples": base.data.n_train,
        "steps": base.train.steps,
        "epochs": float(base.train.epochs or 1),
        "lr": base.train.lr,
        "batch": base.train.batch_size,
        "arms": [arm.name for arm in base.arms],
        "seeds": min(len(base.seeds), 10),
    }
    st.session_state.update(own)


def choose_layers(layers: Sequence[int]) -> None:
    """Sets the layers of the next transfer by hand; from another page, before it opens this one."""
    st.session_state.update(layers="by_hand", by_hand=", ".join(str(layer) for layer in layers))


def _listed(base: TransferRecipe) -> str:
    return ", ".join(str(layer) for layer in getattr(base.extraction.layers, "layers", range(4)))


def recipe(base: TransferRecipe, choice: shell.Choice, file: str | None) -> TransferRecipe:
    """Draws all controls with a recipe's values and returns the recipe they describe.

    Args:
        base: what the controls begin with, and what they do not cover.
        choice: pair, task and device of the sidebar.
        file: the user's own JSONL, in place of the task.

    Raises:
        BadInput: naming the control whose value does not fit.
    """
    tree = base.model_dump(mode="json")
    extract, train, compare = st.tabs(["Extract", "Train", "Compare"])
    with extract:
        tree["extraction"] = _extraction(base)
        tree["lora"] |= _lora(base)
    with train:
        tree["train"] |= _training(base)
        tree["data"] |= {"n_train": _samples(base)}
    with compare:
        tree["arms"] = _arms(base)
        tree["seeds"] = _seeds(base)
    own = choice.data() if choice.own and not file else api.DataConfig(task=choice.task)
    if file:
        own = api.DataConfig(file=file)
    for field in ("task", "file", "seeds", "train", "test"):
        tree["data"][field] = getattr(own, field)
    if choice.dtype != "auto":
        tree["sensitivity"] |= {"dtype": choice.dtype}
    tree |= {"teacher": choice.teacher, "student": choice.student, "device": choice.device}
    return api.parse_job(tree)


def _extraction(base: TransferRecipe) -> dict[str, Any]:
    have = base.extraction
    left, right = st.columns(2)
    with left:
        layers = _select("Layers", LAYERS, have.layers.kind, "layers", LAYER_HELP)
    with right:
        matrices = _select("Matrices", MATRICES, have.matrices.kind, "matrices", MATRIX_HELP)
    chosen: dict[str, Any] = {"layers": {"kind": layers}, "matrices": {"kind": matrices}}
    if layers == "by_hand":
        chosen["layers"]["layers"] = _numbers(
            st.text_input(
                "Teacher layer per student layer",
                _listed(base),
                key="by_hand",
                bind="query-params",
            )
        )
    # A selector's own parameters stay as long as the selector does.
    for name, kind in (("layers", layers), ("matrices", matrices)):
        if getattr(have, name).kind == kind and kind != "by_hand":
            chosen[name] = getattr(have, name).model_dump(mode="json")
    chosen["roles"] = st.pills(
        "Roles",
        api.ROLES,
        selection_mode="multi",
        default=list(have.roles),
        key="roles",
        bind="query-params",
        help="Which matrices of a layer; embed and head need equal vocabularies.",
    )
    return chosen


def _lora(base: TransferRecipe) -> dict[str, Any]:
    left, right = st.columns(2)
    with left:
        r = st.number_input("Rank r", 1, 1024, base.lora.r, key="r", bind="query-params")
    with right:
        alpha = st.number_input(
            "Alpha",
            min_value=0.0,
            value=float(base.lora.alpha or 0),
            key="alpha",
            bind="query-params",
            help="The scale is alpha / r. 0: alpha equals r, as in the paper.",
        )
    return {"r": r, "alpha": alpha or None}


def _training(base: TransferRecipe) -> dict[str, Any]:
    have = base.train
    left, right = st.columns(2)
    with left:
        if have.epochs is not None:
            length: dict[str, Any] = {
                "epochs": st.number_input(
                    "Epochs", 0.1, 100.0, float(have.epochs), key="epochs", bind="query-params"
                )
            }
        else:
            length = {
                "steps": st.number_input(
                    "Steps", 0, 1_000_000, have.steps, 10, key="steps", bind="query-params"
                )
            }
        batch = st.number_input(
            "Batch size", 1, 4096, have.batch_size, key="batch", bind="query-params"
        )
    with right:
        lr = st.number_input(
            "Learning rate",
            min_value=1e-7,
            max_value=1.0,
            value=have.lr,
            step=1e-4,
            format="%.1e",
            key="lr",
            bind="query-params",
            help="The same for all arms."
            if not have.lr_grid
            else f"Not used: tuned per arm on {', '.join(f'{x:g}' for x in have.lr_grid)}.",
        )
    return {**length, "batch_size": batch, "lr": lr}


def _samples(base: TransferRecipe) -> int:
    return st.number_input(
        "Training samples",
        min_value=1,
        max_value=1_000_000,
        value=base.data.n_train,
        step=16,
        key="samples",
        bind="query-params",
        help="Every seed draws its own; all arms of a seed get the same.",
    )


def _arms(base: TransferRecipe) -> list[dict[str, Any]]:
    own = {arm.name: arm for arm in base.arms}
    offered = own | {name: arm() for name, arm in _ARMS.items() if name not in own}
    names = st.multiselect(
        "Arms",
        list(offered),
        default=list(own),
        key="arms",
        bind="query-params",
        help="Plain LoRA is what a transfer must beat; controls have no knowledge to give.",
    )
    return [offered[name].model_dump(mode="json") for name in names if name in offered]


def _seeds(base: TransferRecipe) -> list[int]:
    count = st.slider(
        "Seeds",
        1,
        10,
        min(len(base.seeds), 10),
        key="seeds",
        bind="query-params",
        help="Independent repetitions. One seed proves nothing about training again.",
    )
    return list(base.seeds) if count == len(base.seeds) else list(range(count))


def _select(label: str, options: Iterable[str], value: str, key: str, help_: str) -> str:
    known = list(options)
    return st.selectbox(
        label,
        known,
        index=known.index(value),
        key=key,
        bind="query-params",
        help=help_,
    )


def _numbers(text: str) -> list[Any]:
    """Whole numbers separated by commas; anything else is left for the recipe to refuse."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return [int(part) if part.lstrip("-").isdigit() else part for part in parts]

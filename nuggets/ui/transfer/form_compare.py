"""Which arms are compared, with how many seeds and items.

An initialisation is an arm: each says what a LoRA starts from, and everything else is the same.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from nuggets import api
from nuggets.frozen import members
from nuggets.recipe import TransferRecipe
from nuggets.train.arms.family import Arm
from nuggets.ui.frame import fields
from nuggets.ui.transfer.form_strategy import Control, shown_of

Tree = dict[str, Any]
GROUPS = {
    "starts": ("Initialisers", "What LoRA starts from. plain: A random, B zero. paper: "
               "matrices extracted from the teacher. The others are PEFT's own "
               "and need no teacher."),
    "content": ("Content controls", "Like a treatment, but without the meaning of "
                "the teacher's parameters. The verdict is “helps” only if all of these are "
                "beaten, and at least one is there."),
    "location": ("Location controls", "The teacher's parameters, but taken from elsewhere. They "
                 "show whether it matters where parameters are taken from."),
    "others": ("Other arms", "vanilla: the untouched student. Distillation, samples labelled "
               "by the teacher, full fine-tuning and grafts are the alternatives "
               "to a transfer; lexicon adds the teacher's word vectors."),
}  # fmt: skip
MOST_SEEDS = 10
ITEMS = Control("items", "data.n_test", "Test items",
                "Items that the report evaluates, the same for every arm and seed.",
                high=100_000, step=20)  # fmt: skip
METRIC = Control("metric", "data.metric", "Verdict on", "The metric that the verdict uses.")
OLD = Control("old_items", "data.n_old", "Items per old skill",
              "Items of each skill that the student already has, to measure what it forgets.",
              high=10_000, step=10)  # fmt: skip
USUAL = "as in the recipe"
"""General samples that the form does not choose."""
PROMPTS = Control("prompts", "data.format", "Prompts",
                  "In the format of the paper's data, or by the tokenizer's chat "
                  "template.")  # fmt: skip


def values(base: TransferRecipe) -> Tree:
    """What each control shows for a recipe, by key."""
    own = {key: [arm.name for arm in base.arms if _group(arm) == key] for key in GROUPS}
    more = {"seeds": len(base.seeds), "general": USUAL}
    return own | shown_of(base, ITEMS, METRIC, OLD, PROMPTS) | more


def draw(base: TransferRecipe, tree: Tree) -> None:
    """Draws the controls and writes what they say into a recipe's tree."""
    shown = values(base)
    offered = {arm.name: arm for arm in base.arms}
    for arm in (each for kind in members(Arm).values() for each in kind.offered()):
        offered.setdefault(arm.name, arm)
    chosen: set[str] = set()
    for key, (label, help_) in GROUPS.items():
        names = [name for name, arm in offered.items() if _group(arm) == key]
        chosen |= set(fields.several(label, names, shown[key], key, help_))
    # In the recipe's own order, whatever was clicked first: the same comparison, the same recipe.
    arms = [arm for name, arm in offered.items() if name in chosen]
    tree["arms"] = [arm.model_dump(mode="json") for arm in arms]
    _explained(offered)
    if any(arm.needs_general for arm in arms):
        tree["data"]["general"] = _general(base)
    left, right = st.columns(2)
    with left:
        count = fields.slider(
            "Seeds", 1, max(MOST_SEEDS, shown["seeds"]), shown["seeds"], "seeds",
            "Independent repetitions. A single seed does not show what happens if training "
            "is repeated.", 1,
        )  # fmt: skip
    tree["seeds"] = list(base.seeds) if count == len(base.seeds) else list(range(count))
    with right:
        ITEMS.draw(shown, tree)
    with st.expander("Advanced"):
        left, right = st.columns(2)
        with left:
            METRIC.draw(shown, tree)
        with right:
            OLD.draw(shown, tree)
        PROMPTS.draw(shown, tree)


def _general(base: TransferRecipe) -> str | None:
    """The file of general samples, of those that were uploaded or used before."""
    own = {name: file for name, data in api.own_data().items() if (file := data.file or data.train)}
    chosen = fields.select(
        "General samples", [USUAL, *own], USUAL, "general",
        "What grafts are healed on, and what other arms learn from beside the task. Where a recipe "
        "has none, built-in skills, which only built-in models know. Your own samples are offered "
        "here once they are uploaded.",
    )  # fmt: skip
    return own.get(chosen, base.data.general)


def _explained(offered: dict[str, Any]) -> None:
    with st.popover("What each arm is", width="stretch"):
        rows = [
            {
                "arm": name,
                "what": arm.title,
                "role": arm.role.replace("_", " "),
                "in short": in_short(arm),
            }
            for name, arm in offered.items()
        ]
        st.dataframe(pd.DataFrame(rows), hide_index=True, height=320)


def in_short(arm: Any) -> str:
    """What an arm is, in the sentence that its class begins with."""
    return (type(arm).__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " ")


def _group(arm: Any) -> str:
    """The key of its group: controls by their role, the others by their family."""
    if arm.role in ("content_control", "location_control"):
        return arm.role.removesuffix("_control")
    return "starts" if arm.family == "start" else "others"

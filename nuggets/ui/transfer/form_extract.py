"""What to take out of the teacher, and in which shape it is put into the student."""

from __future__ import annotations

from typing import Any

import streamlit as st

from nuggets import api
from nuggets.extraction.layers import LayerSelector
from nuggets.extraction.selectors import MatrixSelector
from nuggets.recipe import TransferRecipe
from nuggets.sensitivity.scores import Score
from nuggets.ui.frame import fields
from nuggets.ui.transfer import form_strategy
from nuggets.ui.transfer.form_strategy import Control, shown_of

Tree = dict[str, Any]
RANKS = ("global", "per module", "by energy")
SELECTORS: Tree = {"layers": LayerSelector, "matrices": MatrixSelector}
SCORES: Tree = {"score": Score}
SEED_SAMPLES = Control("seed_samples", "data.n_seed_samples", "Seed samples",
                       "Samples on which sensitivity is measured (the paper: 32).",
                       high=4096)  # fmt: skip
SVD = Control("svd", "lora.svd", "SVD",
              "randomized: fast, with a fixed seed and a measured error. exact: the full "
              "decomposition.")  # fmt: skip
DROPOUT = Control("dropout", "lora.dropout", "Dropout", "PEFT's lora_dropout.",
                  high=0.99, step=0.01)  # fmt: skip
RANK_HELP = """global: rank r everywhere. per module: a rank for each kind of matrix. by energy: the
smallest rank that keeps this share of the squared singular values, r at most."""


def values(base: TransferRecipe) -> Tree:
    """What each control shows for a recipe, by key."""
    extraction, lora = base.extraction, base.lora
    return {
        **form_strategy.values("matrices", MatrixSelector, extraction.matrices),
        **form_strategy.values("layers", LayerSelector, extraction.layers),
        "draw": _drawn(base),
        "roles": list(extraction.roles),
        "ratio": extraction.ratio,
        "rank": _rank_kind(base),
        "r": lora.r,
        "energy": lora.energy or 0.9,
        **{f"r_{role}": lora.ranks.get(role, lora.r) for role in api.ROLES},
        "alpha": float(lora.alpha or 0),
        **form_strategy.values("score", Score, base.sensitivity.score),
        **shown_of(base, SEED_SAMPLES, SVD, DROPOUT),
    }


def draw(base: TransferRecipe, tree: Tree) -> None:
    """Draws the controls and writes what they say into a recipe's tree."""
    shown, extraction = values(base), tree["extraction"]
    left, right = st.columns(2)
    with left:
        intro = "How the teacher's layers are chosen."
        form_strategy.kind("layers", LayerSelector, "Layers", intro, shown, extraction)
    with right:
        intro = "Which entries of a teacher matrix are taken."
        form_strategy.kind("matrices", MatrixSelector, "Matrices", intro, shown, extraction)
    form_strategy.parameters(SELECTORS, shown, extraction)
    tree["extraction"]["roles"] = fields.pills(
        "Modules", api.ROLES, shown["roles"], "roles",
        "Which matrices of a layer are extracted; embed and head require equal vocabularies.",
    )  # fmt: skip
    _ranks(base, tree["lora"], tree["extraction"]["roles"], shown)
    tree["extraction"]["ratio"] = fields.slider(
        "Extraction ratio", min(0.01, shown["ratio"]), 1.0, shown["ratio"], "ratio",
        "Share of the chosen entries that is extracted, the most sensitive first; the others "
        "become 0. The paper extracts all.", 0.01,
    )  # fmt: skip
    with st.expander("Advanced"):
        _advanced(tree, shown)


def _ranks(base: TransferRecipe, lora: Tree, roles: list[str], shown: Tree) -> None:
    kind = fields.switch("Rank", RANKS, shown["rank"], "rank", RANK_HELP)
    if kind != shown["rank"]:
        lora |= {"energy": None, "ranks": {}}
    left, right = st.columns(2)
    if kind == "by energy":
        with left:
            lora["energy"] = fields.slider(
                "Energy kept", min(0.05, shown["energy"]), 1.0, shown["energy"], "energy",
                "Share of the squared singular values.", 0.01,
            )  # fmt: skip
    if kind != "per module":
        with right if kind == "by energy" else left:
            label = "Max rank r" if kind == "by energy" else "Rank r"
            lora["r"] = fields.number(label, 1, 1024, shown["r"], "r")
    with right if kind == "global" else left:
        alpha = fields.number(
            "LoRA alpha (0 = same as rank)", 0.0, 1e6, shown["alpha"], "alpha",
            "The scale is alpha / r. With 0, alpha equals the rank, as in the paper.",
        )  # fmt: skip
    lora["alpha"] = alpha or None
    if kind == "per module":
        lora["ranks"] = base.lora.ranks | _rank_of_each(base, roles, shown)


def _rank_of_each(base: TransferRecipe, roles: list[str], shown: Tree) -> dict[str, int]:
    """A number per kind of matrix; those that have rank r anyway are left out."""
    columns = st.columns(3)
    chosen = {}
    for place, role in enumerate(role for role in api.ROLES if role in roles):
        with columns[place % 3]:
            key = f"r_{role}"
            chosen[role] = fields.number(f"r of {role}", 1, 1024, shown[key], key)
    own = base.lora.ranks
    return {role: n for role, n in chosen.items() if n != base.lora.r or role in own}


def _advanced(tree: Tree, shown: Tree) -> None:
    left, right = st.columns(2)
    with left:
        SEED_SAMPLES.draw(shown, tree)
        SVD.draw(shown, tree)
    with right:
        intro = "What is summed over the seed samples."
        form_strategy.kind("score", Score, "Score", intro, shown, tree["sensitivity"])
        form_strategy.parameters(SCORES, shown, tree["sensitivity"])
        DROPOUT.draw(shown, tree)


def _rank_kind(base: TransferRecipe) -> str:
    if base.lora.energy is not None:
        return "by energy"
    return "per module" if base.lora.ranks else "global"


def _drawn(base: TransferRecipe) -> int:
    selectors = (base.extraction.layers, base.extraction.matrices)
    return next((s.seed for s in selectors if hasattr(s, "seed")), 0)  # type: ignore[union-attr]

"""What to take out of the teacher, and in which shape it is put into the student."""

from __future__ import annotations

from typing import Any, get_args

import streamlit as st

from nuggets import api
from nuggets.core.layers import LayerSelector
from nuggets.core.scores import Score
from nuggets.core.selectors import ConsistentSelector, MatrixSelector
from nuggets.recipe import TransferRecipe
from nuggets.ui import fields

RANKS = ("global", "per module", "by energy")
LAYER_HELP = """How the teacher's layers are chosen. sensitivity: the most sensitive ones (the
paper). cka: the path of greatest similarity. by_hand: name one teacher layer per student layer."""
MATRIX_HELP = """Which entries of a teacher matrix are taken. window: one contiguous block (the
paper). consistent: the same dimensions, heads and neurons everywhere, the only choice that keeps a
working circuit."""
RANK_HELP = """global: rank r everywhere. per module: a rank for each kind of matrix. by energy: the
smallest rank that keeps this share of the squared singular values, r at most."""
Tree = dict[str, Any]


def _kinds(family: Any) -> list[str]:
    """The kinds of a family of strategies, in the order of its union."""
    members = get_args(family)[0] if get_args(family) else family
    return [member.model_fields["kind"].default for member in get_args(members) or (members,)]


LAYERS, MATRICES, SCORES = _kinds(LayerSelector), _kinds(MatrixSelector), _kinds(Score)
ORDERS = list(get_args(ConsistentSelector.model_fields["order"].annotation))


def values(base: TransferRecipe) -> Tree:
    """What each control shows for a recipe, by key."""
    extraction, lora = base.extraction, base.lora
    return {
        "layers": extraction.layers.kind,
        "by_hand": _listed(base),
        "matrices": extraction.matrices.kind,
        "order": getattr(extraction.matrices, "order", ORDERS[0]),
        "draw": _drawn(base),
        "roles": list(extraction.roles),
        "ratio": extraction.ratio,
        "rank": _rank_kind(base),
        "r": lora.r,
        "energy": lora.energy or 0.9,
        **{f"r_{role}": lora.ranks.get(role, lora.r) for role in api.ROLES},
        "alpha": float(lora.alpha or 0),
        "svd": lora.svd,
        "dropout": lora.dropout,
        "score": base.sensitivity.score.kind,
        "seed_samples": base.data.n_seeds,
    }


def draw(base: TransferRecipe, tree: Tree) -> None:
    """Draws the controls and writes what they say into a recipe's tree."""
    shown = values(base)
    left, right = st.columns(2)
    with left:
        layers = fields.select("Layers", LAYERS, shown["layers"], "layers", LAYER_HELP)
    with right:
        matrices = fields.select("Matrices", MATRICES, shown["matrices"], "matrices", MATRIX_HELP)
    _selectors(base, tree["extraction"], layers, matrices, shown)
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


def _selectors(
    base: TransferRecipe, extraction: Tree, layers: str, matrices: str, shown: Tree
) -> None:
    """Kind and parameters; a selector's other parameters stay as long as the selector does."""
    for name, kind in (("layers", layers), ("matrices", matrices)):
        if getattr(base.extraction, name).kind != kind:
            extraction[name] = {"kind": kind}
    if layers == "by_hand":
        text = fields.text(
            "Teacher layer per student layer", shown["by_hand"], "by_hand",
            "One number for each student layer, counted from 0 and separated by commas.",
        )  # fmt: skip
        extraction["layers"]["layers"] = _numbers(text)
    if matrices == "consistent":
        extraction["matrices"]["order"] = fields.select(
            "Dimensions", ORDERS, shown["order"], "order",
            "Keep the most sensitive ones, the first ones, or random ones as a control.",
        )  # fmt: skip
    drawn = [name for name, kind in (("layers", layers), ("matrices", matrices))
             if kind in ("random", "random_window")]  # fmt: skip
    if matrices == "consistent" and extraction["matrices"]["order"] == "random":
        drawn.append("matrices")
    if drawn:
        seed = fields.number("Draw", 0, 10**6, shown["draw"], "draw", "Seed of the random choice.")
        for name in drawn:
            extraction[name]["seed"] = seed


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
        tree["data"]["n_seeds"] = fields.number(
            "Seed samples", 1, 4096, shown["seed_samples"], "seed_samples",
            "Samples on which sensitivity is measured (the paper: 32).",
        )  # fmt: skip
        tree["lora"]["svd"] = fields.select(
            "SVD", ["randomized", "exact"], shown["svd"], "svd",
            "randomized: fast, with a fixed seed and a measured error. exact: the full "
            "decomposition.",
        )  # fmt: skip
    with right:
        score = fields.select(
            "Score", SCORES, shown["score"], "score",
            "What is summed over the seed samples; theta_grad is the paper's |θ · ∂L/∂θ|.",
        )  # fmt: skip
        if score != tree["sensitivity"]["score"]["kind"]:
            tree["sensitivity"]["score"] = {"kind": score}
        tree["lora"]["dropout"] = fields.number(
            "Dropout", 0.0, 0.99, shown["dropout"], "dropout", "PEFT's lora_dropout.", 0.01
        )


def _rank_kind(base: TransferRecipe) -> str:
    if base.lora.energy is not None:
        return "by energy"
    return "per module" if base.lora.ranks else "global"


def _drawn(base: TransferRecipe) -> int:
    selectors = (base.extraction.layers, base.extraction.matrices)
    return next((s.seed for s in selectors if hasattr(s, "seed")), 0)  # type: ignore[union-attr]


def _listed(base: TransferRecipe) -> str:
    return ", ".join(str(layer) for layer in getattr(base.extraction.layers, "layers", range(4)))


def _numbers(text: str) -> list[Any]:
    """Whole numbers separated by commas; anything else is left for the recipe to refuse."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return [int(part) if part.lstrip("-").isdigit() else part for part in parts]

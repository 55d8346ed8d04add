"""The controls of a transfer: from a recipe to widgets, and back to a checked recipe.

Every widget is bound to the address under its key. Values of an address are checked twice: by the
fields, and by the recipe's own rules in `api.parse_job`.
"""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from nuggets import api
from nuggets.recipe import TransferRecipe
from nuggets.ui.frame import fields, shell
from nuggets.ui.transfer import form_compare, form_extract, form_train

FILES = ("file", "seed_samples", "train", "test")


def reset(base: TransferRecipe) -> None:
    """Sets all controls to a recipe's own values; from a callback only.

    Dropping their state would not do: the address still has the old values.
    """
    parts = (form_extract, form_train, form_compare)
    st.session_state.update({k: v for part in parts for k, v in part.values(base).items()})
    fields.forget()


def choose_layers(layers: Sequence[int]) -> None:
    """Sets the layers of the next transfer by hand; from another page, before it opens this one."""
    st.session_state.update(layers="by_hand", by_hand=", ".join(str(layer) for layer in layers))


def recipe(base: TransferRecipe, choice: shell.Choice) -> TransferRecipe:
    """Draws all controls with a recipe's values and returns the recipe they describe.

    Raises:
        BadInput: naming the control whose value does not fit.
    """
    tree = base.model_dump(mode="json")
    extract, train, compare = st.tabs(["Extract", "Train", "Compare"])
    with extract:
        form_extract.draw(base, tree)
    with train:
        form_train.draw(base, tree)
    with compare:
        form_compare.draw(base, tree)
    tree["data"] |= _sources(base, choice, tree["data"]["general"])
    if choice.dtype != "auto":
        tree["sensitivity"] |= {"dtype": choice.dtype}
    tree |= {"teacher": choice.teacher, "student": choice.student, "device": choice.device}
    return api.parse_job(tree)


def _sources(
    base: TransferRecipe, choice: shell.Choice, general: str | None
) -> dict[str, str | None]:
    """The samples that the sidebar names; general ones as chosen here, else their own."""
    own = choice.data()
    found = {name: getattr(own, name) for name in ("task", *FILES)}
    usual = general == base.data.general
    return found | {"general": (own.general if usual else None) or general}

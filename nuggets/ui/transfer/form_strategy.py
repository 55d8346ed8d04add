"""Fields of a recipe as controls: single ones with their words, and whole strategies.

What a control takes follows from the field's type and bounds; of a strategy everything follows from
its class: a new one appears with its docstring and its fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args, get_origin

import streamlit as st
from pydantic.fields import FieldInfo

from nuggets.frozen import Frozen, members
from nuggets.recipe import TransferRecipe
from nuggets.ui.frame import fields

Tree = dict[str, Any]
MOST = 1_000_000
_KEYS = {
    ("layers", "layers"): "by_hand",
    ("layers", "seed"): "draw",
    ("matrices", "seed"): "draw",  # one number for both
    ("matrices", "order"): "order",
}
"""Names in the address that differ from `FAMILY_FIELD`."""


class Control(NamedTuple):
    """One field of a recipe.

    Attributes:
        key: in the address.
        path: of the field, such as `train.lr`.
        label: its name for people.
        help: what it means.
        low: least number, where that of the recipe is not meant.
        high: largest number, likewise.
        step: of the buttons beside a number.
        format: of a number, as Streamlit takes it.
    """

    key: str
    path: str
    label: str
    help: str = ""
    low: float | None = None
    high: float | None = None
    step: float | None = None
    format: str | None = None

    def draw(self, shown: Tree, tree: Tree) -> None:
        """Draws it and writes what it says into a recipe's tree."""
        part, name = self.path.split(".")
        cls: Any = TransferRecipe.model_fields[part].annotation
        tree[part][name] = _drawn(cls.model_fields[name], self, shown[self.key])


def shown_of(base: TransferRecipe, *controls: Control) -> Tree:
    """What controls show for a recipe, by key."""
    parts = {control.key: control.path.split(".") for control in controls}
    return {key: getattr(getattr(base, part), name) for key, (part, name) in parts.items()}


def values(name: str, family: Any, chosen: Frozen) -> Tree:
    """What each control shows: the fields of the strategy chosen, the defaults of all others."""
    shown: Tree = {name: chosen.kind}  # type: ignore[attr-defined]
    for cls in members(family).values():
        for field, info in _parameters(cls):
            usual = info.examples[0] if info.is_required() and info.examples else info.default
            shown[_key(name, field)] = _shown(getattr(chosen, field, usual))
    return shown


def kind(name: str, family: Any, label: str, intro: str, shown: Tree, tree: Tree) -> None:
    """Draws the choice of a kind into `tree[name]`; another kind drops the old one's fields."""
    kinds = members(family)
    lines = (f"**{kind}**: {cls.__doc__.splitlines()[0]}" for kind, cls in kinds.items())
    chosen = fields.select(label, list(kinds), shown[name], name, "\n\n".join([intro, *lines]))
    if chosen != tree[name]["kind"]:
        tree[name] = {"kind": chosen}


def parameters(families: Mapping[str, Any], shown: Tree, tree: Tree) -> None:
    """Draws the fields of the strategies chosen, those with one name in the address once."""
    drawn: Tree = {}
    for name, family in families.items():
        for field, info in _parameters(members(family)[tree[name]["kind"]]):
            key = _key(name, field)
            other, value = (info.json_schema_extra or {}).get("only_with", (None, None))  # type: ignore[union-attr]
            if other and tree[name].get(other) != value:
                continue
            if key not in drawn:
                label = info.title or field.replace("_", " ").capitalize()
                control = Control(key, "", label, info.description or "")
                drawn[key] = _drawn(info, control, shown[key])
            tree[name][field] = drawn[key]


def _parameters(cls: Any) -> Iterator[tuple[str, FieldInfo]]:
    return ((name, info) for name, info in cls.model_fields.items() if name != "kind")


def _key(name: str, field: str) -> str:
    return _KEYS.get((name, field), f"{name}_{field}")


def _shown(value: Any) -> Any:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "" if value is None else value


def _drawn(info: FieldInfo, control: Control, value: Any) -> Any:
    """The control that fits a field's type; what it cannot check is for the recipe to refuse."""
    key, _, label, help_, *_ = control
    if get_origin(info.annotation) is Literal:
        return fields.select(label, get_args(info.annotation), value, key, help_)
    if info.annotation is bool:
        return st.toggle(label, value, key=key, bind="query-params", help=help_ or None)
    if (kind := info.annotation) in (int, float):
        least = next((m.ge for m in info.metadata if hasattr(m, "ge")), 0)
        most = next((m.le for m in info.metadata if hasattr(m, "le")), MOST)
        low = kind(least if control.low is None else control.low)
        high = kind(most if control.high is None else control.high)
        step = None if control.step is None else kind(control.step)
        return fields.number(label, low, high, kind(value), key, help_, step, control.format)
    text = fields.text(label, value, key, help_)
    return _numbers(text) if get_origin(info.annotation) is tuple else text or None


def _numbers(text: str) -> list[Any]:
    """Whole numbers separated by commas; anything else is left for the recipe to refuse."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return [int(part) if part.lstrip("-").isdigit() else part for part in parts]

"""Models and skills: what is known before anything is computed."""

from __future__ import annotations

from nuggets.builtin.resolve import resolve
from nuggets.builtin.skills import SKILLS, Skill
from nuggets.errors import BadInput
from nuggets.models.architecture import ArchSpec
from nuggets.models.hub import offline
from nuggets.models.pair import read_spec


def skills() -> dict[str, Skill]:
    """The built-in skills by name, in the order in which they are shown."""
    return SKILLS


def spec(model: str) -> ArchSpec:
    """A model's dimensions, from its configuration alone."""
    return read_spec(resolve(model))


def asks_hub(model: str) -> bool:
    """Whether looking at a model asks the hub; False for what is here, and what is no model."""
    try:
        found = resolve(model)
    except BadInput:
        return False
    return found.hub_id is not None and not offline()

"""Models and skills: what is known before anything is computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from nuggets.builtin.resolve import model_named, pair_named
from nuggets.builtin.skills import SKILLS, Skill
from nuggets.disk.home import cache_dir
from nuggets.errors import BadInput
from nuggets.models import vocabulary
from nuggets.models.architecture import ArchSpec
from nuggets.models.hub import cached_folder, offline
from nuggets.models.references import ModelRef
from nuggets.models.tried import refusals
from nuggets.planning.checks import preflight_pair
from nuggets.planning.machine import Doctor, diagnose
from nuggets.preflight.headers import Preflight
from nuggets.recipe import TransferRecipe


def skills() -> dict[str, Skill]:
    """The built-in skills by name, in the order in which they are shown."""
    return SKILLS


def spec(model: str) -> ArchSpec:
    """A model's dimensions, from its configuration alone."""
    return model_named(model).spec


def unknown_words(model: str, texts: Iterable[str]) -> Counter[str]:
    """The pieces of texts that a model on this machine reads as its unknown token, with counts."""
    return vocabulary.unknown_words(model_named(model).ref, texts)


def locate(model: str) -> ModelRef:
    """Where a model is: built-in, a folder, a GGUF file or on the hub. Nothing of it is read.

    Args:
        model: built-in name, folder, GGUF file or `org/name@revision`.

    Raises:
        BadInput: if it is none of these, or not there.
    """
    return model_named(model).ref


def asks_hub(model: str) -> bool:
    """Whether looking at a model asks the hub; False for what is here, and what is no model."""
    try:
        found = locate(model)
    except BadInput:
        return False
    return found.hub_id is not None and not offline()


def preflight(
    teacher: str,
    student: str,
    roles: Iterable[str] = (),
    *,
    device: str = "auto",
    recipe: TransferRecipe | None = None,
) -> Preflight:
    """What can be known of a pair before its weights are read, and what it will need.

    Models on this machine that do not come with Nuggets are also built, without their weights, in a
    child process that may not take more than its share: a few seconds the first time.

    Args:
        teacher: built-in name, folder, GGUF file or `org/name@revision`.
        student: likewise.
        roles: matrices that are to be extracted, such as `("q", "embed")`.
        device: where it is to run; its memory and measured speed are counted with.
        recipe: how much is to be done; a usual transfer when not given.

    Raises:
        BadInput: if one of the two is not a model at all.
    """
    pair = pair_named(teacher, student)
    found = preflight_pair(pair, tuple(roles), device, recipe)
    here = [
        model.ref
        for model, facts in ((pair.teacher, found.teacher), (pair.student, found.student))
        if facts is not None
        and (model.ref.path or cached_folder(model.ref.hub_id or "", model.ref.revision))
    ]
    problems = dict.fromkeys([*found.problems, *filter(None, refusals(here, cache_dir()))])
    return found.model_copy(update={"problems": tuple(problems)})


def doctor(refresh: bool = False) -> Doctor:
    """Versions and devices of this machine, measured in a child process and remembered.

    Args:
        refresh: look again instead of returning what was found before.
    """
    return diagnose(refresh)

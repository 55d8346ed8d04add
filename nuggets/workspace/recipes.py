"""The user's own recipes, kept by name: the app saves them, the command line runs them.

One YAML each, in the folder `recipes` of the home, so that they can also be edited, copied and kept
under version control by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuggets import demo
from nuggets.disk.commit import atomic_write, disk_errors, make_folder
from nuggets.disk.home import nuggets_home
from nuggets.errors import BadInput
from nuggets.frozen import Frozen
from nuggets.recipe_tree import leaves, one_line, read_recipe, shipped_recipes

if (
    TYPE_CHECKING
):  # what a recipe may hold takes a third of a second, and a list of names needs none
    from nuggets.recipe import TransferRecipe

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


def own_recipes() -> dict[str, Path]:
    """The files of all saved recipes by name, in alphabetical order."""
    files = sorted((nuggets_home() / "recipes").glob("*.yaml"))
    shipped = shipped_recipes()
    return {f.stem: f for f in files if _NAME.fullmatch(f.stem) and f.stem not in shipped}


def load_recipe(source: str | Path, overrides: Iterable[str] = ()) -> TransferRecipe:
    """Reads a shipped or a saved recipe by name, or a YAML file, and applies `field=value`.

    A name wins over a file of the same name; write `./NAME` for the file.

    Raises:
        BadInput: for an unknown recipe, broken YAML, or a value that does not fit, naming it; and
            for a file from elsewhere that names what nobody here allowed.
    """
    from nuggets.workspace.strangers import check_recipe

    found = show_recipe(source, overrides)
    if str(source) not in (*shipped_recipes(), *own_recipes()):
        check_recipe(found, read_recipe(source), Path(source))
    return found


def show_recipe(source: str | Path, overrides: Iterable[str] = ()) -> TransferRecipe:
    """As `load_recipe`, to be looked at alone: also what nobody here allowed.

    Raises:
        BadInput: for an unknown recipe, broken YAML, or a value that does not fit, naming it.
    """
    from nuggets import recipe as recipes

    saved = own_recipes().get(str(source))
    try:
        return recipes.load_recipe(saved or source, overrides)
    except BadInput as problem:
        names = ", ".join(own_recipes())
        if saved or not names or not str(problem).startswith("There is no recipe"):
            raise
        raise BadInput(f"{problem} Saved recipes: {names}.") from None


@demo.refuses("recipes cannot be saved")
def save_recipe(recipe: TransferRecipe, name: str, replace: bool = False) -> Path:
    """Keeps a recipe under a name; `nuggets run NAME` then runs it.

    Args:
        recipe: what is kept; its own name becomes the new one, its paths become absolute.
        name: letters, digits, `-` and `_`, at most 40 of them.
        replace: whether another recipe of this name may be replaced.

    Raises:
        BadInput: if the name cannot be used or is taken.
        NuggetsError: if the disk refuses it.
    """
    from nuggets.recipe import anchored, dump_job

    name = name.strip()
    if not _NAME.fullmatch(name):
        raise BadInput(
            f"{_shown(name)} is not a valid recipe name: use 1 to 40 letters, digits, hyphens or "
            "underscores, beginning with a letter or a digit."
        )
    if name in shipped_recipes():
        raise BadInput(f"{name} is a recipe that comes with Nuggets; choose another name.")
    path = nuggets_home() / "recipes" / f"{name}.yaml"
    if path.exists() and not replace:
        raise BadInput(f"A recipe named {name} already exists; replace it or choose another name.")
    make_folder(path.parent)
    atomic_write(path, dump_job(anchored(recipe.model_copy(update={"name": name}))))
    return path


@demo.refuses("recipes cannot be deleted")
def delete_recipe(name: str) -> None:
    """Deletes a saved recipe; runs made from it keep their own copy.

    Raises:
        BadInput: if there is none of this name.
    """
    path = own_recipes().get(name)
    if path is None:
        raise BadInput(f"There is no saved recipe {_shown(name)}.")
    with disk_errors(path):
        path.unlink(missing_ok=True)


def compare_recipes(found: Mapping[str, TransferRecipe]) -> dict[str, list[str]]:
    """Fields in which recipes differ → their values, each on one line, in the order given.

    Raises:
        BadInput: for fewer than two recipes.
    """
    from nuggets.workspace.recipes import fields_of

    if len(found) < 2:
        raise BadInput(f"Comparing needs at least two recipes, but got {len(found)}.")
    trees = [fields_of(recipe) for recipe in found.values()]
    names = dict.fromkeys(name for tree in trees for name in tree)
    values = {name: [tree.get(name) for tree in trees] for name in names}
    rows = {
        name: [_in_words(value) for value in each]
        for name, each in values.items()
        if any(value != each[0] for value in each)
    }
    return {name: words for name, words in rows.items() if len(set(words)) > 1}


def _in_words(value: Any) -> str:
    """A value on one line; an arm without parameters is its kind."""
    if isinstance(value, list):
        value = [v["kind"] if isinstance(v, dict) and list(v) == ["kind"] else v for v in value]
    return value if isinstance(value, str) else one_line(value)


def _shown(name: str) -> str:
    """A name from outside, short and on one line."""
    return repr(name if len(name) <= 40 else f"{name[:39]}…")


def fields_of(recipe: TransferRecipe) -> dict[str, Any]:
    """Every field by its dotted name; arms and benchmarks stay whole, without their defaults."""
    lists = {name: non_defaults(getattr(recipe, name)) for name in ("arms", "benchmarks")}
    return leaves(recipe.model_dump(mode="json") | lists)


def non_defaults(value: Any) -> Any:
    """What differs from the defaults; `job` and `kind` always stay, since they choose the class."""
    if isinstance(value, Frozen):
        defaults = {
            name: field.get_default(call_default_factory=True)
            for name, field in type(value).model_fields.items()
        }
        return {
            name: non_defaults(each)
            for name, each in value
            if name in ("job", "kind") or each != defaults[name]
        }
    return [non_defaults(each) for each in value] if isinstance(value, tuple) else value

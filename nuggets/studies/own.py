"""An experiment from a file of its schema: read as a stranger's, and refused before it costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nuggets.disk.untrusted import read_text
from nuggets.errors import BadInput
from nuggets.frozen import first_faults
from nuggets.recipe import TransferRecipe
from nuggets.recipe_tree import MAX_BYTES, check_values, parse_yaml
from nuggets.studies.schema import Study, focus_of

RESERVED = ("all", "readme", "preregistration", "summary")
"""Words of the command, and files beside the reports."""


def read_study(path: Path, shipped: Mapping[str, Study]) -> Study:
    """An experiment from its YAML.

    Raises:
        BadInput: if it does not fit, naming the fields.
    """
    tree = parse_yaml(read_text(path, MAX_BYTES), str(path))
    if "recipe" not in tree:
        raise BadInput(
            f"{path} is no experiment: it has no field recipe, which all its runs share. Run a "
            f"recipe with: nuggets run {path}"
        )
    study = parse_study(tree | {"file": str(path.absolute())}, str(path))
    if study.name in shipped or study.name.lower() in RESERVED:
        raise BadInput(
            f"The experiment {path} cannot be called {study.name}, which "
            f"{'comes with Nuggets' if study.name in shipped else 'means something else'}; give it "
            "another name."
        )
    return study


def parse_study(tree: Mapping[str, Any], source: str) -> Study:
    """Validates an experiment's fields; `order`, its place in lists, is none of them.

    Raises:
        BadInput: with the first few faults in one sentence.
    """
    fields = {name: value for name, value in tree.items() if name != "order"}
    try:
        check_values(fields)
        return Study.model_validate(fields)
    except ValueError as problem:
        said = first_faults(problem, 0) if isinstance(problem, ValidationError) else str(problem)
    raise BadInput(f"The experiment {source} does not fit: {' '.join(said.split())}.")


def check_whole(study: Study, recipes: Mapping[str, TransferRecipe]) -> None:
    """Refuses what would show only in the report, after everything was trained.

    Raises:
        BadInput: naming the run, and what it has.
    """
    metrics = {recipe.data.metric for recipe in recipes.values()}
    if len(metrics) > 1:
        raise BadInput(
            f"The runs of the experiment {study.file} are judged by different metrics "
            f"({', '.join(sorted(metrics))}); give all of them the same data.metric."
        )
    for run, recipe in recipes.items():
        for field, arm in (("focus", focus_of(study, run)), ("versus", study.versus)):
            if arm and arm not in recipe.parts:
                raise BadInput(
                    f"The experiment {study.file} has {field}: {arm}, but its run {run!r} has the "
                    f"arms {', '.join(recipe.parts)}. Set {field} to one of them."
                )
        if study.layout == "retention" and recipe.data.old_skills == ():
            raise BadInput(
                f"The experiment {study.file} has the layout retention, but its run {run!r} "
                "measures no old skill; name some in data.old_skills."
            )

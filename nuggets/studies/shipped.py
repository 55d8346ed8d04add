"""The experiments in the package, and the recipes they consist of."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any

from pydantic import ValidationError

from nuggets.errors import BadInput
from nuggets.frozen import first_fault
from nuggets.recipe import TransferRecipe, anchored, parse_job
from nuggets.recipe_tree import override, parse_yaml
from nuggets.studies.schema import Study

PREFIX = "paper-"
"""Names of an experiment's runs begin with it."""


@cache
def studies() -> dict[str, Study]:
    """The shipped experiments by name, in the order of the paper.

    Raises:
        BadInput: if one does not fit, naming the field.
    """
    folder = resources.files("nuggets") / "recipes" / "paper"
    found = [
        _parsed(parse_yaml(file.read_text(), file.name), file.name)
        for file in folder.iterdir()
        if file.name.endswith(".yaml")
    ]
    return {study.name: study for _, study in sorted(found, key=lambda pair: pair[0])}


def _parsed(tree: dict[str, Any], source: str) -> tuple[int, Study]:
    order = tree.pop("order", 99)
    try:
        return order, Study.model_validate(tree)
    except ValidationError as problem:
        fault = first_fault(problem)
        raise BadInput(f"The experiment {source} does not fit: {fault}.") from None


def open_study(name: str) -> Study:
    """The experiment of that name.

    Raises:
        BadInput: if there is none, naming those there are.
    """
    known = studies()
    if name not in known:
        raise BadInput(f"There is no experiment {name!r}; choose one of {', '.join(known)}.")
    return known[name]


def study_recipes(
    study: Study, overrides: Iterable[str] = (), models: Mapping[str, str] | None = None
) -> dict[str, TransferRecipe]:
    """Run name → the recipe of that run.

    Args:
        study: which experiment.
        overrides: `path.to.field=value` for all runs; they win over the experiment's own.
        models: made models by name → folder; their names stand for them when not given.

    Raises:
        BadInput: if a field does not exist or a value does not fit.
    """
    given = tuple(overrides)
    return {run.name: _recipe(study, run.name, (*run.set, *given), models) for run in study.runs}


def _recipe(
    study: Study, run: str, changes: tuple[str, ...], models: Mapping[str, str] | None
) -> TransferRecipe:
    tree = copy.deepcopy(study.recipe)
    for change in changes:
        override(tree, change)
    for field in ("teacher", "student"):
        name = str(tree.get(field, "")).removeprefix("{").removesuffix("}")
        if name in study.models:
            tree[field] = (models or {}).get(name, study.models[name].teacher)
    suffix = "" if len(study.runs) == 1 else f"-{run}"
    job = parse_job({"job": "transfer", "name": f"{PREFIX}{study.name}{suffix}", **tree})
    return anchored(job)

"""The experiments in the package or in a file, and the recipes they consist of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from nuggets.disk.untrusted import is_file
from nuggets.errors import BadInput
from nuggets.recipe import TransferRecipe, anchored, parse_job
from nuggets.recipe_tree import absolute_model, absolute_paths, parse_yaml, run_tree
from nuggets.studies.own import check_whole, parse_study, read_study
from nuggets.studies.schema import Study, StudyRun
from nuggets.workspace.strangers import check_recipe

PREFIX = "paper-"
"""Names of an experiment's runs begin with it."""


@cache
def studies() -> dict[str, Study]:
    """The shipped experiments by name, in the order of the paper.

    Raises:
        BadInput: if one does not fit, naming the field.
    """
    folder = resources.files("nuggets") / "recipes" / "paper"
    files = [file for file in folder.iterdir() if file.name.endswith(".yaml")]
    trees = [parse_yaml(file.read_text(), file.name) for file in files]
    found = [parse_study(tree, tree["name"]) for tree in sorted(trees, key=lambda t: t["order"])]
    return {study.name: study for study in found}


def open_study(source: str | Path) -> Study:
    """A shipped experiment by its name, or one from a YAML file; write `./NAME` for a file.

    Raises:
        BadInput: if there is none, naming those there are; and for a file that does not fit, or
            that names what nobody here allowed.
    """
    known, path = studies(), Path(source)
    if str(source) in known:
        return known[str(source)]
    if not is_file(path):
        raise BadInput(
            f"There is no experiment {str(source)[:200]!r}; choose one of {', '.join(known)}, or "
            "give the YAML file of your own."
        )
    study = read_study(path, known)
    check_whole(study, study_recipes(study))
    return study


def study_recipes(
    study: Study, overrides: Iterable[str] = (), models: Mapping[str, str] | None = None
) -> dict[str, TransferRecipe]:
    """Run name → the recipe of that run.

    Args:
        study: which experiment.
        overrides: `path.to.field=value` for all runs; they win over the experiment's own.
        models: made models by name → folder; when not given, what they are cut from.

    Raises:
        BadInput: if a field does not exist or a value does not fit; and for a file from elsewhere
            that names what nobody here allowed.
    """
    given, cut_from = tuple(overrides), {name: cut_teacher(study, name) for name in study.models}
    if study.file:
        _check_stranger(study, given, cut_from)
    return {run.name: _recipe(study, run, given, models or cut_from) for run in study.runs}


def cut_teacher(study: Study, name: str) -> str:
    """What a made model is cut from; a folder is seen from the experiment's file."""
    teacher = study.models[name].teacher
    return absolute_model(teacher, Path(study.file).parent) if study.file else teacher


def models_of(study: Study, overrides: Iterable[str] = ()) -> list[str]:
    """The made models that some run has, in the order of the file."""
    given, marks = tuple(overrides), {name: f"{{{name}}}" for name in study.models}
    trees = [_tree(study, run, given, marks) for run in study.runs]
    used = {str(tree.get(field)) for tree in trees for field in ("teacher", "student")}
    return [name for name, marked in marks.items() if marked in used]


def _check_stranger(study: Study, changes: tuple[str, ...], cut_from: Mapping[str, str]) -> None:
    """Refuses a file that names what nobody here allowed, in any of its runs."""
    for run in study.runs:
        told = _tree(study, run, (), cut_from)
        check_recipe(_recipe(study, run, changes, cut_from), told, Path(study.file))


def _recipe(
    study: Study, run: StudyRun, changes: tuple[str, ...], made: Mapping[str, str]
) -> TransferRecipe:
    suffix = "" if len(study.runs) == 1 else f"-{run.name}"
    name = f"{PREFIX}{study.name}{suffix}"
    job = {"job": "transfer", "name": name, **_tree(study, run, changes, made)}
    try:
        return anchored(parse_job(job))
    except BadInput as problem:
        raise BadInput(f"The run {run.name!r} of the experiment {study.name}: {problem}") from None


def _tree(
    study: Study, run: StudyRun, changes: tuple[str, ...], made: Mapping[str, str]
) -> dict[str, Any]:
    """A run's fields; paths in the file are seen from its folder, those in changes from here."""
    tree = run_tree(study.recipe, run.set, {name: f"{{{name}}}" for name in made})
    if study.file:
        tree = absolute_paths(tree, Path(study.file).parent)
    return run_tree(tree, changes, made)

"""Making the runs of an experiment: what is finished is reused, interrupted runs go on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from nuggets.builtin.resolve import model_named, pair_named
from nuggets.disk.home import nuggets_home, runs_dir
from nuggets.errors import BadInput, NuggetsError
from nuggets.planning import cache
from nuggets.recipe import CutJob, TransferRecipe, load_job
from nuggets.runs.schema import RESUMABLE
from nuggets.runs.store import Run, RunStore
from nuggets.studies.schema import Study
from nuggets.studies.shipped import study_recipes

Execute = Callable[[TransferRecipe, Run | None], Run]
"""Runs a recipe to its end: from the start, or on from an unfinished run of it."""
Cut = Callable[[CutJob, Path], object]
"""Makes a model into a new folder."""


def find_run(recipe: TransferRecipe, statuses: Sequence[str] = ("done",)) -> Run | None:
    """The newest run of this recipe, under whatever name, on unchanged models and files."""
    return _find(recipe, _with_status(statuses))


def _with_status(statuses: Sequence[str]) -> list[Run]:
    return [run for run in RunStore(runs_dir()).list() if run.status() in statuses]


def _find(recipe: TransferRecipe, runs: Iterable[Run]) -> Run | None:
    wanted = recipe.model_copy(update={"name": ""})
    digests = {
        **cache.digest_pair(pair_named(recipe.teacher, recipe.student)),
        **cache.digest_files(recipe.data),
    }
    for run in runs:
        if _unnamed(run) != wanted:
            continue
        known = run.record().provenance.digests
        if all(known.get(name, digest) == digest for name, digest in digests.items()):
            return run
    return None


def _unnamed(run: Run) -> TransferRecipe | None:
    """A run's recipe without its name, which changes nothing that is computed."""
    try:
        return _recipe(run.recipe_text())
    except NuggetsError:
        return None


@lru_cache(maxsize=4096)
def _recipe(text: str) -> TransferRecipe | None:
    """Read anew, so that a run from before a field existed has that field's default."""
    job = load_job(text)
    return job.model_copy(update={"name": ""}) if isinstance(job, TransferRecipe) else None


def run_all(
    study: Study,
    execute: Execute,
    cut: Cut,
    overrides: Iterable[str] = (),
    on_run: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> dict[str, Run]:
    """Makes all runs of an experiment, and the models it needs first.

    Args:
        study: which experiment.
        execute: runs one recipe.
        cut: makes one model.
        overrides: `path.to.field=value` for all runs.
        on_run: told the name, and how many of how many runs are done.

    Returns:
        Run name → finished run.

    Raises:
        BadInput: if a recipe cannot work; nothing of it is started then.
        NuggetsError: as a run does.
    """
    changes = tuple(overrides)
    study_recipes(study, changes)  # a wrong field is refused before anything is made
    models = {name: str(_made(study, name, cut)) for name in study.models}
    recipes = study_recipes(study, changes, models)
    found: dict[str, Run] = {}
    for place, (name, recipe) in enumerate(recipes.items()):
        on_run(name, place, len(recipes))
        done = find_run(recipe)
        found[name] = done or execute(recipe, find_run(recipe, tuple(RESUMABLE)))
    on_run("", len(recipes), len(recipes))
    return found


def finished_runs(study: Study, overrides: Iterable[str] = ()) -> dict[str, Run]:
    """The runs of an experiment that are there already; missing ones are left out."""
    models = study_models(study)
    if not all(Path(folder).is_dir() for folder in models.values()):
        return {}
    recipes = study_recipes(study, overrides, models)
    done = _with_status(("done",))
    found = {name: _find(recipe, done) for name, recipe in recipes.items()}
    return {name: run for name, run in found.items() if run is not None}


def study_models(study: Study) -> dict[str, str]:
    """Made model → the folder where it is, or will be."""
    return {name: str(model_path(study, name)) for name in study.models}


def model_path(study: Study, name: str) -> Path:
    """Where a made model is kept, under a name made from how it is made."""
    how = study.models[name]
    text = how.model_dump_json() + cache.digest_model(model_named(how.teacher))
    return nuggets_home() / "models" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _made(study: Study, name: str, cut: Cut) -> Path:
    folder, how = model_path(study, name), study.models[name]
    if not folder.is_dir():
        job = CutJob(
            teacher=how.teacher,
            sizes=how.sizes,
            order=how.order,
            heal_steps=how.heal_steps,
            heal_lr=how.heal_lr,
            heal_batch_size=how.heal_batch_size,
            seed=how.seed,
        )
        cut(job, folder)
    if not (folder / "config.json").is_file():
        raise BadInput(
            f"The model {name} of the experiment is not at {folder}; delete that folder."
        )
    return folder

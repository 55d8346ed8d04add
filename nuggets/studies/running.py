"""The runs of an experiment that are there already, and where its models are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from nuggets.builtin.resolve import model_named, pair_named
from nuggets.disk.home import nuggets_home, runs_dir
from nuggets.errors import NuggetsError
from nuggets.planning import cache
from nuggets.recipe import TransferRecipe, load_job
from nuggets.runs.store import Run, RunStore
from nuggets.studies.schema import Study
from nuggets.studies.shipped import cut_teacher, models_of, study_recipes


def find_run(recipe: TransferRecipe, statuses: Sequence[str] = ("done",)) -> Run | None:
    """The newest run of this recipe, under whatever name, on unchanged models and files."""
    return _find(recipe, _with_status(statuses))


def _with_status(statuses: Sequence[str]) -> list[Run]:
    return [run for run in RunStore(runs_dir()).list() if run.status() in statuses]


def _find(recipe: TransferRecipe, runs: Iterable[Run]) -> Run | None:
    wanted = recipe.model_copy(update={"name": ""})
    digests = {
        **cache.digest_pair(pair_named(recipe.teacher, recipe.student)),
        **cache.digest_files(recipe),
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


def finished_runs(study: Study, overrides: Iterable[str] = ()) -> dict[str, Run]:
    """The runs of an experiment that are there already; missing ones are left out."""
    given, models = tuple(overrides), study_models(study)
    if not all(Path(models[name]).is_dir() for name in models_of(study, given)):
        return {}
    recipes = study_recipes(study, given, models)
    done = _with_status(("done",))
    found = {name: _find(recipe, done) for name, recipe in recipes.items()}
    return {name: run for name, run in found.items() if run is not None}


def study_models(study: Study) -> dict[str, str]:
    """Made model → the folder where it is, or will be."""
    return {name: str(model_path(study, name)) for name in study.models}


def model_path(study: Study, name: str) -> Path:
    """Where a made model is kept, under a name made from how it is made."""
    how = study.models[name]
    text = how.model_dump_json() + cache.digest_model(model_named(cut_teacher(study, name)))
    return nuggets_home() / "models" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

"""Making an experiment's runs here, or starting them in the background."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from nuggets.errors import BadInput
from nuggets.recipe import CutJob, TransferRecipe, anchored
from nuggets.runs import launch
from nuggets.runs.schema import LIVE, RESUMABLE, RunEvent
from nuggets.runs.store import Run
from nuggets.stages.creating import create
from nuggets.studies.calibrating import POOL, pool_recipe
from nuggets.studies.documents import study_report
from nuggets.studies.report import StudyReport
from nuggets.studies.running import find_run, model_path, run_all, study_models
from nuggets.studies.shipped import open_study, study_recipes
from nuggets.worker import run_in_foreground, run_job

OnEvent = Callable[[RunEvent], None]
OnRun = Callable[[str, int, int], None]


def run_study(
    name: str,
    overrides: Iterable[str] = (),
    on_event: OnEvent = lambda event: None,
    on_run: OnRun = lambda run, done, total: None,
) -> StudyReport:
    """Makes all runs of an experiment here and reports; finished ones are reused. Imports torch.

    Args:
        name: one of `studies()`.
        overrides: `path.to.field=value` for all its runs.
        on_event: called with every event of the run in progress.
        on_run: told the name of the next run, and how many of how many are done.

    Raises:
        BadInput: if a recipe cannot work; nothing of it is started then.
        NuggetsError: as a run does; the same call goes on where it was.
    """
    changes = tuple(overrides)
    run_all(open_study(name), _to_the_end(on_event), _cut, changes, on_run)
    found = study_report(name, changes)
    assert found is not None
    return found


def start_study(name: str, overrides: Iterable[str] = ()) -> list[Run]:
    """Starts all runs of an experiment that are missing, as workers that queue for the device.

    Returns:
        The runs that were started or resumed now; those finished or under way are left alone.

    Raises:
        BadInput: if the experiment needs a model that is not made yet, or a recipe cannot work.
    """
    study, changes = open_study(name), tuple(overrides)
    missing = [each for each in study.models if not model_path(study, each).is_dir()]
    if missing:
        raise BadInput(
            f"The experiment {name} first has to train the models {', '.join(missing)}, which "
            f"takes minutes. Run it on the command line: nuggets paper {name}"
        )
    recipes = study_recipes(study, changes, study_models(study))
    started = []
    for recipe in recipes.values():
        if find_run(recipe, ("done", *LIVE)) is not None:
            continue
        if (unfinished := find_run(recipe, tuple(RESUMABLE))) is not None:
            launch.resume(unfinished)
        else:
            unfinished = create(recipe)
            launch.start(unfinished)
        started.append(unfinished)
    return started


def calibration_run(n_pool: int = POOL, on_event: OnEvent = lambda event: None) -> Run:
    """The pool of identical arms: the finished run, or made here and now. Imports torch."""
    recipe = anchored(pool_recipe(n_pool))
    return find_run(recipe) or _to_the_end(on_event)(recipe, find_run(recipe, tuple(RESUMABLE)))


def _to_the_end(on_event: OnEvent) -> Callable[[TransferRecipe, Run | None], Run]:
    """Runs a recipe from the start, or continues an unfinished run of it."""

    def execute(recipe: TransferRecipe, unfinished: Run | None) -> Run:
        if unfinished is None:
            return run_job(recipe, on_event)
        run_in_foreground(unfinished, on_event)
        return unfinished

    return execute


def _cut(job: CutJob, out: Path) -> dict[str, Any]:
    from nuggets.stages.cutting import cut_to

    return cut_to(job, out)

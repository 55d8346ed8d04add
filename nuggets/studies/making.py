"""Making an experiment's runs here, or starting them in the background."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from nuggets import demo
from nuggets.errors import BadInput
from nuggets.recipe import CutJob, TransferRecipe, anchored
from nuggets.runs import launch
from nuggets.runs.schema import LIVE, RESUMABLE, RunEvent
from nuggets.runs.store import Run
from nuggets.stages.creating import create
from nuggets.studies.calibrating import POOL, pool_recipes
from nuggets.studies.documents import study_report
from nuggets.studies.report import StudyReport
from nuggets.studies.running import find_run, model_path, study_models
from nuggets.studies.schema import Study
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
    study, changes = open_study(name), tuple(overrides)
    study_recipes(study, changes)  # a wrong field is refused before anything is made
    for made in study.models:
        _make_model(study, made)
    recipes = study_recipes(study, changes, study_models(study))
    for place, (run, recipe) in enumerate(recipes.items()):
        on_run(run, place, len(recipes))
        _finished(recipe, on_event)
    on_run("", len(recipes), len(recipes))
    found = study_report(name, changes)
    assert found is not None
    return found


@demo.refuses("experiments cannot be started, which are many runs")
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


def calibration_runs(n_pool: int = POOL, on_event: OnEvent = lambda event: None) -> list[Run]:
    """The pools of identical arms: the finished runs, or made here and now. Imports torch."""
    return [_finished(anchored(recipe), on_event) for recipe in pool_recipes(n_pool)]


def _finished(recipe: TransferRecipe, on_event: OnEvent) -> Run:
    """The finished run of a recipe; else an unfinished one goes on, or a new one is made."""
    if done := find_run(recipe):
        return done
    if (unfinished := find_run(recipe, tuple(RESUMABLE))) is None:
        return run_job(recipe, on_event)
    run_in_foreground(unfinished, on_event)
    return unfinished


def _make_model(study: Study, name: str) -> None:
    folder = model_path(study, name)
    if not folder.is_dir():
        from nuggets.stages.cutting import cut_to

        cut_to(CutJob(**study.models[name].model_dump()), folder)
    if not (folder / "config.json").is_file():
        raise BadInput(
            f"The model {name} of the experiment is not at {folder}; delete that folder."
        )

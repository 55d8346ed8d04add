"""Making an experiment's runs here, or starting them in the background."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from nuggets import demo
from nuggets.errors import BadInput
from nuggets.recipe import TransferRecipe, anchored, parse_cut
from nuggets.runs import launch
from nuggets.runs.fan_out import check_done, spreads, submit_all
from nuggets.runs.schema import LIVE, RESUMABLE, RunEvent
from nuggets.runs.store import Run
from nuggets.stages.creating import check_can_work, create
from nuggets.studies.calibrating import POOL, pool_recipes
from nuggets.studies.documents import study_report
from nuggets.studies.report import StudyReport
from nuggets.studies.running import find_run, model_path, study_models
from nuggets.studies.schema import Study
from nuggets.studies.shipped import cut_teacher, models_of, open_study, study_recipes
from nuggets.worker import run_in_foreground, run_job

OnEvent = Callable[[RunEvent], None]
OnRun = Callable[[str, int, int], None]


def run_study(
    name: str | Path,
    overrides: Iterable[str] = (),
    on_event: OnEvent = lambda event: None,
    on_run: OnRun = lambda run, done, total: None,
) -> StudyReport:
    """Makes all runs of an experiment and reports; finished ones are reused. May import torch.

    Where this machine's engine computes several runs at once, or elsewhere, they spread over it.

    Args:
        name: one of `studies()`, or the YAML file of another one.
        overrides: `path.to.field=value` for all its runs.
        on_event: called with every event of a run that computes here.
        on_run: told the name of the next run, and how many of how many are done.

    Raises:
        BadInput: if a recipe cannot work; nothing of it is started then.
        NuggetsError: as a run does; the same call goes on where it was.
    """
    study, changes = open_study(name), tuple(overrides)
    study_recipes(study, changes)  # a wrong field is refused before anything is made
    for made in models_of(study, changes):
        _make_model(study, made)
    recipes = study_recipes(study, changes, study_models(study))
    _finish(recipes, on_event, on_run)
    found = study_report(name, changes)
    assert found is not None
    return found


@demo.refuses("experiments cannot be started, which are many runs")
def start_study(name: str | Path, overrides: Iterable[str] = ()) -> list[Run]:
    """Starts all runs of an experiment that are missing, as workers that queue for the device.

    Returns:
        The runs that were started or resumed now; those finished or under way are left alone.

    Raises:
        BadInput: if the experiment needs a model that is not made yet, or a recipe cannot work.
    """
    study, changes = open_study(name), tuple(overrides)
    used = models_of(study, changes)
    missing = [each for each in used if not model_path(study, each).is_dir()]
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
    recipes = {recipe.name: anchored(recipe) for recipe in pool_recipes(n_pool)}
    return _finish(recipes, on_event, lambda run, done, total: None)


def _finish(recipes: Mapping[str, TransferRecipe], on_event: OnEvent, on_run: OnRun) -> list[Run]:
    """The finished runs of some recipes: those there are, unfinished ones gone on with, new ones.

    Raises:
        BadInput: if one cannot work; nothing is started then.
    """
    devices = {check_can_work(recipe) for recipe in recipes.values() if find_run(recipe) is None}
    spread, runs = any(spreads(device) for device in devices), list[Run]()

    def each_begun() -> Iterator[Run]:
        for place, (name, recipe) in enumerate(recipes.items()):
            on_run(name, place, len(recipes))
            runs.append(_begun(recipe) if spread else _finished_here(recipe, on_event))
            yield runs[-1]

    submit_all(each_begun(), on_end=check_done)
    on_run("", len(recipes), len(recipes))
    return runs


def _begun(recipe: TransferRecipe) -> Run:
    """The run of a recipe, however far it is."""
    return find_run(recipe) or find_run(recipe, (*LIVE, *RESUMABLE)) or create(recipe)


def _finished_here(recipe: TransferRecipe, on_event: OnEvent) -> Run:
    """The finished run of a recipe, worked on in this process if it must be."""
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

        own = {**study.models[name].model_dump(), "teacher": cut_teacher(study, name)}
        cut_to(parse_cut(own), folder)
    if not (folder / "config.json").is_file():
        raise BadInput(
            f"The model {name} of the experiment is not at {folder}; delete that folder."
        )

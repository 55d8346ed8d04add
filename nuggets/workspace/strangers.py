"""What a recipe or run from elsewhere may touch: nothing that a person here did not allow by name.

A recipe is one's own if it comes with Nuggets or is kept in the home's folder `recipes`, a run if
exactly its text was made or allowed here. All others can be read and shown. Before one acts, every
model, file and data set that it names beyond its own folder needs a yes. What a recipe's file was
allowed stays allowed while it is edited: the yes is to a use of a name in that file, not to its
text. Which judges may be asked, and with which key, is another list: `nuggets.evaluation.permits`.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NoReturn

from nuggets import demo
from nuggets.builtin.pairs import MODELS
from nuggets.disk.home import nuggets_home, runs_dir
from nuggets.disk.untrusted import is_file
from nuggets.errors import BadInput
from nuggets.evaluation.judges import EndpointJudge
from nuggets.frozen import Frozen
from nuggets.recipe import load_job, parse_job
from nuggets.recipe_tree import (
    MODEL_PATHS,
    Tree,
    absolute_paths,
    named_values,
    read_recipe,
    run_tree,
    shipped_recipes,
)
from nuggets.runs.store import Run, RunStore


class Want(Frozen):
    """One thing that a stranger's job wants.

    Attributes:
        name: the path or id, exactly as the job names it.
        what: what would be done with it, for a sentence.
    """

    name: str
    what: str


def wants(job: Any, folder: Path | None = None) -> tuple[Want, ...]:
    """What a job would read, load or ask the hub for, beyond what comes with Nuggets.

    Args:
        job: any job; nothing of what it names is opened.
        folder: where its recipe lies; what lies there too came with it.
    """
    asked = (*_named(job.model_dump(mode="json")), *_hub_items(job))
    return tuple(dict.fromkeys(want for want in asked if not _came_along(want.name, folder)))


def _named(tree: Tree) -> Iterator[Want]:
    for path, value in named_values(tree):
        local = Path(value).is_absolute()
        if path in MODEL_PATHS and value not in MODELS and not value.startswith("run:"):
            yield Want(name=value, what="load the model" if local else "ask the hub for the model")
        elif path not in MODEL_PATHS:
            yield Want(name=value, what="read" if local else "ask the hub for the data set")


def _hub_items(job: Any) -> Iterator[Want]:
    for task in getattr(job, "benchmarks", ()):
        items, examples = task.hub
        for home, asked in ((items, not task.data), (examples, task.shots and not task.shots_data)):
            if home and asked:
                yield Want(name=home, what="ask the hub for the data set")


def _came_along(name: str, folder: Path | None) -> bool:
    """Whether a path leads, links followed, into the recipe's folder and nowhere hidden."""
    if folder is None or not Path(name).is_absolute():
        return False
    home = folder.resolve()
    places = [Path(part).resolve() for part in (name, name.rpartition(":")[0]) if part]
    return all(
        place.is_relative_to(home)
        and not any(part.startswith(".") for part in place.relative_to(home).parts)
        for place in places
    )


def job_of(run: Run) -> Any:
    """The job of a run that is about to act: to go on, be evaluated, exported or asked.

    Raises:
        BadInput: if it was made elsewhere and names anything that nobody here allowed.
    """
    job = load_job(run.recipe_text())
    if not RunStore(run.folder.parent).is_own(run.recipe_text()):
        _check_unsent(job, f"Run {run.id}")
        if asked := wants(job):
            _refuse(f"Run {run.id}", run.id, asked, asked)
    return job


def check_recipe(job: Any, tree: Tree, path: Path) -> None:
    """Refuses a file with a recipe, a sweep or an experiment that names what nobody here allowed.

    Args:
        job: the recipe with the changes of the person who runs it.
        tree: what the file says of it, paths made absolute.
        path: the file.

    Raises:
        BadInput: naming everything that it wants, and how to allow it.
    """
    told = {value for _, value in named_values(tree)} | {w.name for w in _hub_items(job)}
    if "benchmarks" not in tree:
        told -= {want.name for want in _hub_items(job)}
    _check_unsent(job, f"The recipe {path}")
    asked = wants(job, path.absolute().parent)
    missing = [w for w in asked if w.name in told and not _is_allowed(path, w)]
    if missing:
        _refuse(f"The recipe {path}", str(path), missing, _wants_of_file(path))


def check_upload(job: Any, allowed: Collection[str]) -> None:
    """As `check_recipe` for a recipe that a browser sent, with the names that were ticked.

    Raises:
        BadInput: It asks for more than was ticked.
    """
    _check_unsent(job, "The uploaded recipe")
    if missing := [want for want in wants(job) if want.name not in allowed]:
        raise BadInput(f"The uploaded recipe wants to {_list(missing)}. Tick what it may use.")


def wanted_by(what: str) -> tuple[Want, ...]:
    """What a run or a recipe's file wants and nobody allowed yet; nothing of it is opened.

    Raises:
        BadInput: if there is neither a run nor a recipe of that name, or it can never be allowed.
    """
    path = Path(what)
    if is_file(path) and what in shipped_recipes():
        raise BadInput(f"{what} comes with Nuggets; write ./{what} for the file.")
    if not is_file(path):
        text = _run_text(what)
        return () if RunStore(runs_dir()).is_own(text) else _checked(load_job(text), None, what)
    return tuple(want for want in _wants_of_file(path) if not _is_allowed(path, want))


@demo.refuses("nothing can be allowed")
def allow(what: str, names: Collection[str]) -> None:
    """Lets a run, or a recipe's file also when it is edited, use what it names.

    Raises:
        BadInput: if `names` are not exactly what it wants: a yes counts for what it names.
    """
    path = Path(what)
    new = wanted_by(what)
    asked = _wants_of_file(path) if is_file(path) else new
    if missing := [want for want in new if want.name not in names]:
        raise BadInput(f"{what} also wants to {_list(missing)}. {_how(what, asked)}")
    if strange := sorted(set(names) - {want.name for want in asked}):
        raise BadInput(f"{what} does not ask for {strange[0][:200]!r}.")
    for mark in [_mark(path, want) for want in new] if is_file(path) else [_run_text(what)]:
        RunStore(runs_dir()).adopt(mark)


def _run_text(what: str) -> str:
    return RunStore(runs_dir()).open(what).recipe_text()


def _wants_of_file(path: Path) -> tuple[Want, ...]:
    """What the file itself names, which may be a recipe only with what is given beside it."""
    folder, found = path.absolute().parent, list[Want]()
    for given in _recipes_in(read_recipe(path.absolute()), str(path)):
        tree = absolute_paths(given, folder)
        try:
            job = parse_job({"job": "transfer", **tree})
        except BadInput:
            found += (want for want in _named(tree) if not _came_along(want.name, folder))
        else:
            found += _checked(job, folder, str(path))
    return tuple(dict.fromkeys(found))


def _recipes_in(tree: Tree, source: str) -> list[Tree]:
    """The recipes that a file holds: itself, a sweep's base, or the runs of an experiment."""
    if tree.get("job") == "sweep":  # what it searches names nothing outside; its base may
        base = tree.get("base")
        return [base] if isinstance(base, dict) else []
    if "recipe" not in tree:
        return [tree]
    try:
        cut_from = {name: str(how["teacher"]) for name, how in tree.get("models", {}).items()}
        changes = [run.get("set", ()) for run in tree.get("runs", ({},))]
        return [run_tree(dict(tree["recipe"]), each, cut_from) for each in changes]
    except (AttributeError, KeyError, TypeError, ValueError) as problem:
        raise BadInput(f"{source} is no experiment: {problem}.") from None


def _checked(job: Any, folder: Path | None, who: str) -> tuple[Want, ...]:
    _check_unsent(job, who)
    return wants(job, folder)


def _is_allowed(path: Path, want: Want) -> bool:
    return RunStore(runs_dir()).is_own(_mark(path, want))


def _mark(path: Path, want: Want) -> str:
    """What is remembered of a yes: a use, a name and a file; no job's text reads so."""
    return f"{want.what}\n{want.name}\n{path.resolve()}"


def _refuse(who: str, what: str, missing: Collection[Want], asked: Collection[Want]) -> NoReturn:
    raise BadInput(
        f"{who} was not made here, and wants to {_list(missing)}. {_how(what, asked)} Recipes "
        f"that you keep in {nuggets_home() / 'recipes'} count as your own."
    )


def _how(what: str, asked: Collection[Want]) -> str:
    words = " ".join(shlex.quote(each) for each in (what, *(want.name for want in asked)))
    return f"If you trust it with all of this, run `nuggets allow {words}`."


def _check_unsent(job: Any, who: str) -> None:
    """Refuses for good what would send a file that a stranger chose."""
    for task in getattr(job, "benchmarks", ()):
        if isinstance(task.judged_by, EndpointJudge) and (task.data or task.shots_data):
            raise BadInput(
                f"{who} was not made here and would send {task.data or task.shots_data} to "
                f"{task.judged_by.url}. What somebody else's recipe names is never sent anywhere; "
                f"if it is yours, keep the recipe in {nuggets_home() / 'recipes'}."
            )


def _list(found: Collection[Want]) -> str:
    return ", ".join(f"{want.what} {want.name}" for want in found)

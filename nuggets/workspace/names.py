"""What people call a run: recipe, samples, models and when it began. Links use its id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from nuggets.errors import NuggetsError
from nuggets.models.references import short_name
from nuggets.recipe import AnyJob, TransferRecipe, load_job, load_recipe
from nuggets.recipe_tree import shipped_recipes
from nuggets.runs.store import Run
from nuggets.workspace.samples import name_of


class About(NamedTuple):
    """What a run is about.

    Attributes:
        recipe: the recipe of a transfer; of anything else, what it does.
        data: the skill, or the user's own name for the samples; empty where there is no one set.
        models: teacher → student, or the models that were measured.
        settings: of a transfer, how rank and ratio differ from the shipped recipe of its name.
        teacher: of a run about a pair, as its recipe names it.
        student: likewise.
        when: its beginning, in this machine's time.
    """

    recipe: str
    data: str = ""
    models: str = ""
    teacher: str | None = None
    student: str | None = None
    when: str = ""
    settings: str = ""

    @property
    def title(self) -> str:
        """The run's name for people."""
        parts = self.recipe, self.settings, self.data, self.models, self.when
        return " · ".join(filter(None, parts))


def about(run: Run) -> About:
    """What a run is about; of a run that cannot be read, its id."""
    try:
        job = _job(run.folder)
        return _about(job)._replace(when=_when(run.id))
    except NuggetsError:
        return About(run.id)


def titles(runs: Iterable[Run]) -> dict[str, str]:
    """Id → name for people, in the order given; runs of one name are numbered."""
    found: dict[str, str] = {}
    alike, taken = Counter[str](), set[str]()
    for run in runs:
        name = title = about(run).title
        while name in taken:
            alike[title] += 1
            name = f"{title} ({alike[title] + 1})"
        taken.add(name)
        found[run.id] = name
    return found


def _about(job: AnyJob) -> About:
    name = job.name if job.job == "transfer" else job.job
    config = getattr(job, "data", None)
    data = "" if config is None else name_of(config) or _file(config.file or config.train)
    teacher, student = getattr(job, "teacher", None), getattr(job, "student", None)
    if teacher is not None and student is not None:
        models = f"{short_name(teacher)} → {short_name(student)}"
        settings = _settings(job) if job.job == "transfer" else ""
        return About(name, data, models, teacher, student, settings=settings)
    named = getattr(job, "models", None) or filter(None, (getattr(job, "model", teacher),))
    return About(name, data, ", ".join(map(_model, named)))


def _settings(job: TransferRecipe) -> str:
    """`r 8, ratio 0.74`: what runs of a shipped recipe are told apart by, where it was changed."""
    usual = _shipped(job.name)
    if usual is None:  # a recipe of one's own, or a sweep's, is told by its name
        return ""
    parts = [f"r {job.lora.r}"] * (job.lora.r != usual.lora.r)
    parts += [f"ratio {job.extraction.ratio:g}"] * (job.extraction.ratio != usual.extraction.ratio)
    return ", ".join(parts)


@lru_cache(maxsize=32)
def _shipped(name: str) -> TransferRecipe | None:
    return load_recipe(name) if name in shipped_recipes() else None


def _model(name: str) -> str:
    """A model, or an arm of another run, which is named `run:ID/ARM`."""
    return name.rpartition("/")[2] if name.startswith("run:") else short_name(name)


def _file(source: str | None) -> str:
    return "" if source is None else Path(source).stem


def _when(run_id: str) -> str:
    """An id begins with when its run was made, in UTC."""
    try:
        made = datetime.strptime(run_id[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC).astimezone()
    except ValueError:
        return ""
    year = "" if made.year == datetime.now(UTC).astimezone().year else f" {made.year}"
    return f"{made.day} {made:%b}{year} {made:%H:%M}"


@lru_cache(maxsize=8192)  # some 11 kB each; one fewer than there are runs would be of no use
def _job(folder: Path) -> AnyJob:
    """A run's recipe is written once, and reading it takes milliseconds."""
    return load_job(Run(folder).recipe_text())

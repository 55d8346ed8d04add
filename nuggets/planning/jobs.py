"""Plans from cached maps, without touching a model: what the app previews."""

from __future__ import annotations

from jaxtyping import Float
from numpy import ndarray

from nuggets.builtin.resolve import pair_named
from nuggets.errors import BadInput
from nuggets.extraction.plan import ExtractionConfig, ExtractionPlan, make_plan
from nuggets.extraction.selectors import Searching, WindowSelector
from nuggets.extraction.window_request import SearchedSelector
from nuggets.models.pair import ModelPair
from nuggets.planning.cache import MapRequest, alignment_folder, find_alignment
from nuggets.planning.datasets import named_data, target_of
from nuggets.recipe import AlignJob, DataConfig, SensitivityJob, TransferRecipe
from nuggets.sensitivity.scores import Compared, Score

_LOCATING = ("task", "file", "seed_samples", "n_seed_samples", "format")
"""The fields of the data that say on which samples sensitivity is measured."""


def map_job(recipe: TransferRecipe) -> SensitivityJob:
    """The sensitivity measurement that a transfer needs; how it trains is no part of it."""
    windows = recipe.sensitivity.keep == "windows"
    data = {name: getattr(recipe.data, name) for name in _LOCATING}
    return SensitivityJob(
        name=f"sensitivity-{recipe.data.task or recipe.name}",
        model=recipe.teacher,
        data=DataConfig(**data),
        sensitivity=recipe.sensitivity,
        student=recipe.student if windows else None,
        selectors=_searching(recipe) if windows else (WindowSelector(),),
        device=recipe.device,
    )


def other_map_job(
    recipe: TransferRecipe, task: str | None, score: Score | None = None
) -> SensitivityJob:
    """As `map_job`, of another task (built-in, or a source of samples) or by another score.

    A reference set that was named for the target may hold the other task: this one is then set
    against all other built-in tasks.
    """
    job = map_job(recipe)
    score = score or recipe.sensitivity.score
    if task not in (None, target_of(recipe.data)):
        [data] = named_data([task], job.data, "An arm").values()
        job = job.model_copy(update={"data": data})
        if isinstance(score, Compared):
            score = score.model_copy(update={"against": ()})
    config = recipe.sensitivity.model_copy(update={"score": score})
    return job.model_copy(update={"sensitivity": config})


def unlike(recipe: TransferRecipe) -> str:
    """A built-in task that is not the target."""
    return "add" if recipe.data.task == "copy" else "copy"


def _searching(recipe: TransferRecipe) -> tuple[SearchedSelector, ...]:
    """The selectors of the recipe and of its arms that look at every entry, each once."""
    matrices = [extraction.matrices for extraction in extractions(recipe)]
    found = {each.kind: each for each in matrices if isinstance(each, Searching)}
    return tuple(found.values())


def extractions(recipe: TransferRecipe) -> list[ExtractionConfig]:
    """What is extracted: by the recipe, and by those of its arms that have a way of their own."""
    own = [arm.extraction(recipe.extraction) for arm in recipe.arms]
    return [recipe.extraction, *(each for each in own if each != recipe.extraction)]


def alignment_job(recipe: TransferRecipe) -> AlignJob:
    """The alignment that layer selectors such as `cka` need."""
    return AlignJob(
        teacher=recipe.teacher,
        student=recipe.student,
        tasks=(recipe.data.task,) if recipe.data.task else (),
        data=None if recipe.data.task else recipe.data,
        device=recipe.device,
    )


def map_request(recipe: TransferRecipe, pair: ModelPair) -> MapRequest:
    """The teacher's map that a transfer needs."""
    return MapRequest.of(map_job(recipe), pair.teacher, pair.student)


def find_alignment_of(
    recipe: TransferRecipe, pair: ModelPair
) -> Float[ndarray, "n_teacher n_student"] | None:
    """The CKA that a layer selector needs; None where none does, or if it was not measured."""
    if not recipe.extraction.layers.needs_cka:
        return None
    report = find_alignment(alignment_folder(alignment_job(recipe), pair))
    return None if report is None else report.matrices["cka"]


def pair_to_plan(recipe: TransferRecipe) -> ModelPair:
    """The models of a plan; the student needs no weights unless it is aligned."""
    return pair_named(recipe.teacher, recipe.student, recipe.extraction.layers.needs_cka)


def plan_from_cache(recipe: TransferRecipe) -> ExtractionPlan:
    """What a recipe would extract, from what was measured before.

    Raises:
        BadInput: if the teacher's map (or, for `cka`, the alignment) was not measured yet.
    """
    pair = pair_to_plan(recipe)
    request = map_request(recipe, pair)
    map = request.find() or request.shipped()
    if map is None:
        raise BadInput(
            f"The sensitivity of {recipe.teacher} to these samples has not been measured yet. "
            "Measure it first; after that the plan is instant."
        )
    cka = find_alignment_of(recipe, pair)
    layers = recipe.extraction.layers
    if cka is None and layers.needs_cka:
        raise BadInput(
            f"The layer map `{layers.kind}` needs the alignment of the two models; "
            "measure it first."
        )
    return make_plan(map, pair.student.spec, recipe.extraction, recipe.lora, cka)

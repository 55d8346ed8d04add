"""Plans from cached maps, without touching a model: what the app previews. Torch-free."""

from __future__ import annotations

from nuggets.builtin.resolve import resolve
from nuggets.core.models import read_spec
from nuggets.core.plan import ExtractionPlan, make_plan
from nuggets.core.selectors import Searching, WindowSelector
from nuggets.core.window_request import SearchedSelector
from nuggets.errors import BadInput
from nuggets.recipe import AlignJob, SensitivityJob, TransferRecipe
from nuggets.runs import cache
from nuggets.runs.doctor import resolve_device_name
from nuggets.runs.inputs import seed_samples
from nuggets.train.arms import Paper


def map_job(recipe: TransferRecipe) -> SensitivityJob:
    """The sensitivity measurement that a transfer needs."""
    windows = recipe.sensitivity.keep == "windows"
    return SensitivityJob(
        name=f"sensitivity-{recipe.data.task or recipe.name}",
        model=recipe.teacher,
        data=recipe.data,
        sensitivity=recipe.sensitivity,
        student=recipe.student if windows else None,
        selectors=_searching(recipe) if windows else (WindowSelector(),),
        device=recipe.device,
    )


def _searching(recipe: TransferRecipe) -> tuple[SearchedSelector, ...]:
    """The selectors of the recipe and of its arms that look at every entry, each once."""
    own = [arm.matrices for arm in recipe.arms if isinstance(arm, Paper) and arm.matrices]
    found = [s for s in (recipe.extraction.matrices, *own) if isinstance(s, Searching)]
    return tuple({selector.kind: selector for selector in found}.values())


def alignment_job(recipe: TransferRecipe) -> AlignJob:
    """The alignment that the layer selector `cka` needs."""
    return AlignJob(
        teacher=recipe.teacher,
        student=recipe.student,
        tasks=(recipe.data.task,) if recipe.data.task else (),
        data=None if recipe.data.task else recipe.data,
        device=recipe.device,
    )


def plan_from_cache(recipe: TransferRecipe) -> ExtractionPlan:
    """What a recipe would extract, from what was measured before.

    Raises:
        BadInput: if the teacher's map (or, for `cka`, the alignment) was not measured yet.
    """
    device = resolve_device_name(recipe.device)
    config = cache.with_dtype(recipe.sensitivity, device)
    map = cache.find_map(map_job(recipe), seed_samples(recipe.data), config)
    if map is None:
        raise BadInput(
            f"The sensitivity of {recipe.teacher} was not measured for these samples yet. "
            "Measure it first; then the plan is instant."
        )
    cka = None
    if recipe.extraction.layers.kind == "cka":
        report = cache.find_alignment(cache.alignment_folder(alignment_job(recipe)))
        if report is None:
            raise BadInput("The layer map `cka` needs the pair's alignment; measure it first.")
        cka = report.matrices["cka"]
    student = read_spec(resolve(recipe.student, weights=False))
    return make_plan(map, student, recipe.extraction, recipe.lora, cka)

"""Measuring with models loaded here: maps, alignments, extraction. Imports torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nuggets.builtin.resolve import resolve
from nuggets.core.activations import align_models
from nuggets.core.adapter import save_adapter
from nuggets.core.alignment import AlignmentReport
from nuggets.core.architecture import ArchSpec
from nuggets.core.extraction import extract_factors
from nuggets.core.loading import load_model, load_tokenizer
from nuggets.core.maps import SensitivityMap
from nuggets.core.memory import memory_reported, return_freed_memory
from nuggets.core.models import ModelRef, read_spec
from nuggets.core.plan import ExtractionPlan, make_plan
from nuggets.core.progress import Progress
from nuggets.core.samples import Format, Sample, encode
from nuggets.core.sensitivity import compute_sensitivity
from nuggets.errors import NuggetsError
from nuggets.recipe import AlignJob, DataConfig, SensitivityConfig, SensitivityJob, TransferRecipe
from nuggets.runs import cache
from nuggets.runs.checks import check_alignment, check_extraction
from nuggets.runs.commit import commit_folder, make_folder
from nuggets.runs.context import RunContext
from nuggets.runs.doctor import resolve_device_name
from nuggets.runs.inputs import align_samples, align_tasks, seed_samples, source_label
from nuggets.runs.outputs import output_folder, refuse_existing
from nuggets.runs.planning import alignment_job, map_job
from nuggets.runs.results import MAP


class Loaded:
    """A model with its tokenizer and dimensions, on one device."""

    def __init__(self, name: str, device: str, dtype: str = "float32") -> None:
        self.name, self.dtype = name, dtype
        self.ref: ModelRef = resolve(name)
        self.spec: ArchSpec = read_spec(self.ref)
        self.tokenizer: Any = load_tokenizer(self.ref)
        with memory_reported(f"Loading {name}", "use bfloat16, a smaller model or another device"):
            self.model: nn.Module = load_model(self.ref, dtype=dtype, device=device)

    def encode(
        self, samples: Sequence[Sample], max_length: int, format: Format = "paper"
    ) -> list[tuple[list[int], list[int]]]:
        """Token ids and response-only labels of samples."""
        return [encode(sample, self.tokenizer, max_length, format) for sample in samples]


def measure_map(
    job: SensitivityJob, progress: Progress | None = None, loaded: Loaded | None = None
) -> SensitivityMap:
    """The sensitivity map of a job: the cached one, or measured now and cached.

    Args:
        job: model, samples and score.
        progress: ticks per sample.
        loaded: the model, if the caller has it on the device already.
    """
    samples = seed_samples(job.data)
    device = resolve_device_name(job.device)
    config = cache.with_dtype(job.sensitivity, device)
    found = cache.find_map(job.model, samples, config, job.data.format)
    if found is not None:  # perhaps measured under another name of the same model and samples
        meta = {**found.meta, **_meta(job, config, device)}
        return dataclasses.replace(found, meta=meta)
    # A model that was loaded for something else may compute in another number format.
    if loaded is None or loaded.dtype != config.dtype:
        loaded = Loaded(job.model, device, config.dtype)
    encoded = loaded.encode(samples, config.max_length, job.data.format)
    folder = cache.map_folder(job.model, samples, config, job.data.format)
    return_freed_memory()
    map = compute_sensitivity(
        loaded.model,
        loaded.spec,
        encoded,
        config.score,
        config.keep,
        progress,
        meta={**_meta(job, config, device), "digest": folder.name},
    )
    _keep(map, folder)
    return SensitivityMap.load(folder)


def _keep(result: SensitivityMap | AlignmentReport, folder: Path) -> None:
    """Puts a result into the cache, where another process may have been faster with the same."""
    make_folder(folder.parent)
    try:
        with commit_folder(folder) as temp:
            result.save(temp)
    except NuggetsError:
        if not folder.is_dir():
            raise


def keep_map(map: SensitivityMap, ctx: RunContext) -> None:
    """Keeps a map's sums with a run; the full map stays in the cache."""
    if not ctx.done(MAP):
        with ctx.commit(MAP) as folder:
            dataclasses.replace(map, full={}).save(folder)


def _meta(job: SensitivityJob, config: SensitivityConfig, device: str) -> dict[str, Any]:
    data = job.data
    return {
        "model": job.model,
        "label": data.task or source_label(str(data.file or data.seeds)),
        "dtype": config.dtype,
        "device": device,
    }


def measure_alignment(job: AlignJob, progress: Progress | None = None) -> AlignmentReport:
    """The alignment of a job: the cached one, or measured now and cached."""
    folder = cache.alignment_folder(job)
    if (found := cache.find_alignment(folder)) is not None:
        return found
    check_alignment(job)
    device = resolve_device_name(job.device)
    teacher, student = Loaded(job.teacher, device), Loaded(job.student, device)
    fit, test = align_samples(job)
    format = "paper" if job.data is None else job.data.format
    report = align_models(
        teacher.model,
        teacher.spec,
        student.model,
        student.spec,
        {skill: teacher.encode(samples, 2048, format) for skill, samples in fit.items()},
        {skill: teacher.encode(samples, 2048, format) for skill, samples in test.items()},
        maps=_maps(job, (teacher, student), progress),
        progress=progress,
        stitch=job.stitch,
    )
    _keep(report, folder)
    return AlignmentReport.load(folder)


def _maps(
    job: AlignJob, pair: tuple[Loaded, Loaded], progress: Progress | None
) -> dict[str, tuple[SensitivityMap, SensitivityMap]]:
    """Each task's sensitivity in both models, for the correlation of their profiles."""
    data = {task: DataConfig(task=task) for task in align_tasks(job)}
    if job.data is not None:
        data = {"data": job.data}

    def measured(config: DataConfig, loaded: Loaded) -> SensitivityMap:
        measuring = SensitivityJob(model=loaded.name, data=config, device=job.device)
        return measure_map(measuring, progress, loaded)

    return {k: (measured(v, pair[0]), measured(v, pair[1])) for k, v in data.items()}


def plan_recipe(
    recipe: TransferRecipe,
    progress: Progress | None = None,
    teacher: Loaded | None = None,
) -> tuple[ExtractionPlan, SensitivityMap]:
    """The plan of a recipe and its map; measures what is not cached yet."""
    check_extraction(recipe)
    map = measure_map(map_job(recipe), progress, teacher)
    cka = None
    if recipe.extraction.layers.kind == "cka":
        cka = measure_alignment(alignment_job(recipe), progress).matrices["cka"]
    student = read_spec(resolve(recipe.student, weights=False))
    return make_plan(map, student, recipe.extraction, recipe.lora, cka), map


def extract_to(
    recipe: TransferRecipe, out: Path, progress: Progress | None = None
) -> ExtractionPlan:
    """Writes `plan.json` and the initial factors as a rank-r PEFT adapter into a new folder."""
    refuse_existing(out)
    check_extraction(recipe)
    device = resolve_device_name(recipe.device)
    teacher = Loaded(recipe.teacher, device)
    plan, map = plan_recipe(recipe, progress, teacher)
    factors = extract_factors(weights_of(teacher.model), plan, map)
    with output_folder(out) as folder:
        write_extraction(folder, plan, factors, recipe)
    return plan


def weights_of(model: nn.Module) -> Callable[[str], Tensor]:
    """Reads a module's weight, detached."""
    return lambda module: model.get_submodule(module).weight.detach()  # type: ignore[union-attr]


def write_extraction(
    folder: Path, plan: ExtractionPlan, factors: Any, recipe: TransferRecipe
) -> None:
    """Fills a folder with `plan.json` and the factors in PEFT's names."""
    (folder / "plan.json").write_text(plan.model_dump_json(indent=1))
    card = (
        f"# Initial factors of `{recipe.name}`\n\n"
        f"Rank-r factors extracted from `{recipe.teacher}` for `{recipe.student}`, before any "
        "training. They start an adapter on a base from which their product was subtracted; "
        "loaded as they are, they add that product to the student.\n"
    )
    save_adapter(
        folder,
        {name: (factor.a, factor.b) for name, factor in factors.items()},
        {name: plan.lora.scale(factor.rank) for name, factor in factors.items()},
        read_spec(resolve(recipe.student, weights=False)),
        recipe.student,
        card,
    )

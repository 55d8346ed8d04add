"""Measuring with models loaded here: maps, alignments, extraction. Imports torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nuggets.alignment.measure import align_models
from nuggets.alignment.report import AlignmentReport
from nuggets.alignment.words import WordVectors, stored_words, words_of
from nuggets.compute.device import free_memory
from nuggets.compute.memory import memory_reported, return_freed_memory
from nuggets.compute.threads import threads_for
from nuggets.data.samples import Encoded, Format, Sample, encode_all
from nuggets.disk.commit import commit_folder, make_folder
from nuggets.disk.outputs import output_folder, refuse_existing
from nuggets.errors import BadInput, NuggetsError
from nuggets.extraction.adapter import save_adapter
from nuggets.extraction.factors import extract_factors
from nuggets.extraction.plan import ExtractionPlan, make_plan
from nuggets.extraction.window_request import WindowRequest
from nuggets.extraction.windows_while_measuring import ChosenParts
from nuggets.models.architecture import ArchSpec
from nuggets.models.loading import load_model, load_tokenizer
from nuggets.models.pair import Model, ModelPair, check_vocabularies
from nuggets.models.references import model_path
from nuggets.models.safetensors_headers import count_parameters
from nuggets.models.stored_weights import StoredWeights
from nuggets.planning.cache import MapRequest, alignment_folder, digest_model, find_alignment
from nuggets.planning.checks import check_extraction
from nuggets.planning.datasets import align_samples, align_tasks, source_label
from nuggets.planning.jobs import alignment_job, map_request, pair_to_plan
from nuggets.planning.machine import resolve_device_name
from nuggets.progress import Progress
from nuggets.recipe import AlignJob, DataConfig, SensitivityConfig, SensitivityJob, TransferRecipe
from nuggets.runs.context import RunContext
from nuggets.runs.results import MAP
from nuggets.sensitivity.accumulate import Keep
from nuggets.sensitivity.comparing import compare_maps
from nuggets.sensitivity.footprint import hooks_bytes
from nuggets.sensitivity.hooks import compute_sensitivity
from nuggets.sensitivity.map_writer import MapWriter
from nuggets.sensitivity.maps import SensitivityMap
from nuggets.sensitivity.scores import Compared
from nuggets.sensitivity.several_devices import measure_on
from nuggets.sensitivity.several_samples import samples_per_pass
from nuggets.sensitivity.streaming import stream_sensitivity


class Loaded:
    """A model with its tokenizer and dimensions; its weights go to one device when first used."""

    def __init__(
        self,
        source: Model,
        device: str,
        dtype: str = "float32",
        progress: Progress | None = None,
    ) -> None:
        self.source, self.dtype, self.device = source, dtype, device
        self.ref, self.name = source.ref, source.ref.source
        model_path(self.ref, progress)  # downloaded now, if need be, where it is seen
        self.spec = source.spec
        self.tokenizer: Any = load_tokenizer(self.ref)
        self.parameters = count_parameters(self.spec, source.headers)

    @cached_property
    def model(self) -> nn.Module:
        """The whole model, on its device."""
        return self.load()

    def load(self) -> nn.Module:
        """Reads the whole model once more, bit for bit."""
        advice = "use bfloat16, a smaller model or another device"
        with memory_reported(f"Loading {self.name}", advice):
            return load_model(self.ref, dtype=self.dtype, device=self.device)

    @property
    def in_memory(self) -> bool:
        """Whether the whole model was loaded."""
        return "model" in self.__dict__

    @cached_property
    def weight(self) -> Callable[[str], Tensor]:
        """Module → its weight `[out, in]`: of the model if it is loaded, else from the files."""
        if self.in_memory or self.ref.format == "gguf":
            return weights_of(self.model)
        return StoredWeights(self.ref, self.spec).weight

    @cached_property
    def words(self) -> WordVectors:
        """Vectors of single words: of the model if it is loaded, else from the files."""
        if self.in_memory or self.ref.format == "gguf":
            return words_of(self.model, self.spec)
        return stored_words(self.ref, self.spec, self.device)

    def threads(self) -> AbstractContextManager[None]:
        """As many threads as this model is worth."""
        return threads_for(self.parameters, self.device)

    def encode(
        self, samples: Sequence[Sample], max_length: int, format: Format = "paper"
    ) -> list[tuple[list[int], list[int]]]:
        """Token ids and response-only labels of samples."""
        return encode_all(samples, self.tokenizer, max_length, format)


ROOMY = 4
"""With so many times the memory that is needed, freed blocks stay in the process: on 245 million
weights a fifth less time in float32 and two fifths in bfloat16, with up to 4.2 times the peak above
the weights (see benchmarks)."""


def measure_map(
    request: MapRequest, progress: Progress | None = None, loaded: Loaded | None = None
) -> SensitivityMap:
    """The sensitivity map of a job: the cached one, or measured now and cached.

    Args:
        request: model, samples and score.
        progress: ticks per sample.
        loaded: the model, if the caller has it on the device already.
    """
    config = request.config
    found = request.find()
    if found is not None:  # perhaps measured under another name of the same model and samples
        return dataclasses.replace(found, meta={**found.meta, **_meta(request)})
    # A model that was loaded for something else may compute in another number format.
    if loaded is None or loaded.dtype != config.dtype:
        loaded = Loaded(request.model, request.device, config.dtype, progress)
    folder = request.folder
    meta = {**_meta(request), "digest": folder.name}
    if request.compared:
        maps = [measure_map(each, progress, loaded) for each in request.compared]
        write = partial(_compare, config, maps, request.windows, meta)
        keep_result(write, folder, request.model)
        return SensitivityMap.load(folder)
    with loaded.threads():
        encoded = loaded.encode(request.samples, config.max_length, request.job.data.format)
        _measure(loaded, encoded, config, folder, meta, request.windows, progress)
    return SensitivityMap.load(folder)


def _compare(
    config: SensitivityConfig,
    maps: Sequence[SensitivityMap],
    windows: WindowRequest | None,
    meta: Mapping[str, Any],
    folder: Path,
) -> None:
    """Writes what a score of comparison makes of finished maps, the skill's own first."""
    assert isinstance(config.score, Compared)
    chosen = windows or WindowRequest(shapes={}, selectors=())  # which keeps sums alone
    parts = MapWriter(folder) if config.keep == "full" else ChosenParts(chosen)
    map = compare_maps(config.score, maps[0], maps[1:], parts, meta)
    if config.keep != "full":
        map.save(folder)


def _measure(
    loaded: Loaded,
    encoded: Sequence[Encoded],
    config: SensitivityConfig,
    folder: Path,
    meta: Mapping[str, Any],
    windows: WindowRequest | None,
    progress: Progress | None,
) -> None:
    """Measures with the whole model, or one block at a time, and puts the map into the cache."""
    tokens = [len(ids) for ids, _ in encoded]
    streamed = streams(loaded, config, tokens)
    if streamed or ROOMY * _needed(loaded, config, tokens) > free_memory("cpu"):
        return_freed_memory()
    # Windows are searched in every entry, so that entries are summed, until they are dropped.
    keep: Keep = "sums" if config.keep == "sums" else "full"
    chosen = None if windows is None else ChosenParts(windows)
    if config.processes > 1:
        devices = devices_for(loaded.device, config.processes, "sensitivity")
        options = (config.score, keep, config.dtype, progress, meta, chosen, config.checkpoint)
        return keep_result(
            lambda temp: measure_on(devices, loaded.ref, encoded, temp, *options),
            folder,
            loaded.source,
        )
    if not streamed:
        fit = samples_per_pass(loaded.spec, loaded.parameters, tokens)
        per_pass = fit if config.method == "auto" and not config.checkpoint else 1
        options = (config.score, keep, progress, meta, config.checkpoint, chosen, per_pass)
        map = compute_sensitivity(loaded.model, loaded.spec, encoded, *options)
        return keep_result(map.save, folder, loaded.source)
    if progress is not None:
        progress.log(f"{loaded.name} is measured one block at a time, from its files.")

    def write(temp: Path) -> None:
        parts = MapWriter(temp) if config.keep == "full" else chosen
        map = stream_sensitivity(
            loaded.ref, encoded, config.score, keep, getattr(torch, config.dtype), loaded.device,
            parts, progress, meta, temp,
        )  # fmt: skip
        if config.keep != "full":
            map.save(temp)

    return keep_result(write, folder, loaded.source)


def devices_for(device: str, processes: int, stage: str) -> list[str]:
    """A device for every process: as many GPUs, the given one first, or the CPU several times.

    Raises:
        BadInput: if there are not so many GPUs.
    """
    if not device.startswith("cuda"):
        return [device] * processes
    there = torch.cuda.device_count()
    if processes > there:
        raise BadInput(
            f"{processes} processes need {processes} GPUs, but this machine has {there}. Lower "
            f"{stage}.processes."
        )
    first = torch.device(device).index or 0
    others = (index for index in range(there) if index != first)
    return [f"cuda:{index}" for index in (first, *others)][:processes]


def streams(loaded: Loaded, config: SensitivityConfig, tokens: Sequence[int]) -> bool:
    """Whether a model is measured block by block: on request, or where it does not fit whole."""
    if config.method != "auto" or loaded.in_memory or loaded.ref.format == "gguf":
        return config.method == "streaming"
    return _needed(loaded, config, tokens) > free_memory(loaded.device)


def _needed(loaded: Loaded, config: SensitivityConfig, tokens: Sequence[int]) -> int:
    """Bytes for measuring with the whole model."""
    width = 4 if config.dtype == "float32" else 2
    full = config.keep != "sums"
    return hooks_bytes(loaded.spec, loaded.parameters, max(tokens), width, full=full)


def keep_result(write: Callable[[Path], None], folder: Path, *models: Model) -> None:
    """Puts a result into the cache, where another process may have been faster with the same.

    Args:
        write: fills the folder.
        folder: its place, which is named by the digests of the models.
        models: what it was measured on.

    Raises:
        Damaged: if a model's files changed meanwhile.
    """
    make_folder(folder.parent)
    try:
        with commit_folder(folder) as temp:
            write(temp)
            for model in models:
                digest_model(model)
    except NuggetsError:
        if not folder.is_dir():
            raise


def keep_map(map: SensitivityMap, ctx: RunContext) -> None:
    """Keeps a map's sums with a run; the full map stays in the cache."""
    if not ctx.done(MAP):
        with ctx.commit(MAP) as folder:
            dataclasses.replace(map, full={}).save(folder)


def _meta(request: MapRequest) -> dict[str, Any]:
    against = [_label(each.job.data) for each in request.compared[1:]]
    return {
        "model": request.job.model,
        "label": _label(request.job.data),
        "dtype": request.config.dtype,
        "device": request.device,
        **({"against": against} if against else {}),
    }


def _label(data: DataConfig) -> str:
    return data.task or source_label(str(data.file or data.seed_samples))


def measure_alignment(
    job: AlignJob, pair: ModelPair, progress: Progress | None = None
) -> AlignmentReport:
    """The alignment of a job: the cached one, or measured now and cached."""
    folder = alignment_folder(job, pair)
    if (found := find_alignment(folder)) is not None:
        return found
    check_vocabularies(pair, "an alignment")
    device = resolve_device_name(job.device)
    teacher = Loaded(pair.teacher, device, progress=progress)
    student = Loaded(pair.student, device, progress=progress)
    fit, test = align_samples(job)
    format = "paper" if job.data is None else job.data.format
    with max(teacher, student, key=lambda loaded: loaded.parameters).threads():
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
    keep_result(report.save, folder, pair.teacher, pair.student)
    return AlignmentReport.load(folder)


def _maps(
    job: AlignJob, pair: tuple[Loaded, Loaded], progress: Progress | None
) -> dict[str, tuple[SensitivityMap, SensitivityMap]]:
    """Each task's sensitivity in both models: sums, of which profiles are made."""
    data = {task: DataConfig(task=task) for task in align_tasks(job)}
    if job.data is not None:
        data = {"data": job.data}

    sums = SensitivityConfig(keep="sums")

    def measured(config: DataConfig, loaded: Loaded) -> SensitivityMap:
        measuring = SensitivityJob(
            model=loaded.name, data=config, sensitivity=sums, device=job.device
        )
        return measure_map(MapRequest.of(measuring, loaded.source), progress, loaded)

    return {k: (measured(v, pair[0]), measured(v, pair[1])) for k, v in data.items()}


def plan_recipe(
    recipe: TransferRecipe,
    pair: ModelPair,
    progress: Progress | None = None,
    teacher: Loaded | None = None,
) -> tuple[ExtractionPlan, SensitivityMap]:
    """The plan of a recipe and its map; measures what is not cached yet."""
    check_extraction(recipe, pair)
    map = measure_map(map_request(recipe, pair), progress, teacher)
    cka = None
    if recipe.extraction.layers.needs_cka:
        cka = measure_alignment(alignment_job(recipe), pair, progress).matrices["cka"]
    return make_plan(map, pair.student.spec, recipe.extraction, recipe.lora, cka), map


def extract_to(
    recipe: TransferRecipe, out: Path, progress: Progress | None = None
) -> ExtractionPlan:
    """Writes `plan.json` and the initial factors as a rank-r PEFT adapter into a new folder."""
    refuse_existing(out)
    pair = pair_to_plan(recipe)
    check_extraction(recipe, pair)
    device = resolve_device_name(recipe.device)
    teacher = Loaded(pair.teacher, device, progress=progress)
    plan, map = plan_recipe(recipe, pair, progress, teacher)
    with teacher.threads():
        factors = extract_factors(teacher.weight, plan, map, device=device)
    with output_folder(out) as folder:
        write_extraction(folder, plan, factors, recipe, pair.student.spec)
    return plan


def weights_of(model: nn.Module) -> Callable[[str], Tensor]:
    """Reads a module's weight, detached."""
    return lambda module: model.get_submodule(module).weight.detach()  # type: ignore[union-attr]


def write_extraction(
    folder: Path, plan: ExtractionPlan, factors: Any, recipe: TransferRecipe, student: ArchSpec
) -> None:
    """Fills a folder with `plan.json` and the factors in PEFT's names."""
    (folder / "plan.json").write_text(plan.model_dump_json(indent=1))
    card = (
        f"# Initial factors of `{recipe.name}`\n\nRank-r factors extracted from "
        f"`{recipe.teacher}` for `{recipe.student}`, before any training. An adapter starts from "
        "them on a base from which their product was subtracted. Loaded without that, they add "
        "the product to the student.\n"
    )
    card += f"\n{plan.plain_sentence}\n" if plan.plain else ""
    save_adapter(
        folder,
        {name: (factor.a, factor.b) for name, factor in factors.items()},
        {name: plan.lora.scale(factor.rank) for name, factor in factors.items()},
        student,
        recipe.student,
        card,
    )

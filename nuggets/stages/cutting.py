"""Making a student from a teacher: cut, heal, write a model folder. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nuggets.builtin.resolve import knows_builtin_words, model_named
from nuggets.builtin.skills import general_samples
from nuggets.compute.threads import threads_of
from nuggets.data.sources import load_source
from nuggets.disk.commit import make_folder, remove_folder
from nuggets.disk.home import cache_dir
from nuggets.disk.locks import Lock
from nuggets.disk.outputs import output_folder, refuse_existing
from nuggets.errors import BadInput
from nuggets.extraction.consistent import check_cut, check_heads_fill, choose_consistent
from nuggets.extraction.cut import cut_model, permute_matrices
from nuggets.extraction.layers import TopLayers, UniformLayers
from nuggets.models.architecture import ArchSpec
from nuggets.models.pair import Model
from nuggets.planning.cache import MapRequest
from nuggets.planning.machine import resolve_device_name
from nuggets.progress import Progress
from nuggets.recipe import CutJob, DataConfig, SensitivityConfig, SensitivityJob
from nuggets.sensitivity.maps import SensitivityMap
from nuggets.stages.measuring import Loaded, measure_map
from nuggets.train.builders.graft import digest
from nuggets.train.config import TrainConfig
from nuggets.train.export import save_model
from nuggets.train.finetune import finetune

HEAL_SAMPLES_PER_STEP = 1
"""Healing sees each sample about once; more would teach the samples, not the skill."""


def cut_to(job: CutJob, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Writes a cut (and healed) student as a model folder.

    Returns:
        What was kept, and the number of weights.

    Raises:
        BadInput: if the sizes do not fit the teacher, or `out` exists.
    """
    refuse_existing(out)
    source = model_named(job.teacher)
    wanted = student_spec(job, source.spec)
    healing = _healing_samples(job, source)
    device = resolve_device_name(job.device)
    teacher = Loaded(source, device, progress=progress)
    map = _map(job, teacher, progress)
    by_map = map is not None
    selector = TopLayers() if by_map else UniformLayers()
    scores = map.layer_scores if by_map else np.zeros(teacher.spec.n_layers)
    layers = selector.select(scores, wanted.n_layers)
    order = "sensitivity" if job.order == "permuted" else job.order
    choice = choose_consistent(map or _blank(teacher.spec), wanted, layers, order, job.seed)
    student = cut_model(teacher.model, choice)
    if job.order == "permuted":
        permute_matrices(student, job.seed)
    healed = _healed(student, teacher, healing, job, device, progress)
    with healed as losses, output_folder(out) as folder:
        card = _card(job, wanted, choice.layers, losses)
        save_model(student, teacher.tokenizer, folder, card)
    parameters = sum(p.numel() for p in student.parameters())
    return {
        "out": str(out),
        "parameters": parameters,
        "layers": list(choice.layers),
        "order": job.order,
        "heal_loss": losses[-1] if losses else None,
    }


def _map(job: CutJob, teacher: Loaded, progress: Progress | None) -> SensitivityMap | None:
    """The teacher's sensitivity, if samples were named; orders that do not look need none."""
    if job.data == DataConfig():
        if job.order in ("sensitivity", "permuted"):
            raise BadInput(
                f"A cut by {job.order} needs samples to measure sensitivity on: give a task or a "
                "JSONL file, or choose the order first or random."
            )
        return None
    config = SensitivityConfig(score=job.score, keep="sums", dtype="float32")
    measuring = SensitivityJob(
        model=job.teacher, data=job.data, sensitivity=config, device=job.device
    )
    return measure_map(MapRequest.of(measuring, teacher.source), progress, teacher)


def _blank(spec: ArchSpec) -> SensitivityMap:
    """A map that knows nothing, for choices that do not look."""
    shapes = {module: spec.shape(role) for module, role, _ in spec.modules()}
    rows = {module: np.zeros(shape[0]) for module, shape in shapes.items()}
    cols = {module: np.zeros(shape[1]) for module, shape in shapes.items()}
    return SensitivityMap(spec, "none", rows, cols, {}, (), np.zeros((0, 0)))


def student_spec(job: CutJob, teacher: ArchSpec) -> ArchSpec:
    """The student's dimensions: the teacher's, those of `like`, and single sizes on top.

    Raises:
        BadInput: for unknown sizes, or sizes that the teacher does not have.
    """
    spec = teacher if job.like is None else model_named(job.like).spec
    unknown = set(job.sizes) - {"n_layers", "hidden_size", "intermediate_size", "n_kv_heads"}
    if unknown:
        raise BadInput(f"A cut has no size {sorted(unknown)[0]!r}.")
    if not job.sizes and job.like is None:
        raise BadInput(
            "Give the size of the student: --like MODEL, or --layers, --width, --ffn, --kv-heads."
        )
    kv_heads = job.sizes.get("n_kv_heads", spec.n_kv_heads)
    if not teacher.architecture.free_heads and "n_kv_heads" not in job.sizes:
        width = job.sizes.get("hidden_size", spec.hidden_size)
        kv_heads = max(1, width // (spec.head_dim * spec.group))
    heads = {"n_kv_heads": kv_heads, "n_heads": kv_heads * spec.group}
    changes = {**job.sizes, **heads, "vocab_size": teacher.vocab_size}
    changed = ArchSpec(**{**spec.model_dump(), **changes, "model_type": teacher.model_type})
    if changed.hidden_size % changed.n_heads:  # transformers refuses it, in four lines
        raise BadInput(
            f"A width of {changed.hidden_size} is not a multiple of the {changed.n_heads} heads. "
            "Choose a different width or different head groups."
        )
    check_cut(teacher, changed)
    check_heads_fill(teacher, changed.n_heads, changed.hidden_size)
    return changed


def _healing_samples(job: CutJob, teacher: Model) -> list[Any]:
    """Read before anything is loaded, so that a wrong file costs nothing."""
    if job.heal is not None and job.heal_steps == 0:
        raise BadInput("Samples to heal on (--heal) need steps: --heal-steps 200, for example.")
    if job.heal_steps == 0:
        return []
    if job.heal is not None:
        return load_source(job.heal)
    if not knows_builtin_words(teacher):
        raise BadInput(
            "Give samples to heal on (--heal, a JSONL file or a data set). Without them a cut is "
            f"healed on built-in skills, which mean nothing to {job.teacher}."
        )
    n = job.heal_steps * job.heal_batch_size * HEAL_SAMPLES_PER_STEP
    return general_samples(n, job.seed, without=(job.data.task,) if job.data.task else ())


@contextmanager
def _healed(
    student: Any,
    teacher: Loaded,
    samples: list[Any],
    job: CutJob,
    device: str,
    progress: Progress | None,
) -> Iterator[list[float]]:
    """Heals the student; until it is written, a call that cuts and heals alike goes on here."""
    if not samples:
        yield []
        return
    config = TrainConfig(
        steps=job.heal_steps, batch_size=job.heal_batch_size, lr=job.heal_lr, schedule="cosine"
    )
    encoded = teacher.encode(samples, config.max_length, job.data.format)
    student.train()
    name = digest(student, encoded, config, job.seed, device.partition(":")[0])
    folder = cache_dir() / "healing" / name
    make_folder(folder)
    lock = Lock(folder / "lock")
    alone = lock.acquire()  # whoever heals alike meanwhile keeps nothing
    try:
        with threads_of(student, device):
            log = finetune(
                student,
                encoded,
                config,
                job.seed,
                folder if alone else None,
                device=device,
                progress=progress,
            )
        student.eval()
        yield log.losses
        if alone:
            remove_folder(folder)
    finally:
        lock.release()


def _card(job: CutJob, spec: ArchSpec, layers: tuple[int, ...], losses: list[float]) -> str:
    healed = (
        f"then fine-tuned for {job.heal_steps} steps to recover" if losses else "not fine-tuned"
    )
    return (
        f"# A student pruned from `{job.teacher}`\n\nTeacher layers {list(layers)}, "
        f"{spec.hidden_size} residual dimensions, {spec.intermediate_size} FFN neurons and "
        f"{spec.n_kv_heads} head groups per layer, chosen by {job.order} (seed {job.seed}); "
        f"{healed}.\n"
    )

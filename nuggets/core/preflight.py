"""What can be known of a pair before any weight is read or downloaded. Torch-free."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import psutil
from pydantic import computed_field

from nuggets.core.architecture import ArchSpec, Frozen
from nuggets.core.consistent import check_consistent
from nuggets.core.headers import check_keys, count_parameters, weight_bytes
from nuggets.core.hub import cached_folder
from nuggets.core.models import check_pair, check_vocabularies, read_pair, read_spec
from nuggets.core.references import ModelRef
from nuggets.errors import BadInput

T = TypeVar("T")
Stage = Literal["load", "sensitivity (sums)", "sensitivity (full map)", "training"]
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_NEEDED = ("load", "sensitivity (sums)")  # without these stages there is no transfer at all


class ModelFacts(Frozen):
    """One model, from its config and headers.

    Attributes:
        source: what the user wrote.
        format: how the weights are stored.
        stored: the stored number formats, most frequent first.
        spec: the dimensions.
        parameters: number of weights, biases and norms included; a tied head counts once.
        bytes_on_disk: size of the weight files.
        bytes_to_download: the same for a hub model that is not in the cache, else 0.
    """

    source: str
    format: Literal["safetensors", "gguf"]
    stored: tuple[str, ...]
    spec: ArchSpec
    parameters: int
    bytes_on_disk: int
    bytes_to_download: int


class Dimension(Frozen):
    """One row of the comparison; `fits` is False where the student is the larger one."""

    name: str
    teacher: int
    student: int
    fits: bool


class StageMemory(Frozen):
    """Estimated peak memory of one stage, and whether it fits into what is free."""

    stage: Stage
    bytes_needed: int
    fits: bool


class Preflight(Frozen):
    """Everything that can be said of a pair before its weights are read.

    Attributes:
        teacher: the teacher; None if it cannot be used, as `problems` says.
        student: likewise.
        dimensions: the two side by side; empty unless both can be read.
        vocabularies: whether both tokenizers give each word the same id.
        problems: what makes the transfer impossible, one sentence each.
        notes: what to know besides, one sentence each.
        stages: estimated memory per stage.
        memory_available: bytes of memory that are free.
        disk_needed: bytes to be downloaded, plus the full sensitivity map.
        disk_free: bytes that are free where results are kept.
    """

    teacher: ModelFacts | None
    student: ModelFacts | None
    dimensions: tuple[Dimension, ...] = ()
    vocabularies: Literal["agree", "differ", "unknown"] = "unknown"
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    stages: tuple[StageMemory, ...] = ()
    memory_available: int
    disk_needed: int = 0
    disk_free: int

    @computed_field
    @property
    def ok(self) -> bool:
        """Whether the transfer can work."""
        return not self.problems


def preflight(
    teacher: ModelRef,
    student: ModelRef,
    *,
    roles: Sequence[str] = (),
    dtype: str = "float32",
    max_tokens: int = 512,
    batch_size: int = 16,
    memory_available: int | None = None,
    folder: Path | None = None,
) -> Preflight:
    """Compares two models from configs and headers alone; faults become `problems`.

    Args:
        teacher: the larger model.
        student: the smaller model.
        roles: matrices to be extracted; `embed` and `head` need equal vocabularies.
        dtype: number format in which the models compute.
        max_tokens: longest sample.
        batch_size: samples per training step.
        memory_available: bytes free on the computing device; by default the machine's memory.
        folder: where results are kept, for the free disk space; by default the current folder.
    """
    free = psutil.virtual_memory().available if memory_available is None else memory_available
    disk_free = shutil.disk_usage(folder or Path.cwd()).free
    problems: list[str] = []
    large = _told(problems, lambda: _facts(teacher))
    small = _told(problems, lambda: _facts(student))
    if large is None or small is None:
        found = Preflight(teacher=large, student=small, memory_available=free, disk_free=disk_free)
        return found.model_copy(update={"problems": tuple(problems)})
    embed = bool({"embed", "head"} & set(roles))
    _told(problems, lambda: check_pair(large.spec, small.spec, embed=embed))
    pair = _told(problems, lambda: read_pair(teacher, student))
    if pair is not None:
        _told(problems, lambda: check_vocabularies(pair))
    stages = tuple(
        StageMemory(stage=stage, bytes_needed=needed, fits=needed <= free)
        for stage, needed in _memory(large, small, _BYTES[dtype], max_tokens, batch_size).items()
    )
    notes = list(_notes(large.spec, small.spec))
    if pair is not None and pair.vocabularies == "unknown":
        notes.append("The vocabularies cannot be compared: one model has no tokenizer.json.")
    for stage in stages:
        if not stage.fits:
            (problems if stage.stage in _NEEDED else notes).append(_shortage(stage, free))
    disk_needed = large.bytes_to_download + small.bytes_to_download + 4 * large.parameters
    if disk_needed > disk_free:
        problems.append(f"{_gb(disk_needed)} of disk are needed and {_gb(disk_free)} are free.")
    return Preflight(
        teacher=large,
        student=small,
        dimensions=tuple(_dimensions(large.spec, small.spec)),
        vocabularies="unknown" if pair is None else pair.vocabularies,
        problems=tuple(problems),
        notes=tuple(notes),
        stages=stages,
        memory_available=free,
        disk_needed=disk_needed,
        disk_free=disk_free,
    )


def _told(problems: list[str], look: Callable[[], T]) -> T | None:
    """Runs a check; what it refuses becomes one more sentence."""
    try:
        return look()
    except BadInput as problem:
        problems.append(str(problem))
        return None


def _facts(ref: ModelRef) -> ModelFacts:
    spec = read_spec(ref)
    shapes = check_keys(ref, spec)
    size = weight_bytes(ref, shapes)
    kinds = Counter(tensor.dtype for tensor in shapes.values())
    cached = ref.path is not None or cached_folder(ref.hub_id or "", ref.revision) is not None
    return ModelFacts(
        source=ref.source,
        format=ref.format,
        stored=tuple(kind for kind, _ in kinds.most_common()),
        spec=spec,
        parameters=count_parameters(spec, shapes),
        bytes_on_disk=size,
        bytes_to_download=0 if cached else size,
    )


def _dimensions(teacher: ArchSpec, student: ArchSpec) -> Iterator[Dimension]:
    for name in (
        "n_layers",
        "hidden_size",
        "intermediate_size",
        "n_heads",
        "n_kv_heads",
        "head_dim",
        "vocab_size",
    ):
        ours, theirs = getattr(teacher, name), getattr(student, name)
        yield Dimension(name=name, teacher=ours, student=theirs, fits=theirs <= ours)


def _notes(teacher: ArchSpec, student: ArchSpec) -> Iterator[str]:
    """What cannot be cut, and why."""
    if teacher.model_type != student.model_type:
        yield (
            f"The teacher is a {teacher.model_type} and the student a {student.model_type} model; "
            "their weights may not mean the same."
        )
    for who, spec in (("teacher", teacher), ("student", student)):
        if spec.group > 1:
            yield (
                f"The {who} shares each key/value head among {spec.group} query heads; the "
                "consistent selector keeps such groups whole."
            )
        if spec.tied:
            yield (
                f"Embedding and head of the {who} are one tensor (tied); the head has no weight "
                "of its own to extract or to adapt."
            )
    try:
        check_consistent(teacher, student)
    except BadInput as problem:
        yield str(problem)


def _memory(
    large: ModelFacts, small: ModelFacts, width: int, tokens: int, batch: int
) -> dict[Stage, int]:
    """Estimated peak bytes of each stage.

    Sensitivity holds the teacher, one sample's activations, and, since each gradient is freed at
    once, a gradient and its score in float32 for the largest matrix only. LoRA's own gradients and
    optimizer are left out: they are small beside the activations of a batch.
    """
    largest = max(math.prod(large.spec.shape(role)) for _, role, _ in large.spec.modules())
    sums = large.parameters * width + activation_bytes(large.spec, tokens, width)
    sums += largest * (width + 2 * _BYTES["float32"])
    training = small.parameters * width + batch * activation_bytes(small.spec, tokens, width)
    return {
        "load": large.parameters * width,
        "sensitivity (sums)": sums,
        "sensitivity (full map)": sums + large.parameters * _BYTES["float32"],
        "training": training,
    }


def activation_bytes(spec: ArchSpec, tokens: int, width: int) -> int:
    """Bytes that one sample's forward pass keeps for the backward pass.

    Counted on a Llama block: about 8 residual-wide tensors (norms keep float32 copies), queries,
    keys and values before and after rotation, 4 FFN-wide ones; logits, also in float32 with their
    gradient.
    """
    heads = 3 * spec.size("q_heads") + 3 * spec.size("kv_heads")
    block = 8 * spec.hidden_size + heads + 4 * spec.intermediate_size
    logits = spec.vocab_size * (width + 2 * _BYTES["float32"])
    return tokens * (spec.n_layers * block * width + logits)


def _shortage(stage: StageMemory, free: int) -> str:
    advice = {
        "training": "use smaller batches or shorter samples",
        "sensitivity (full map)": "keep row and column sums only",
    }.get(stage.stage, "choose a smaller model, bfloat16 or a machine with more memory")
    return (
        f"Stage {stage.stage} needs about {_gb(stage.bytes_needed)} of memory and {_gb(free)} are "
        f"free; {advice}."
    )


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"

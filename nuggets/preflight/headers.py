"""What can be known of a pair before any weight is read or downloaded."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import psutil
from pydantic import computed_field

from nuggets import amounts
from nuggets.errors import BadInput
from nuggets.extraction.consistent import why_not_consistent
from nuggets.extraction.layers import TopLayers
from nuggets.extraction.sites import plain_sentence, split_sites, why_not_cut
from nuggets.frozen import Frozen
from nuggets.models.architecture import LAYER_ROLES, ROLES, ArchSpec
from nuggets.models.hub import cached_folder
from nuggets.models.pair import Model, ModelPair, check_vocabularies, read_config
from nuggets.models.references import ModelRef
from nuggets.models.safetensors_headers import count_parameters, weight_bytes
from nuggets.preflight.resources import Machine, Size, StageNeed, Work, estimate_stages

T = TypeVar("T")
_NEEDED = ("load", "sensitivity (sums)")  # where streaming does not help, there is no other way
_STREAMED = "sensitivity (streaming)"


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
        vocabulary: hash of every token and its id; None if it cannot be read without loading.
        max_tokens: longest text that the model was made for, where its config says.
    """

    source: str
    format: Literal["safetensors", "gguf"]
    stored: tuple[str, ...]
    spec: ArchSpec
    parameters: int
    bytes_on_disk: int
    bytes_to_download: int
    vocabulary: str | None = None
    max_tokens: int | None = None


class Dimension(Frozen):
    """One row of the comparison; `fits` is False where the student is the larger one."""

    name: str
    teacher: int
    student: int
    fits: bool


class RoleFit(Frozen):
    """Whether one kind of matrix can be extracted.

    Attributes:
        role: such as `q` or `down`.
        teacher_module: its module in the teacher, in the first layer; None if there is none.
        student_module: likewise in the student.
        teacher_shape: `[out, in]`; None if there is none.
        student_shape: likewise.
        fits: whether it can be extracted.
        reason: why not, or what to know; empty if nothing.
    """

    role: str
    teacher_module: str | None
    student_module: str | None
    teacher_shape: tuple[int, int] | None
    student_shape: tuple[int, int] | None
    fits: bool
    reason: str = ""


class Preflight(Frozen):
    """Everything that can be said of a pair before its weights are read.

    Attributes:
        teacher: the teacher; None if it cannot be used, as `problems` says.
        student: likewise.
        dimensions: the two side by side; empty unless both can be read.
        roles: which matrices can be extracted, and why not.
        vocabularies: whether both tokenizers give each word the same id.
        problems: what makes the transfer impossible, one sentence each.
        notes: what to know besides, one sentence each.
        stages: estimated memory, disk and time per stage.
        machine: what is there.
        work: how much the stages were counted for; no sample is longer than the models take.
        memory_available: bytes of memory that are free on the computing device.
        disk_needed: bytes to be downloaded, plus the full sensitivity map where it is kept.
        disk_free: bytes that are free where results are kept.
    """

    teacher: ModelFacts | None
    student: ModelFacts | None
    dimensions: tuple[Dimension, ...] = ()
    roles: tuple[RoleFit, ...] = ()
    vocabularies: Literal["agree", "differ", "unknown"] = "unknown"
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    stages: tuple[StageNeed, ...] = ()
    machine: Machine | None = None
    work: Work | None = None
    memory_available: int
    disk_needed: int = 0
    disk_free: int

    @computed_field
    @property
    def ok(self) -> bool:
        """Whether the transfer can work."""
        return not self.problems


def preflight(
    pair: ModelPair,
    *,
    roles: Sequence[str] = (),
    whole_heads: bool = False,
    work: Work | None = None,
    machine: Machine | None = None,
) -> Preflight:
    """Compares two models from configs and headers alone; faults become `problems`.

    Args:
        pair: the larger model and the smaller one.
        roles: matrices to be extracted; `embed` and `head` need equal vocabularies. Those of a
            layer when not given.
        whole_heads: whether the matrix selector keeps heads whole, as `consistent` does.
        work: how much is to be done; a usual transfer when not given.
        machine: what is there; this machine's CPU and current folder when not given.
    """
    machine = machine or this_machine()
    work = work or Work()
    problems: list[str] = []
    large = _told(problems, lambda: _facts(pair.teacher))
    small = _told(problems, lambda: _facts(pair.student))
    found = Preflight(
        teacher=large,
        student=small,
        machine=machine,
        memory_available=machine.memory_free,
        disk_free=machine.disk_free,
    )
    if large is None or small is None:
        return found.model_copy(update={"problems": tuple(problems)})
    cut = _told(problems, lambda: _plain(large.spec, small.spec, roles or LAYER_ROLES, whole_heads))
    words = _words(pair, roles, problems)
    notes = [*filter(None, [cut]), *_notes(large.spec, small.spec), *words]
    longest = [facts.max_tokens for facts in (large, small) if facts.max_tokens]
    work = work.model_copy(update={"max_tokens": min([work.max_tokens, *longest])})
    stages = estimate_stages(_size(large), _size(small), work, machine)
    _judge(stages, machine, large, work, problems, notes)
    # What streaming writes is gone when it ends, and only a teacher that does not fit is streamed.
    disk_needed = sum(need.disk_needed for need in stages if need.stage != _STREAMED)
    if disk_needed > machine.disk_free:
        fewer = " Keep no full map (sensitivity.keep: windows)." if work.keeps_map else ""
        problems.append(f"{_against(disk_needed, 'of disk are needed', machine.disk_free)}.{fewer}")
    known = {
        "dimensions": tuple(_dimensions(large.spec, small.spec)),
        "roles": tuple(_roles(pair)),
        "vocabularies": pair.vocabularies,
        "problems": tuple(problems),
        "notes": tuple(notes),
        "stages": stages,
        "work": work,
        "disk_needed": disk_needed,
    }
    return found.model_copy(update=known)


def _words(pair: ModelPair, roles: Sequence[str], problems: list[str]) -> Iterator[str]:
    """What to know of the two tokenizers; what is missing, or needs equal ones, is a problem."""
    if {"embed", "head"} & set(roles):
        _told(problems, lambda: check_vocabularies(pair, "the roles embed and head"))
    problems += [
        f"{model.ref.source} has no tokenizer; put tokenizer.json into the folder of its weights."
        for model in (pair.teacher, pair.student)
        if not model.has_tokenizer
    ]
    if pair.vocabularies == "differ":
        yield (
            "The tokenizers differ: each model reads its own tokens, and what compares them token "
            "by token (embedding and head, alignment, distillation, grafts) is refused."
        )
    if pair.vocabularies == "unknown":
        yield "The vocabularies cannot be compared: one model has no tokenizer.json."


def _judge(
    stages: Sequence[StageNeed],
    machine: Machine,
    teacher: ModelFacts,
    work: Work,
    problems: list[str],
    notes: list[str],
) -> None:
    """Tells what is short: a note where there is another way, else a problem."""
    short = [need for need in stages if not need.fits]
    by_blocks = teacher.format == "safetensors" and not work.runs_teacher
    by_blocks &= all(need.stage != _STREAMED for need in short)
    for need in short:
        if need.stage in _NEEDED and not by_blocks:
            problems.append(_shortage(need, machine))
        elif need.stage not in (*_NEEDED, _STREAMED):
            notes.append(_shortage(need, machine))
    if by_blocks and any(need.stage in _NEEDED for need in short):
        notes.append(
            "The whole teacher does not fit into memory. Its sensitivity is measured block by "
            "block from its files, and only the extracted parts are read."
        )


def this_machine(folder: Path | None = None) -> Machine:
    """The CPU with the memory and disk that are free now, its speed not measured."""
    free = psutil.virtual_memory().available
    disk = shutil.disk_usage(folder or Path.cwd()).free
    return Machine(memory_free=free, ram_free=free, disk_free=disk)


def _size(facts: ModelFacts) -> Size:
    return Size(**{name: getattr(facts, name) for name in Size.model_fields})


def _roles(pair: ModelPair) -> Iterator[RoleFit]:
    """Every kind of matrix that one of the two models has."""
    teacher, student = pair.teacher.spec, pair.student.spec
    for role in ROLES:
        shapes = [spec.shape(role) if spec.has(role) else None for spec in (teacher, student)]
        if shapes == [None, None]:
            continue
        reason = _why_not(role, pair)
        tied = role == "head" and (teacher.tied or student.tied)
        modules = [
            spec.module(role, None if role in ("embed", "head") else 0) if spec.has(role) else None
            for spec in (teacher, student)
        ]
        yield RoleFit(
            role=role,
            teacher_module=modules[0],
            student_module=modules[1],
            teacher_shape=shapes[0],
            student_shape=shapes[1],
            fits=not reason,
            reason=reason or ("tied to the embedding" if tied else ""),
        )


def _why_not(role: str, pair: ModelPair) -> str:
    teacher, student = pair.teacher.spec, pair.student.spec
    if not student.has(role):
        return "the student has none"
    if role in ("embed", "head") and pair.vocabularies == "differ":
        return "the same row is a different token"
    return why_not_cut(role, teacher, student)


def _plain(teacher: ArchSpec, student: ArchSpec, roles: Sequence[str], whole_heads: bool) -> str:
    """What starts as plain LoRA; which layers of a deeper student is known without a map."""
    pairs = TopLayers().pairs(np.zeros(teacher.n_layers), student.n_layers)
    sites, uncut = split_sites(teacher, student, pairs, roles, whole_heads)
    return plain_sentence(len(sites), uncut)


def _told(problems: list[str], look: Callable[[], T]) -> T | None:
    """Runs a check; what it refuses becomes one more sentence."""
    try:
        return look()
    except BadInput as problem:
        problems.append(str(problem))
        return None


def _facts(model: Model) -> ModelFacts:
    ref, spec, shapes = model.ref, model.spec, model.headers
    size = weight_bytes(ref, shapes)
    digest = model.vocabulary
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
        vocabulary=digest,
        max_tokens=_longest(ref),
    )


def _longest(ref: ModelRef) -> int | None:
    config = read_config(ref)
    length = config.get("max_position_embeddings") or config.get("n_positions")
    return length if isinstance(length, int) and length > 0 else None


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
            "their weights may not correspond."
        )
    for who, spec in (("teacher", teacher), ("student", student)):
        if spec.group > 1:
            yield (
                f"The {who} has {spec.group} query heads for each KV head (GQA); the selector "
                "consistent keeps these groups whole."
            )
        if spec.tied:
            yield (
                f"Embedding and head of the {who} are one tensor (tied), so the head has no "
                "separate weight to extract or adapt."
            )
    if reason := why_not_consistent("q", teacher, student):
        yield (
            f"With the selector consistent, which keeps heads whole, attention starts as plain "
            f"LoRA ({reason})."
        )


def _shortage(need: StageNeed, machine: Machine) -> str:
    """What is short for a stage, and what to do."""
    advice = {
        "training": "use smaller batches, shorter samples or bfloat16",
        "evaluation": "use shorter samples or bfloat16",
        "sensitivity (full map)": "keep row and column sums only",
        "download": "free some space, or set HF_HOME to another disk",
    }.get(need.stage, "choose a smaller model, bfloat16 or a machine with more memory")
    short = [
        (f"of memory on {machine.device}", need.bytes_needed, machine.memory_free),
        ("of memory", need.ram_needed, machine.ram_free),
        ("of disk space", need.disk_needed, machine.disk_free),
    ]
    what, needed, free = next(row for row in short if row[1] > row[2])
    what = "of memory" if machine.device == "cpu" and "memory" in what else what
    return f"Stage {need.stage} needs about {_against(needed, what, free)}; {advice}."


def _against(needed: int, what: str, free: int) -> str:
    return f"{amounts.size(needed, digits=3)} {what}, but {amounts.size(free, digits=3)} are free"

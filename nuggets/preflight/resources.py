"""What each stage of a transfer needs: memory, disk and time, from dimensions alone.

Estimates, not promises: operations are counted on paper, and divided by what this machine was
measured to do.
"""

from __future__ import annotations

import math
from typing import Literal

from nuggets.compute.speed import Speed
from nuggets.frozen import Frozen
from nuggets.models.architecture import ArchSpec
from nuggets.sensitivity.footprint import (
    FLOAT32,
    has_room_for_two,
    head_bytes,
    hooks_bytes,
    row_bytes,
    rows_at_once,
    spills,
    state_bytes,
    streaming_bytes,
)

Stage = Literal[
    "download",
    "load",
    "sensitivity (sums)",
    "sensitivity (full map)",
    "sensitivity (streaming)",
    "extraction",
    "training",
    "evaluation",
]
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_REACHED = 0.5
"""Share of the measured matmul rate that whole forward and backward passes reach: .35–.75 on
Llamas of 0.1–138 M parameters, which also pay for norms, softmax and Python."""
FASTER, SLOWER = _REACHED / 0.75, _REACHED / 0.35
"""By what a time may differ from its estimate."""
_HEAP = 1.3
"""Memory of activations with what the allocator keeps of freed ones, measured with SmolLM2-135M."""
STARTING_S = 6.0
"""Seconds in which a worker imports PyTorch and its libraries, once for each run."""


class Work(Frozen):
    """How much is to be done.

    Attributes:
        n_seed_samples: samples that sensitivity is measured on.
        max_tokens: longest sample, for memory.
        mean_tokens: average sample, for time; `max_tokens` when not given.
        rank: r of the adapter.
        batch_size: samples per training step.
        steps: training steps of one arm with one seed.
        trainings: arms × seeds that are trained.
        whole_trainings: those of them that train all weights rather than a LoRA.
        trains_all: whether all weights are trained at any time, in a training or before it.
        n_test: samples that each training is measured on.
        checkpointed: whether training computes blocks twice rather than keep their activations.
        dtype: number format in which the models compute.
        train_dtype: number format of the student's weights in training and evaluation.
        runs_teacher: whether an arm runs the teacher, which then has to be loaded whole.
        keeps_map: whether the full sensitivity map is kept on disk, rather than windows or sums.
    """

    n_seed_samples: int = 32
    max_tokens: int = 512
    mean_tokens: int | None = None
    rank: int = 16
    batch_size: int = 16
    steps: int = 200
    trainings: int = 1
    whole_trainings: int = 0
    trains_all: bool = False
    n_test: int = 80
    checkpointed: bool = False
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    train_dtype: Literal["float32", "bfloat16"] = "float32"
    runs_teacher: bool = False
    keeps_map: bool = True

    @property
    def tokens(self) -> int:
        """Tokens of an average sample."""
        return min(self.mean_tokens or self.max_tokens, self.max_tokens)


class Machine(Frozen):
    """What is there.

    Attributes:
        device: where it computes, such as `cpu` or `cuda:0`.
        memory_free: bytes free on that device.
        ram_free: bytes free in the machine's memory; the same for `cpu`.
        disk_free: bytes free where results are kept.
        speed: what the device was measured to do; None if it was not.
        reads: bytes per second that were read from disk, where results are kept; likewise.
    """

    device: str = "cpu"
    memory_free: int
    ram_free: int
    disk_free: int
    speed: Speed | None = None
    reads: float | None = None


class StageNeed(Frozen):
    """What one stage needs, estimated.

    Attributes:
        stage: its name.
        bytes_needed: peak memory on the computing device.
        ram_needed: peak of the machine's own memory; equal to `bytes_needed` on the CPU.
        disk_needed: bytes that the stage leaves on disk, or needs there while it streams.
        seconds: about how long it takes here; None if the device was not measured.
        fits: whether memory and disk suffice.
    """

    stage: Stage
    bytes_needed: int
    ram_needed: int = 0
    disk_needed: int = 0
    seconds: float | None = None
    fits: bool = True


class Size(Frozen):
    """What is counted of one model: its dimensions, weights, and bytes on disk or to download."""

    spec: ArchSpec
    format: Literal["safetensors", "gguf"]
    parameters: int
    bytes_on_disk: int
    bytes_to_download: int = 0


def estimate_stages(
    teacher: Size, student: Size, work: Work, machine: Machine
) -> tuple[StageNeed, ...]:
    """Memory, disk and time of every stage, and whether they are there."""
    needs = (
        _download(teacher, student),
        _load(teacher, work, machine),
        *_sensitivity(teacher, work, machine),
        _extraction(teacher, student, work, machine.speed),
        _training(teacher, student, work, machine),
        _evaluation(student, work, machine.speed),
    )
    return tuple(_judged(need, machine) for need in needs)


def _judged(need: StageNeed, machine: Machine) -> StageNeed:
    on_cpu = machine.device == "cpu"
    ram = max(need.ram_needed, need.bytes_needed) if on_cpu else need.ram_needed
    fits = (
        need.bytes_needed <= machine.memory_free
        and ram <= machine.ram_free
        and need.disk_needed <= machine.disk_free
    )
    return need.model_copy(update={"ram_needed": ram, "fits": fits})


def _download(teacher: Size, student: Size) -> StageNeed:
    size = teacher.bytes_to_download + student.bytes_to_download
    return StageNeed(stage="download", bytes_needed=0, disk_needed=size)


def _load(teacher: Size, work: Work, machine: Machine) -> StageNeed:
    """Every byte is read from disk, converted, and looked at for what is not finite.

    Of a GGUF file no time is told: most of it goes into its vocabulary, word by word.
    """
    size = teacher.parameters * BYTES[work.dtype]
    seconds = None
    if teacher.format != "gguf" and machine.reads is not None and machine.speed is not None:
        passes = teacher.bytes_on_disk + 2 * size
        seconds = teacher.bytes_on_disk / machine.reads + passes / machine.speed.bandwidth
    return StageNeed(stage="load", bytes_needed=size, ram_needed=size, seconds=seconds)


def _sensitivity(
    teacher: Size, work: Work, machine: Machine
) -> tuple[StageNeed, StageNeed, StageNeed]:
    """Whole model with sums, whole model with the full map, and block by block."""
    width, weights, spec, speed = (
        BYTES[work.dtype], teacher.parameters, teacher.spec, machine.speed,
    )  # fmt: skip
    sums = hooks_bytes(spec, weights, work.max_tokens, width, full=False)
    lengths = [work.max_tokens] * work.n_seed_samples
    states = state_bytes(spec, lengths, width)
    on_disk = spills(states, machine.ram_free)
    streaming, kept = streaming_bytes(spec, lengths, width), 0 if on_disk else states
    on_cpu = kept if machine.device == "cpu" else 0
    map_bytes = weights * FLOAT32
    tokens = work.n_seed_samples * work.tokens
    scoring = (
        6 * FLOAT32 * weights * work.n_seed_samples
    )  # read θ and g, write the score, sum it twice
    calls = work.n_seed_samples * spec.n_layers * 100
    seconds = _seconds(speed, work.dtype, 6.0 * weights * tokens, scoring, calls)
    recomputed = _seconds(speed, work.dtype, 8.0 * weights * tokens, scoring, calls)
    return (
        StageNeed(stage="sensitivity (sums)", bytes_needed=sums, seconds=seconds),
        StageNeed(
            stage="sensitivity (full map)",
            bytes_needed=sums + map_bytes,
            ram_needed=map_bytes,
            disk_needed=map_bytes if work.keeps_map else 0,
            seconds=seconds,
        ),
        StageNeed(
            stage="sensitivity (streaming)",
            bytes_needed=streaming + on_cpu,
            ram_needed=streaming + kept,  # weights and scores pass through it
            disk_needed=states if on_disk else 0,
            seconds=recomputed,
        ),
    )


def _extraction(teacher: Size, student: Size, work: Work, speed: Speed | None) -> StageNeed:
    """One pass over each full map in float64, then an SVD of student-shaped matrices."""
    roles = [role for role in teacher.spec.architecture.roles if student.spec.has(role)]
    large = [math.prod(teacher.spec.shape(role)) for role in roles]
    small = [math.prod(student.spec.shape(role)) for role in roles]
    layers = student.spec.n_layers
    sketched = 2.0 * layers * sum(small) * (work.rank + 16) * 10
    read = layers * sum(large) * (FLOAT32 + 4 * 8)
    factors = layers * work.rank * sum(sum(student.spec.shape(role)) for role in roles)
    return StageNeed(
        stage="extraction",
        bytes_needed=max(large, default=0) * (FLOAT32 + 8)  # scores, and a sum for every window
        + max(small, default=0) * 3 * FLOAT32,
        disk_needed=factors * FLOAT32,
        seconds=_seconds(speed, "float32", sketched, read, layers * len(roles) * 50),
    )


def _training(teacher: Size, student: Size, work: Work, machine: Machine) -> StageNeed:
    """A LoRA on frozen weights: forward, and backward through activations only; or all weights.

    The untouched student stays beside the one that is trained where there is room for both. A batch
    is computed in parts where memory is short; its logits never are there whole. Gradients and
    optimiser of a LoRA are small beside the activations; of all weights they are three times these.
    """
    width, spec, speed = BYTES[work.train_dtype], student.spec, machine.speed
    factors = work.rank * sum(sum(spec.shape(role)) for _, role, _ in spec.modules())
    one = student.parameters * width
    needed = one + 4 * factors * FLOAT32
    needed += 3 * student.parameters * FLOAT32 if work.trains_all else 0
    needed += teacher.parameters * FLOAT32 if work.runs_teacher else 0
    needed += one if has_room_for_two(one, machine.memory_free - needed) else 0
    row = row_bytes(spec, work.max_tokens, width, work.checkpointed)
    free = max(0, machine.memory_free - needed)
    rows = min(work.batch_size, rows_at_once(row, free, machine.device))
    needed += int(_HEAP * rows * row) + head_bytes(spec, rows * work.max_tokens, machine.device)
    steps = work.steps * work.trainings
    tokens = work.steps * work.batch_size * work.tokens
    passes = 4.0 * work.trainings + 2.0 * work.whole_trainings
    return StageNeed(
        stage="training",
        bytes_needed=needed,
        disk_needed=work.trainings * 2 * 3 * factors * FLOAT32,
        seconds=_seconds(
            speed,
            work.dtype,
            passes * student.parameters * tokens,
            0,
            steps * spec.n_layers * 200,
        ),
    )


def _evaluation(student: Size, work: Work, speed: Speed | None) -> StageNeed:
    """Every test sample twice: its answer scored, and its answer written token by token."""
    width, spec = BYTES[work.train_dtype], student.spec
    tokens = work.trainings * work.n_test * work.tokens
    logits = work.batch_size * work.max_tokens * spec.vocab_size * FLOAT32
    return StageNeed(
        stage="evaluation",
        bytes_needed=student.parameters * width + logits,
        seconds=_seconds(
            speed, work.dtype, 4.0 * student.parameters * tokens, 0, tokens // 8 * spec.n_layers
        ),
    )


def _seconds(
    speed: Speed | None, dtype: str, flops: float, moved: float, calls: float
) -> float | None:
    """Time of so many operations, bytes moved and calls; what is not measured is not told."""
    if speed is None:
        return None
    rate = speed.flops.get(dtype, speed.flops.get("float32", 0.0))
    if rate <= 0:
        return None
    return flops / (rate * _REACHED) + moved / speed.bandwidth + calls * speed.call

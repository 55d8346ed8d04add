"""How much memory measuring a model takes, by hooks and by streaming, and training it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nuggets.models.architecture import ArchSpec
from nuggets.models.piecewise.chunks import COPIES, positions_at_once

FLOAT32 = 4
SHARE = 0.5
"""What share of the free memory training may plan for, since estimates are rough."""
CPU_ROOM = 2**30
"""Bytes of activations beyond which more samples at once make no step on a processor faster."""


def activation_bytes(spec: ArchSpec, tokens: int, width: int) -> int:
    """Bytes that one sample's forward pass keeps for the backward pass.

    Counted on a Llama block: about 8 residual-wide tensors (norms keep float32 copies), queries,
    keys and values before and after rotation, 4 FFN-wide ones; logits, also in float32 with their
    gradient.

    Args:
        spec: of the model.
        tokens: of the sample.
        width: bytes per number.
    """
    return tokens * (spec.n_layers * _block_numbers(spec) * width + _logit_bytes(spec, width))


def row_bytes(spec: ArchSpec, tokens: int, width: int, checkpointed: bool = False) -> int:
    """Bytes that training keeps of one sample for the backward pass, without the head's.

    Args:
        spec: of the model.
        tokens: of the sample.
        width: bytes per number.
        checkpointed: whether blocks are computed twice, so that only what enters them is kept.
    """
    block = _block_numbers(spec)
    numbers = spec.n_layers * (spec.hidden_size if checkpointed else block)
    return tokens * width * (numbers + (block if checkpointed else 0))


def head_bytes(spec: ArchSpec, positions: int, device: str) -> int:
    """Bytes for the logits of a training at once, and what the loss makes of them.

    Args:
        spec: of the model.
        positions: that predict an answer token.
        device: such as `cpu` or `cuda:0`.
    """
    at_once = min(positions, positions_at_once(spec.vocab_size, device))
    return COPIES * FLOAT32 * at_once * spec.vocab_size


def rows_at_once(row: int, free: int, device: str) -> int:
    """Samples whose activations are in memory together; a batch of more is computed in parts.

    On a processor it does not depend on what is free, so that a resumed run ends with the same
    bits.

    Args:
        row: `row_bytes` of the longest.
        free: bytes that are free on the device, the model loaded.
        device: such as `cpu` or `cuda:0`.
    """
    room = int(SHARE * free) if device.startswith("cuda") else CPU_ROOM
    return max(1, room // row)


def has_room_for_two(student: int, free: int) -> bool:
    """Whether an untouched student stays in memory beside the one that is trained.

    Args:
        student: bytes of its weights.
        free: bytes free once one of them is loaded.
    """
    return student <= SHARE * free


def _block_numbers(spec: ArchSpec) -> int:
    heads = 3 * spec.size("q_heads") + 3 * spec.size("kv_heads")
    return 8 * spec.hidden_size + heads + 4 * spec.intermediate_size


def _logit_bytes(spec: ArchSpec, width: int) -> int:
    return spec.vocab_size * (width + 2 * FLOAT32)


def hooks_bytes(spec: ArchSpec, parameters: int, tokens: int, width: int, *, full: bool) -> int:
    """Peak of `compute_sensitivity` in bytes, the model included.

    The model, one sample's activations, and, since each gradient is freed at once, a gradient and
    its score in float32 for the largest matrix only; a full map in float32 besides.

    Args:
        spec: of the model.
        parameters: how many it has.
        tokens: of the longest sample.
        width: bytes per number.
        full: whether every entry of the map is kept.
    """
    largest = max(math.prod(spec.shape(role)) for _, role, _ in spec.modules())
    needed = parameters * width + activation_bytes(spec, tokens, width)
    needed += largest * (width + 2 * FLOAT32)
    return needed + (parameters * FLOAT32 if full else 0)


def state_bytes(spec: ArchSpec, tokens: Sequence[int], width: int) -> int:
    """Bytes of what stands between the blocks of a streamed model, of all samples.

    Args:
        spec: of the model.
        tokens: of each sample.
        width: bytes per number.
    """
    return sum(tokens) * spec.hidden_size * (spec.n_layers + 2) * width


def spills(states: int, free: int) -> bool:
    """Whether states between blocks go to disk, with so many bytes of memory free."""
    return states > SHARE * free


def streaming_bytes(spec: ArchSpec, tokens: Sequence[int], width: int) -> int:
    """Peak of `stream_sensitivity` in bytes, without map and states between blocks.

    A part is a block, the embedding or the head: its weights, the sums of their scores in float32,
    and a gradient and a score of its largest matrix, which is about a third of a block.

    Args:
        spec: of the model.
        tokens: of each sample.
        width: bytes per number.
    """
    block = sum(math.prod(spec.shape(role)) for role in spec.architecture.roles)
    outer = math.prod(spec.shape("embed"))
    part = max(block, outer)
    longest = max(tokens) * max(_block_numbers(spec) * width, _logit_bytes(spec, width))
    return part * (width + FLOAT32) + max(outer, block // 3) * 2 * FLOAT32 + longest

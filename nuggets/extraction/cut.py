"""Pruning a larger model to a smaller one with one consistent choice of indices.

The same residual dimensions are kept in the whole network, attention heads are kept in whole
key/value groups, and gate, up and down keep the same FFN neurons. Unlike independent windows,
such a cut keeps working circuits: all matrices still use the same dimensions.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from nuggets.errors import BadInput, Unsupported
from nuggets.extraction.consistent import ConsistentChoice, check_heads_fill
from nuggets.models.architecture import WHOLE_AXES, ArchSpec, Axis

if TYPE_CHECKING:
    from torch import Tensor

_PER_LAYER = ("layer_types", "no_rope_layers")
"""What a config says layer by layer: sliding or full attention, rotated or not."""


def cut_model(teacher: Any, choice: ConsistentChoice) -> Any:
    """Makes a new model from the chosen indices of a teacher; the teacher is not changed.

    Weights, biases and norm vectors are sliced by the axes they live on; what lives inside a
    head (rotary positions, query/key norms) or on the vocabulary is kept whole. Values are
    copied in the teacher's dtype, so a full choice gives bit-identical logits.

    Args:
        teacher: a causal language model of a supported architecture, as `load_model` gives it.
        choice: the kept indices.

    Returns:
        A model of the teacher's class, likewise in evaluation mode, on the teacher's device.

    Raises:
        BadInput: if an index is out of range, repeated or tears a head from its group.
        Unsupported: if the model has a weight that the architecture does not describe.
    """
    spec = ArchSpec.from_config(teacher.config.to_dict())
    check_choice(spec, choice)
    import torch
    from transformers import AutoModelForCausalLM

    from nuggets.models.fused import split_fused

    config = _cut_config(teacher.config, spec, choice)
    with torch.random.fork_rng(devices=[]):  # the initial values are all replaced below
        student = AutoModelForCausalLM.from_config(
            config, dtype=teacher.dtype, trust_remote_code=False
        ).to(teacher.device)
    split_fused(student, ArchSpec.from_config(config.to_dict()))
    weights = teacher.state_dict()
    sliced = {}
    for name in student.state_dict():
        source, axes, place = _origin(spec, choice, name)
        if source not in weights or len(axes) != weights[source].ndim:
            raise Unsupported(f"Weight {name!r} has an unknown layout; this model cannot be cut.")
        sliced[name] = _slice(weights[source], axes, place, choice)
    student.load_state_dict(sliced, strict=True)
    return student.eval()


def permute_matrices(model: Any, seed: int = 0) -> None:
    """Permutes rows and columns of every matrix independently, in place: a control for cuts.

    Spectrum and entries of each matrix stay as they are, but the matrices no longer use the
    same dimensions. The vocabulary side of the embedding and the head stays in order, so
    the words keep their own vectors up to the order of entries.
    """
    import torch

    spec = ArchSpec.from_config(model.config.to_dict())
    generator = torch.Generator().manual_seed(seed)
    weights = model.state_dict()
    with torch.no_grad():
        for module, role, _ in spec.modules():
            weight = weights[f"{module}.weight"]
            for dim, axis in enumerate(spec.axes(role)):
                if axis not in WHOLE_AXES:
                    order = torch.randperm(weight.shape[dim], generator=generator)
                    weight.copy_(weight.index_select(dim, order.to(weight.device)))


def check_choice(spec: ArchSpec, choice: ConsistentChoice) -> None:
    """Refuses a choice that cannot be cut out of a teacher of this shape.

    Raises:
        BadInput: naming the axis, the values and the rule they break.
    """
    if (choice.head_dim, choice.vocab) != (spec.head_dim, spec.vocab_size):
        raise BadInput(
            f"A cut keeps heads of {spec.head_dim} dimensions and all {spec.vocab_size} tokens, "
            f"but the choice was made for heads of {choice.head_dim} and {choice.vocab} tokens."
        )
    check_heads_fill(spec, len(choice.heads[0]), len(choice.resid))
    # A layer may stand anywhere and more than once: a map by hand can repeat layers.
    _check_range("layers", np.asarray(choice.layers), spec.n_layers)
    _check_axis("resid", choice.resid, spec.hidden_size)
    sizes = {"heads": spec.n_heads, "kv_heads": spec.n_kv_heads, "ffn": spec.intermediate_size}
    for axis, size in sizes.items():
        per_layer = getattr(choice, axis)
        if len(per_layer) != len(choice.layers) or len({len(kept) for kept in per_layer}) != 1:
            raise BadInput(
                f"{axis} needs one list of equal length for each of the {len(choice.layers)} kept "
                f"layers, but has lengths {[len(kept) for kept in per_layer]}."
            )
        for kept in per_layer:
            _check_axis(axis, kept, size)
    for heads, kv_heads in zip(choice.heads, choice.kv_heads, strict=True):
        _check_groups(spec, heads, kv_heads)


def _check_axis(axis: str, kept: np.ndarray, size: int) -> None:
    _check_range(axis, kept, size)
    if len(np.unique(kept)) != len(kept):
        raise BadInput(f"{axis} contains an index twice; every index can be kept only once.")


def _check_range(axis: str, kept: np.ndarray, size: int) -> None:
    if kept.ndim != 1 or kept.size == 0 or not np.issubdtype(kept.dtype, np.integer):
        raise BadInput(f"{axis} must be a non-empty list of whole numbers.")
    if kept.min() < 0 or kept.max() >= size:
        raise BadInput(
            f"{axis} has indices from {kept.min()} to {kept.max()}, but the teacher has only "
            f"0 to {size - 1}."
        )


def _check_groups(spec: ArchSpec, heads: np.ndarray, kv_heads: np.ndarray) -> None:
    # Head i of the cut attends with its key/value head i // group; that must be the one which
    # it attended with in the teacher.
    group, rest = divmod(len(heads), len(kv_heads))
    if rest or np.any(heads // spec.group != np.repeat(kv_heads, group)):
        raise BadInput(
            f"Query heads {heads.tolist()} do not match key/value heads {kv_heads.tolist()}: the "
            f"teacher has {spec.group} query heads per key/value head; keep whole groups, in order."
        )


def _cut_config(config: Any, spec: ArchSpec, choice: ConsistentChoice) -> Any:
    """The teacher's config with the student's dimensions."""
    small = copy.deepcopy(config)
    row = spec.architecture
    sizes = {
        "num_hidden_layers": len(choice.layers),
        "hidden_size": len(choice.resid),
        "num_attention_heads": len(choice.heads[0]),
        "intermediate_size": len(choice.ffn[0]),
    }
    if row.grouped:
        sizes["num_key_value_heads"] = len(choice.kv_heads[0])
    if row.free_heads:
        sizes["head_dim"] = spec.head_dim  # otherwise derived from the new width, which is wrong
    for name, size in sizes.items():
        setattr(small, row.keys.get(name, name), size)
    for name in _PER_LAYER:
        if own := getattr(config, name, None):
            setattr(small, name, [own[layer] for layer in choice.layers])
    return small


def _origin(
    spec: ArchSpec, choice: ConsistentChoice, name: str
) -> tuple[str, tuple[Axis, ...], int]:
    """Where a student's weight comes from: teacher name, axes, and the student's layer."""
    row = spec.architecture
    outside: dict[str, tuple[Axis, ...]] = {
        f"{row.embed}.weight": ("vocab", "resid"),
        f"{row.head}.weight": ("vocab", "resid"),
        f"{row.head}.bias": ("vocab",),
        f"{row.positions}.weight": ("positions", "resid"),
        f"{row.final_norm}.weight": ("resid",),
        f"{row.final_norm}.bias": ("resid",),
    }
    if name in outside:
        return name, outside[name], 0  # no layer: these axes are the same in all
    inside: dict[str, tuple[Axis, ...]] = {}
    for suffix, axis in row.vectors.items():
        inside[f"{suffix}.weight"] = inside[f"{suffix}.bias"] = (axis,)
    for matrix in row.matrices:
        inside[f"{matrix.suffix}.weight"] = (matrix.out, matrix.into)
        inside[f"{matrix.suffix}.bias"] = (matrix.out,)
    layer = spec.layer_of(name)
    suffix = "" if layer is None else name.removeprefix(f"{row.layers}.{layer}.")
    if layer is None or suffix not in inside:
        raise Unsupported(f"Weight {name!r} is not described for {spec.model_type} models.")
    return f"{row.layers}.{choice.layers[layer]}.{suffix}", inside[suffix], layer


def _slice(weight: Tensor, axes: tuple[Axis, ...], place: int, choice: ConsistentChoice) -> Tensor:
    import torch

    for dim, axis in enumerate(axes):
        if axis not in WHOLE_AXES:
            kept = torch.from_numpy(np.ascontiguousarray(choice.index(axis, place)))
            weight = weight.index_select(dim, kept.to(weight.device))
    return weight

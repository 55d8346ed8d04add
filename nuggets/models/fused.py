"""One module per role: fused and transposed projections are taken apart in memory.

Phi-3 keeps queries, keys and values in one matrix, GPT-NeoX interleaves them head by head, GPT-2
stores its matrices `[in, out]`. Taken apart once after loading, everything else (sensitivity,
plans, LoRA, cuts) sees plain `nn.Linear` modules `[out, in]` with one role each, and the model
computes the same function. Before a model is saved it is put together again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import transformers  # its parts are imported when they are first used
from jaxtyping import Float
from torch import Tensor, nn

from nuggets.models.architecture import ArchSpec, Matrix
from nuggets.models.layout import place_of, stored_rows


class FusedLinear(nn.Module):
    """Several `nn.Linear`, one per role, in the place of one; the output is laid out as before."""

    def __init__(self, parts: Mapping[str, nn.Linear], head_dim: int | None) -> None:
        super().__init__()
        self.roles, self.head_dim = tuple(parts), head_dim
        for role, part in parts.items():
            self.add_module(role, part)

    def forward(self, hidden: Float[Tensor, "*b in"]) -> Float[Tensor, "*b out"]:
        """What the stored module computes: the parts' outputs in blocks or head by head."""
        outputs = [self.get_submodule(role)(hidden) for role in self.roles]
        if self.head_dim is None:
            return torch.cat(outputs, dim=-1)
        heads = [output.unflatten(-1, (-1, self.head_dim)) for output in outputs]
        return torch.cat(heads, dim=-1).flatten(-2)


def split_fused(model: Any, spec: ArchSpec) -> Any:
    """Gives every role of a model a Linear of its own, in place; the function stays the same.

    Args:
        model: a causal language model as transformers builds it, or one split already.
        spec: its dimensions.

    Returns:
        The model. Fused modules appear under `ArchSpec.module`'s names, such as `….qkv_proj.q`.
    """
    for parent, name, mates in _stored_modules(model, spec):
        stored = getattr(parent, name)
        if _is_split(stored, mates):
            continue
        weight = stored.weight.detach().T if mates[0].transposed else stored.weight.detach()
        parts = {m.role: _part(stored, weight, _rows(spec, m)) for m in mates}
        if mates[0].layout == "alone":
            setattr(parent, name, parts[mates[0].role])
        else:
            setattr(parent, name, FusedLinear(parts, _head_dim(spec, mates)))
    return model


def join_fused(model: Any, spec: ArchSpec) -> Any:
    """Undoes `split_fused`, in place: the model is as transformers builds it, and can be saved."""
    for parent, name, mates in _stored_modules(model, spec):
        module = getattr(parent, name)
        if _is_split(module, mates):
            fused = isinstance(module, FusedLinear)
            parts = [module.get_submodule(m.role) for m in mates] if fused else [module]
            setattr(parent, name, _whole(spec, mates, parts))
    return model


@contextmanager
def stored_layout(model: Any, spec: ArchSpec) -> Iterator[Any]:
    """The model as transformers builds it, for saving; afterwards one module per role again."""
    try:
        yield join_fused(model, spec)
    finally:
        split_fused(model, spec)


def stored_factors(
    weights: Mapping[str, tuple[Tensor, Tensor]], scales: Mapping[str, float], spec: ArchSpec
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, float]]:
    """LoRA factors of single roles as factors of the modules that files hold.

    Roles that share a module stack their A; their B stand in their own rows, and are zero in the
    others' (block-diagonal), so the product is exactly the roles' products in their places. The
    rank of the module is the sum of its roles' ranks. PEFT has one `alpha / r` per module: that of
    the first role, into which the others' B are scaled.

    Args:
        weights: module per role → `(A [r, in], B [out, r])`.
        scales: module per role → `alpha / r`.
        spec: of the student.
    """
    places = {name: place_of(spec, name) for name in weights}
    found: dict[str, tuple[Tensor, Tensor]] = {}
    factors: dict[str, float] = {}
    heights = _heights(spec)
    for name, (a, b) in weights.items():
        module, rows, _ = places[name]
        if rows is None:
            found[module], factors[module] = (a, b), scales[name]
            continue
        scale = factors.setdefault(module, scales[name])
        whole = b.new_zeros(heights[module], b.shape[1])
        whole[torch.from_numpy(rows).to(b.device)] = b * (scales[name] / scale)
        if module in found:
            a, whole = torch.cat([found[module][0], a]), torch.cat([found[module][1], whole], dim=1)
        found[module] = (a, whole)
    return found, factors


def _heights(spec: ArchSpec) -> dict[str, int]:
    """Stored module → its number of rows `[out, in]`."""
    heights: dict[str, int] = {}
    for module, role, _ in spec.modules():
        stored = place_of(spec, module).module
        heights[stored] = heights.get(stored, 0) + spec.shape(role)[0]
    return heights


def _stored_modules(model: Any, spec: ArchSpec) -> Iterator[tuple[nn.Module, str, tuple[Any, ...]]]:
    """Every stored module that is fused or transposed: its parent, its name there, its roles."""
    row = spec.architecture
    names = dict.fromkeys(m.stored for m in row.matrices if m.transposed or m.layout != "alone")
    for layer in range(spec.n_layers if names else 0):
        for stored in names:
            path, _, name = f"{row.layers}.{layer}.{stored}".rpartition(".")
            yield model.get_submodule(path), name, row.sharing(stored)


def _is_split(module: nn.Module, mates: tuple[Matrix, ...]) -> bool:
    alone = mates[0].layout == "alone"
    return not isinstance(module, transformers.Conv1D) if alone else isinstance(module, FusedLinear)


def _rows(spec: ArchSpec, matrix: Matrix) -> Tensor:
    return torch.from_numpy(stored_rows(spec, matrix))


def _head_dim(spec: ArchSpec, mates: tuple[Matrix, ...]) -> int | None:
    return spec.head_dim if mates[0].layout == "heads" else None


def _part(stored: Any, weight: Tensor, rows: Tensor) -> nn.Linear:
    """A role's rows of a stored module as a Linear of their own."""
    rows = rows.to(weight.device)
    bias = None if stored.bias is None else stored.bias.detach()[rows]
    return _linear(weight[rows], bias)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.contiguous())
    if bias is not None:
        linear.bias = nn.Parameter(bias)
    return linear


def _whole(spec: ArchSpec, mates: tuple[Matrix, ...], parts: list[Any]) -> nn.Module:
    """The stored module that the parts make up."""
    order = torch.cat([_rows(spec, matrix) for matrix in mates]).argsort()
    weight = torch.cat([part.weight.detach() for part in parts])
    weight = weight[order.to(weight.device)]
    biased = parts[0].bias is not None
    bias = torch.cat([p.bias.detach() for p in parts])[order.to(weight.device)] if biased else None
    if not mates[0].transposed:
        return _linear(weight, bias)
    whole = transformers.Conv1D(weight.shape[0], weight.shape[1])
    whole.weight = nn.Parameter(weight.T.contiguous())
    whole.bias = nn.Parameter(torch.zeros(len(weight)) if bias is None else bias)
    return whole

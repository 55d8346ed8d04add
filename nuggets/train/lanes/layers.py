"""Layers that compute many lanes at once; a lane is one arm with one seed.

Every batch holds the rows of lane 0, then those of lane 1, and so on: `[lanes * rows, ...]`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import embedding, layer_norm, linear

from nuggets.data.samples import IGNORED


@dataclass(eq=False)
class LaneDropout:
    """LoRA dropout whose numbers are those that each lane would draw if it were trained alone.

    Attributes:
        p: probability of dropping an input.
        generators: one per lane.
        shapes: rows and columns of each lane's own batch, without what only fills up the stack.
        answers: of each lane, its answer tokens that the head has not read yet.
    """

    p: float
    generators: list[torch.Generator]
    shapes: list[tuple[int, int]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)

    def begin(self, labels: Sequence[Tensor]) -> None:
        """Prepares for a batch, from each lane's own labels `[rows, length of the lane]`."""
        self.shapes = [(lane.shape[0], lane.shape[1]) for lane in labels]
        # The head reads answer tokens alone, in a row, and at least one position.
        self.answers = [
            max(min(1, len(lane)), int((lane[:, 1:] != IGNORED).sum())) for lane in labels
        ]

    def __call__(self, x: Tensor) -> Tensor:
        """Drops entries of `[lanes, rows, columns, features]` and scales what stays."""
        return self._drop(x, self.shapes)

    def before_head(self, x: Tensor) -> Tensor:
        """Likewise of the next answers `[lanes, 1, some, features]` that the head reads."""
        some = x.shape[2]
        shapes = [(1, min(some, left)) for left in self.answers]
        self.answers = [max(0, left - some) for left in self.answers]
        return self._drop(x, shapes)

    def _drop(self, x: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        keep = torch.zeros_like(x)
        for lane, (rows, columns) in enumerate(shapes):
            if rows * columns == 0:
                continue  # alone, the lane would have ended by now
            # Numbers are drawn in the shape that the lane's batch has when it is alone, not in
            # the stack's: so its generator gives it the same ones, whoever trains beside it.
            drawn = x.new_empty(rows, columns, x.shape[3])
            drawn.bernoulli_(1 - self.p, generator=self.generators[lane])
            keep[lane, :rows, :columns] = drawn  # the padding keeps its zeros: nothing reads it
        return x * keep.div_(1 - self.p)


@dataclass(eq=False)
class LaneAdapter:
    """LoRA factors of all lanes for one module.

    Attributes:
        a: `[lanes, r, in]`, trained.
        b: `[lanes, out, r]`, trained.
        scale: alpha / r.
        initial: `(A₀, B₀)` that are subtracted from the base, likewise stacked: the frozen half
            that lets all lanes share the untouched student. None where no lane has one, or
            where lanes have bases of their own.
    """

    a: Tensor
    b: Tensor
    scale: float
    initial: tuple[Tensor, Tensor] | None = None

    def halves(self) -> list[tuple[Tensor, Tensor, float]]:
        """`(A, B, factor)` of every product that is added to the base."""
        trained = [(self.a, self.b, self.scale)]
        return trained if self.initial is None else [*trained, (*self.initial, -self.scale)]


class LaneLinear(nn.Module):
    """A linear layer with a LoRA, or a whole weight, of its own for every lane.

    `y = W x + s·B A x − s·B₀ A₀ x`. On a shared base the products are applied to the inputs.
    With `merge` they are added to the weights first: two calls instead of three or five, at the
    price of a full weight and its gradient per lane. That pays where a model is small and its
    time goes into calls.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        adapter: LaneAdapter | None,
        n_lanes: int,
        dropout: Callable[[Tensor], Tensor] | None,
        *,
        merge: bool,
    ) -> None:
        super().__init__()
        self.weight = _as_parameter(weight)
        self.bias = None if bias is None else _as_parameter(bias)
        self.adapter, self.n_lanes, self.dropout, self.merge = adapter, n_lanes, dropout, merge

    def forward(self, x: Tensor) -> Tensor:
        """Applies every lane to its rows."""
        lanes = x.reshape(self.n_lanes, -1, x.shape[-1])  # [lanes, rows · tokens, in]
        y = self._merged(lanes) if self.merge else self._shared(x, lanes)
        if self.bias is not None:  # [out], or [lanes, out] where each lane has its own
            y = y + (self.bias if self.bias.ndim == 1 else self.bias[:, None])
        return y.reshape(*x.shape[:-1], y.shape[-1])

    def _merged(self, x: Tensor) -> Tensor:
        weight = self.weight.expand(self.n_lanes, -1, -1)  # [lanes, out, in], shared or not
        for a, b, scale in self.adapter.halves() if self.adapter else ():
            weight = torch.baddbmm(weight, b, a, alpha=scale)
        return torch.bmm(x, weight.transpose(1, 2))

    def _shared(self, whole: Tensor, x: Tensor) -> Tensor:
        """`whole` is `[lanes · rows, tokens, in]`, and `x` the same numbers lane by lane."""
        assert self.adapter is not None
        y = linear(x, self.weight)  # one product for all lanes
        for a, b, scale in self.adapter.halves():
            seen = x.to(a.dtype)  # as PEFT: factors may be float32 on a base in half precision
            # Dropout is for what is trained (scale > 0). The frozen half stands for a part of the
            # base, whose inputs are never dropped.
            if self.dropout is not None and self.training and scale > 0:
                by_row = seen.reshape(self.n_lanes, -1, *whole.shape[1:])
                seen = self.dropout(by_row).reshape(x.shape)
            hidden = torch.bmm(seen, a.transpose(1, 2))  # [lanes, rows · tokens, r]
            y = torch.baddbmm(y.to(hidden.dtype), hidden, b.transpose(1, 2), alpha=scale)
        # Under autocast a linear layer gives half precision whatever it was given: so do we.
        return y.to(x.dtype) if not torch.is_autocast_enabled(x.device.type) else y


class LaneEmbedding(nn.Module):
    """An embedding with a LoRA, or a whole table, of its own for every lane.

    PEFT's factors of an embedding are those of its transpose: A `[r, vocab]`, B `[hidden, r]`.
    """

    def __init__(
        self, weight: Tensor, padding: int | None, adapter: LaneAdapter | None, n_lanes: int
    ) -> None:
        super().__init__()
        self.weight, self.padding = _as_parameter(weight), padding
        self.adapter, self.n_lanes = adapter, n_lanes

    def forward(self, ids: Tensor) -> Tensor:
        """Looks up every lane's rows in the lane's own table."""
        lanes = ids.reshape(self.n_lanes, -1)
        y = self._table(lanes)
        for a, b, scale in self.adapter.halves() if self.adapter else ():
            # Columns of A, one per token: [lanes, r, rows · tokens], then tokens before ranks.
            index = lanes[:, None].expand(-1, a.shape[1], -1)
            hidden = a.gather(2, index).transpose(1, 2)
            hidden = self._without_padding(hidden, lanes)
            y = torch.baddbmm(y, hidden, b.transpose(1, 2), alpha=scale)
        return y.reshape(*ids.shape, y.shape[-1])

    def _table(self, lanes: Tensor) -> Tensor:
        if self.weight.ndim == 2:
            return embedding(lanes, self.weight)
        # All tables under each other are one table of lanes · vocab rows: one look-up serves all.
        start = torch.arange(self.n_lanes, device=lanes.device) * self.weight.shape[1]
        rows = embedding(lanes + start[:, None], self.weight.flatten(0, 1))
        return self._without_padding(rows, lanes)

    def _without_padding(self, rows: Tensor, ids: Tensor) -> Tensor:
        """As torch's own embedding: the padding token gets no gradient."""
        if self.padding is None or not rows.requires_grad:
            return rows
        return torch.where((ids == self.padding)[..., None], rows.detach(), rows)


class LaneVectors(nn.Module):
    """Any module whose parameters are vectors, such as a norm, with its own for every lane."""

    def __init__(self, module: nn.Module, values: dict[str, Tensor], n_lanes: int) -> None:
        super().__init__()
        self.n_lanes = n_lanes
        # Bound, since as an attribute the module's parameters would be parameters of this one.
        self._compute: Callable[..., Any] = partial(_computation(module, n_lanes), module)
        for name, value in values.items():
            setattr(self, name, _as_parameter(value))
        self._names = list(values)

    def forward(self, x: Tensor) -> Tensor:
        """Gives every row the vectors of its lane, broadcast over what stands between."""
        rows = x.shape[0] // self.n_lanes
        middle = [1] * (x.ndim - 2)  # tokens; in a norm of queries and keys also heads
        vectors = {}
        for name in self._names:
            value = getattr(self, name)  # [lanes, features]
            per_row = value[:, None].expand(-1, rows, -1)
            vectors[name] = per_row.reshape(x.shape[0], *middle, value.shape[-1])
        return self._compute(vectors, (x,))


def _computation(module: nn.Module, n_lanes: int) -> Callable[..., Any]:
    """How a module is given vectors per row."""
    if not isinstance(module, nn.LayerNorm):
        return functional_call
    # A subclass may do something of its own with them, as Nemotron's adds 1 to its weight.
    return _layer_norm if type(module) is nn.LayerNorm else partial(_lane_by_lane, n_lanes)


def _lane_by_lane(
    n_lanes: int, module: nn.Module, vectors: dict[str, Tensor], args: tuple[Tensor]
) -> Tensor:
    """The module on one lane's rows after the other, for kernels that take one vector for all."""
    lanes = args[0].chunk(n_lanes)
    rows = len(lanes[0])
    own = [{name: v[i * rows].flatten() for name, v in vectors.items()} for i in range(n_lanes)]
    return torch.cat([functional_call(module, *given) for given in zip(own, lanes, strict=True)])


def _layer_norm(module: nn.LayerNorm, vectors: dict[str, Tensor], args: tuple[Tensor]) -> Tensor:
    """As `functional_call`; torch's own takes one weight and bias for all rows."""
    y = layer_norm(args[0], module.normalized_shape, eps=module.eps) * vectors["weight"]
    return y + vectors["bias"] if "bias" in vectors else y


def _as_parameter(value: Tensor) -> nn.Parameter:
    """A tensor as a module's parameter: trained values are leaves already, others are frozen."""
    return value if isinstance(value, nn.Parameter) else nn.Parameter(value, requires_grad=False)

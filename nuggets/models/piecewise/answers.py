"""What a model says where answer tokens are predicted, some positions at a time.

With a real vocabulary the logits of a batch, and what a loss makes of them, are the largest thing
in memory: 16 × 512 tokens of 49,152 words take 1.6 GB, four times over. Only positions that predict
an answer token reach the head here, a chunk of them at once. The chunk's gradient is taken as soon
as its loss is known, so that nothing is computed twice.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from nuggets.data.samples import IGNORED
from nuggets.models.forward import replaced_forward
from nuggets.models.piecewise.chunks import positions_at_once

R = TypeVar("R")

Judge = Callable[[Tensor, Tensor, slice], Tensor]
"""`(logits [lanes, some, vocab] in float32, targets [lanes, some], their places)` → a number for
each position `[lanes, some]`; finite where the target is `IGNORED`, which counts nothing."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What the head reads where answer tokens are predicted, and the head.

    Attributes:
        states: `[lanes, most, hidden]`, each lane's positions row by row; a lane that has fewer
            than the others is filled up.
        targets: the tokens `[lanes, most]`, `IGNORED` where a lane is filled up.
        head: states `[lanes, some, hidden]` → logits, with whatever scales or caps them.
        at_once: positions per chunk.
    """

    states: Tensor
    targets: Tensor
    head: Callable[[Tensor], Tensor]
    at_once: int

    def chunks(self) -> Iterator[slice]:
        """The places of all positions, in order."""
        for start in range(0, self.targets.shape[1], self.at_once):
            yield slice(start, start + self.at_once)

    def logits(self, at: slice, states: Tensor | None = None) -> Tensor:
        """Float32 logits `[lanes, some, vocab]` of a chunk, perhaps of other states than ours."""
        return self.head(self.states[:, at] if states is None else states).float()

    def means(self, judge: Judge, totals: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean of what a judge says of each lane's answer tokens; 0 for a lane without any.

        Args:
            judge: of single positions.
            totals: answer tokens `[lanes]` that the means are of, where these are a part of them.

        Returns:
            The sum over lanes, which can be differentiated, and the means `[lanes]`.
        """
        answers = self.targets != IGNORED
        totals = answers.sum(1) if totals is None else totals
        weights = answers / totals[:, None].clamp(min=1)
        means = weights.new_zeros(len(weights))
        gradients = _Gradients(self.states)
        for at in self.chunks():
            states = gradients.leaf(at)
            values = judge(self.logits(at, states), self.targets[:, at], at)
            shares = (values * weights[:, at]).sum(1)
            means += shares.detach()
            gradients.add(shares.sum(), at, states)
        return gradients.attach(means.sum()), means


def at_answers(
    model: Any,
    input_ids: Tensor,
    labels: Tensor,
    work: Callable[[Answers], R],
    n_lanes: int = 1,
) -> R:
    """Gives `work` what the model says of a batch's answers, inside the model's forward pass.

    Inside, since whoever wraps the model (PEFT, DistributedDataParallel) prepares for it there.

    Args:
        model: a causal language model of transformers, wrapped or not.
        input_ids: `[items, length]`, the rows of one lane after those of the other.
        labels: likewise.
        work: what is done.
        n_lanes: number of lanes.
    """
    causal = _causal(model)
    head = head_of(causal)

    def forward(*_: Any, **__: Any) -> R:
        return work(_read(causal, head, input_ids, labels, n_lanes))

    with replaced_forward([causal], forward):
        return model(input_ids=input_ids)


def answers_of(model: Any, input_ids: Tensor, labels: Tensor, n_lanes: int = 1) -> Answers:
    """What a model says of a batch's answers; changes nothing of the model meanwhile.

    So threads may share it, which `at_answers` does not allow.
    """
    causal = _causal(model)
    return _read(causal, head_of(causal), input_ids, labels, n_lanes)


def _read(
    causal: Any, head: Callable[[Tensor], Tensor], input_ids: Tensor, labels: Tensor, n_lanes: int
) -> Answers:
    places, targets = _places(labels, n_lanes)
    states = causal.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
    packed = states.flatten(0, 1).index_select(0, places.flatten())
    size = positions_at_once(causal.config.vocab_size, states.device.type)
    return Answers(packed.view(*places.shape, -1), targets, head, size)


def head_of(model: Any) -> Callable[[Tensor], Tensor]:
    """A model's own head: states that left its final norm → logits, scaled or capped as it does."""
    causal = _causal(model)

    def head(states: Tensor) -> Tensor:
        # Its class's forward pass on a copy that shares all but the decoder: the model itself,
        # which other threads may be asking, stays as it is.
        own = copy.copy(causal)
        vars(own)["_modules"] = {**causal._modules, causal.base_model_prefix: _Given(states)}
        return type(own).forward(own, use_cache=False).logits

    return head


class _Given(nn.Module):
    """In place of a decoder: states that are known already."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states

    def forward(self, *_: Any, **__: Any) -> Any:
        """These states, as a decoder hands them on."""
        from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions as Out

        return Out(last_hidden_state=self.states)  # type: ignore[arg-type]


def _causal(model: Any) -> Any:
    """The model of transformers inside whatever wraps it."""
    from transformers import PreTrainedModel

    return next(each for each in model.modules() if isinstance(each, PreTrainedModel))


def _places(labels: Tensor, n_lanes: int) -> tuple[Tensor, Tensor]:
    """Where the flattened batch predicts answers, and the answers; both `[lanes, most]`."""
    following = pad(labels[:, 1:], (0, 1), value=IGNORED).reshape(n_lanes, -1)
    silent = following == IGNORED
    most = max(1, int((~silent).sum(1).max()))
    inside = silent.to(torch.uint8).argsort(dim=1, stable=True)[:, :most]  # answers come first
    starts = torch.arange(n_lanes, device=labels.device)[:, None] * following.shape[1]
    return starts + inside, following.gather(1, inside)


class _Gradients:
    """Gradients of a sum of chunks: of the states, and of whatever the head trains."""

    def __init__(self, states: Tensor) -> None:
        self.states, self.on = states, torch.is_grad_enabled()
        self.of_states = torch.empty_like(states) if self.on and states.requires_grad else None
        self.of_head: dict[Tensor, Tensor] = {}

    def leaf(self, at: slice) -> Tensor:
        """A chunk of the states, cut off from what made them."""
        return self.states[:, at].detach().requires_grad_(self.of_states is not None)

    def add(self, loss: Tensor, at: slice, states: Tensor) -> None:
        """Differentiates a chunk's loss; what it was computed from can be forgotten then."""
        if not self.on or not loss.requires_grad:
            return
        trained = [leaf for leaf in _leaves(loss) if leaf is not states]
        wanted = trained if self.of_states is None else [*trained, states]
        found = torch.autograd.grad(loss, wanted)
        if self.of_states is not None:
            self.of_states[:, at] = found[-1]
        for leaf, gradient in zip(trained, found, strict=False):
            # Float32, as one product over all positions would add them up in half precision.
            known = self.of_head.get(leaf)
            self.of_head[leaf] = gradient.float() if known is None else known.add_(gradient)

    def attach(self, value: Tensor) -> Tensor:
        """The value of the whole sum, with these gradients."""
        known = [(leaf, gradient.to(leaf.dtype)) for leaf, gradient in self.of_head.items()]
        if self.of_states is not None:
            known.append((self.states, self.of_states))
        if not known:
            return value
        return _Known.apply(
            value, [gradient for _, gradient in known], *(leaf for leaf, _ in known)
        )


class _Known(torch.autograd.Function):
    """A number whose gradients were computed together with it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *_: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> Any:
        gradients, ctx.gradients = ctx.gradients, None  # in place, and therefore once
        assert gradients is not None, "this loss was differentiated before"
        return None, None, *(gradient.mul_(given[0]) for gradient in gradients)


def _leaves(value: Tensor) -> Iterator[Tensor]:
    """Whatever a value was computed from that asks for a gradient of its own."""
    seen: set[Any] = set()
    waiting = [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            yield leaf
        waiting += [before for before, _ in node.next_functions]

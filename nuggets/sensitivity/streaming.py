"""Sensitivity of a model that does not fit into memory: one block at a time, from its files.

Forward, block after block, all samples each, keeping only what stands between blocks; loss and
gradient per sample at the head; then the blocks in reverse: each is loaded once, computed again,
differentiated, scored and discarded. Every operation is the one that the whole model would do, on
the same numbers in the same order: in float32 the map equals that of hooks bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nuggets.amounts import size
from nuggets.compute.device import free_memory
from nuggets.compute.memory import trim_heap
from nuggets.data.samples import Encoded
from nuggets.models.forward import pad_right, reading_states
from nuggets.models.pair import read_spec
from nuggets.models.piecewise.boundaries import Boundaries, InMemory, OnDisk
from nuggets.models.references import ModelRef
from nuggets.models.streamed import Pass, StreamedModel
from nuggets.progress import InMemoryProgress, Progress
from nuggets.sensitivity.accumulate import Hooks, Keep, MapParts, check_asked, check_loss
from nuggets.sensitivity.footprint import spills, state_bytes
from nuggets.sensitivity.maps import SensitivityMap
from nuggets.sensitivity.scores import Score, ThetaGrad

_GRADIENT = "gradient"


@torch.enable_grad()
def stream_sensitivity(
    ref: ModelRef,
    encoded: Sequence[Encoded],
    score: Score | None = None,
    keep: Keep = "full",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    parts: MapParts | None = None,
    progress: Progress | None = None,
    meta: Mapping[str, Any] | None = None,
    spill: Path | None = None,
) -> SensitivityMap:
    """As `compute_sensitivity`, with no more than one block of the model in memory.

    Beside the block there are its gradients (one at a time) and its part of the map. The states
    between blocks, samples × tokens × width × (layers + 1) numbers, are held in the machine's
    memory or, where half of what is free does not hold them, on its disk: the same bits.

    Args:
        ref: a model in safetensors, on this machine or on the hub.
        encoded: `(input_ids, labels)` per sample; the loss is on response tokens only.
        score: what is summed; |θ · g| when not given.
        keep: `full` keeps every entry, `sums` only row and column sums.
        dtype: of weights, activations and gradients; scores are summed in float32.
        device: where a block computes.
        parts: where finished matrices go; in memory when not given. `MapWriter` writes each to
            disk at once.
        progress: ticks per block, forward and back; can cancel.
        meta: stored with the map.
        spill: a folder on a disk with room for those states; they stay in memory when not given.

    Raises:
        BadInput: if there is no sample, or the model cannot be found.
        Unsupported: if the weights cannot be read one by one.
        Damaged: if the weights are not those that the config describes, or not finite.
        NonFinite: if a sample's loss or a parameter's score is not finite, naming it.
        NuggetsError: if a parameter received no gradient (a hook did not fire).
    """
    check_asked(encoded, score)
    parts = MapParts() if parts is None else parts
    device, progress = torch.device(device), progress or InMemoryProgress()
    with _kept_in(spill, ref, encoded, dtype, progress) as between:
        stream = _Stream(ref, dtype, device, encoded, score or ThetaGrad(), keep, parts, between)
        parts.begin(stream.spec, stream.names, len(encoded))
        steps = list(stream.steps())
        for done, (step, arguments) in enumerate(steps):
            progress.check_cancelled()
            step(*arguments)
            progress.progress(done + 1, len(steps), "blocks, forward and back")
    return parts.finish(stream.spec, stream.score.kind, stream.names, meta or {})


@contextmanager
def _kept_in(
    folder: Path | None,
    ref: ModelRef,
    encoded: Sequence[Encoded],
    dtype: torch.dtype,
    progress: Progress,
) -> Iterator[Boundaries]:
    """Where states between blocks are kept: in memory if it holds them."""
    needed = state_bytes(read_spec(ref), [len(ids) for ids, _ in encoded], dtype.itemsize)
    if folder is None or not spills(needed, free_memory("cpu")):
        yield InMemory()
        return
    progress.log(f"States between blocks are kept on disk: {size(needed, digits=3)}.")
    with closing(OnDisk(folder)) as kept:
        yield kept


class _Stream(StreamedModel):
    """The passes over one model that score its parameters."""

    def __init__(
        self,
        ref: ModelRef,
        dtype: torch.dtype,
        device: torch.device,
        encoded: Sequence[Encoded],
        score: Score,
        keep: Keep,
        parts: MapParts,
        between: Boundaries,
    ) -> None:
        super().__init__(ref, dtype, device, between)
        self.score, self.parts = score, parts
        self.keep: Keep = keep
        self.samples = [Pass(*pad_right([sample], device)) for sample in encoded]

    def steps(self) -> Iterator[tuple[Any, tuple[int, ...]]]:
        """Every step in its order, with its arguments."""
        order = range(self.spec.n_layers)
        yield self.enter, ()
        yield from ((self.forward, (layer,)) for layer in order)
        yield self.leave, ()
        yield from ((self.backward, (layer,)) for layer in reversed(order))
        yield self.finish, ()

    def leave(self) -> None:
        """Loss of every sample; scores the final norm and the head, unless it is tied."""
        with self.loaded(self.tail, check=True) as named:
            # A tied head's gradient is one half of the embedding's; `finish` takes both together.
            untied = {name: p for name, p in named.items() if name not in self.front}
            with Hooks(untied, self.score, self.keep) as hooks:
                for index, sample in enumerate(self.samples):
                    # A leaf: ∂L/∂states is what the block below will be differentiated with.
                    states = self._leaving(index).requires_grad_()
                    loss = self.loss(sample, states)
                    check_loss(loss, index)
                    loss.backward()
                    if not self.spec.tied:  # a tied head asks for them once more
                        self.between.drop((self.spec.n_layers, index))
                    self._hand_down(index, states)
                    hooks.check_fired(index)
            self.parts.take(hooks.sums.values())

    def backward(self, layer: int) -> None:
        """Computes one block again, for all samples, and scores its parameters."""
        with self.loaded(self.of_layer(layer)) as named:
            with Hooks(named, self.score, self.keep) as hooks:
                for index, sample in enumerate(self.samples):
                    states = self.between.take((layer, index), self.device).requires_grad_()
                    # The chain rule, a block at a time: ∂L/∂out goes in, ∂L/∂in comes out, and
                    # the hooks see ∂L/∂θ of this block on the way.
                    self.block(layer, sample, states).backward(self._gradient(index))
                    self.between.drop((layer, index))  # no block below asks for it again
                    self._hand_down(index, states)
                    hooks.check_fired(index)
            self.parts.take(hooks.sums.values())

    def finish(self) -> None:
        """Scores the embedding; a tied one takes part in every loss twice."""
        trim_heap()  # the states between blocks are gone, and this is the largest part
        names = self.front + [name for name in self.tail if name not in self.front]
        with self.loaded(names if self.spec.tied else self.front) as named:
            front = {name: named[name] for name in self.front}
            with Hooks(front, self.score, self.keep) as hooks:
                for index, sample in enumerate(self.samples):
                    # Both uses of a tied weight in one backward pass, so that its hook sees their
                    # sum: |g₁ + g₂| is the score, not |g₁| + |g₂|.
                    ends: list[Tensor] = [self.embed(sample)]
                    gradients: list[Tensor | None] = [self._gradient(index)]
                    if self.spec.tied:
                        ends.append(self.loss(sample, self._leaving(index)))
                        gradients.append(None)
                    torch.autograd.backward(ends, gradients)
                    hooks.check_fired(index)
            self.parts.take(hooks.sums.values())

    def _leaving(self, index: int) -> Tensor:
        """What leaves the last block."""
        return self.between.take((self.spec.n_layers, index), self.device)

    def _gradient(self, index: int) -> Tensor:
        """Of a sample's loss, with respect to what leaves the block that comes next on the way."""
        return self.between.take((_GRADIENT, index), self.device)

    def _hand_down(self, index: int, states: Tensor) -> None:
        """Keeps a sample's gradient for the block below."""
        assert states.grad is not None
        self.between.put((_GRADIENT, index), states.grad)

    def loss(self, sample: Pass, states: Tensor) -> Tensor:
        """The model's own loss, from the states that leave its last block."""
        with reading_states(self.model, self.spec, states):
            return self.model(input_ids=sample.ids, labels=sample.labels, use_cache=False).loss

"""Sensitivity of a model that does not fit into memory: one block at a time, from its files.

Forward, block after block, all samples each, keeping only what stands between blocks; loss and
gradient per sample at the head; then the blocks in reverse: each is loaded once, computed again,
differentiated, scored and discarded. Every operation is the one that the whole model would do, on
the same numbers in the same order: in float32 the map equals that of hooks bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers  # its parts are imported when they are first used
from torch import Tensor, nn

from nuggets.compute.memory import trim_heap
from nuggets.data.samples import Encoded
from nuggets.models.architecture import ArchSpec
from nuggets.models.forward import blocks_of, pad_right, reading_states, replaced_forward
from nuggets.models.fused import split_fused
from nuggets.models.loading import checked_folder
from nuggets.models.pair import read_spec
from nuggets.models.references import ModelRef
from nuggets.models.stored_weights import StoredWeights
from nuggets.progress import InMemoryProgress, Progress
from nuggets.sensitivity.accumulate import (
    Hooks,
    Keep,
    MapParts,
    check_asked,
    check_loss,
)
from nuggets.sensitivity.maps import SensitivityMap
from nuggets.sensitivity.scores import Score, ThetaGrad

WORDS = 1024
"""Words that go through a block at once."""


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
) -> SensitivityMap:
    """As `compute_sensitivity`, with no more than one block of the model in memory.

    Beside the block, its gradients (one at a time) and its part of the map, the states between
    blocks are held in the machine's memory: samples × tokens × width × (layers + 1) numbers.

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

    Raises:
        BadInput: if there is no sample, or the model cannot be found.
        Unsupported: if the weights cannot be read one by one.
        Damaged: if the weights are not those that the config describes, or not finite.
        NonFinite: if a sample's loss or a parameter's score is not finite, naming it.
        NuggetsError: if a parameter received no gradient (a hook did not fire).
    """
    check_asked(encoded, score)
    parts = MapParts() if parts is None else parts
    stream = _Stream(ref, dtype, torch.device(device), encoded, score or ThetaGrad(), keep, parts)
    parts.begin(stream.spec, stream.names, len(encoded))
    progress = progress or InMemoryProgress()
    steps = list(stream.steps())
    for done, (step, arguments) in enumerate(steps):
        progress.check_cancelled()
        step(*arguments)
        progress.progress(done + 1, len(steps), "blocks, forward and back")
    return parts.finish(stream.spec, stream.score.kind, stream.names, meta or {})


@torch.no_grad()
def stream_words(
    ref: ModelRef, ids: Sequence[int], blocks: int, device: torch.device | str = "cpu"
) -> Tensor:
    """What leaves a block when the model reads one word and nothing else, for many words.

    Args:
        ref: a model in safetensors; one block of it is in memory at a time.
        ids: token ids of the words.
        blocks: how many blocks they go through.
        device: where a block computes.

    Returns:
        float32 `[words, hidden]`.

    Raises:
        Unsupported: if the weights cannot be read one by one.
        Damaged: if the weights are not those that the config describes, or not finite.
    """
    device = torch.device(device)
    stream = _Stream(ref, torch.float32, device, (), ThetaGrad(), "sums", MapParts())
    parts = torch.tensor(ids, device=device).split(WORDS)
    stream.samples = [_SamplePass(part[:, None], part[:, None]) for part in parts]
    stream.enter()
    for layer in range(blocks):
        stream.forward(layer)
    return torch.cat([sample.states[-1][:, 0] for sample in stream.samples])


class _Reached(Exception):
    """Ends a forward pass at the point that was of interest."""


@dataclass(eq=False)
class _SamplePass:
    """What one sample's forward pass carries from block to block.

    Attributes:
        ids: token ids `[1, tokens]`, on the device.
        labels: likewise.
        calls: per block, its arguments after the states: masks, positions.
        states: what enters each block `[1, tokens, hidden]`, in the machine's memory.
        leaving: what leaves the last block, where a tied head asks for it once more.
        gradient: of the loss, with respect to the states last looked at, likewise shaped.
    """

    ids: Tensor
    labels: Tensor
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    leaving: Tensor | None = None
    gradient: Tensor | None = None


class _Stream:
    """The passes over one model; at most one part of it holds real weights."""

    def __init__(
        self,
        ref: ModelRef,
        dtype: torch.dtype,
        device: torch.device,
        encoded: Sequence[Encoded],
        score: Score,
        keep: Keep,
        parts: MapParts,
    ) -> None:
        self.ref, self.spec = ref, read_spec(ref)
        self.dtype, self.device, self.score, self.parts = dtype, device, score, parts
        self.keep: Keep = keep
        self.weights = StoredWeights(ref, self.spec)
        self.model = _skeleton(ref, self.spec, dtype, device)
        self.blocks = blocks_of(self.model, self.spec)
        self.names = [name for name, _ in self.model.named_parameters()]
        self.samples = [_SamplePass(*pad_right([sample], device)) for sample in encoded]

    def steps(self) -> Iterator[tuple[Any, tuple[int, ...]]]:
        """Every step in its order, with its arguments."""
        order = range(self.spec.n_layers)
        yield self.enter, ()
        yield from ((self.forward, (layer,)) for layer in order)
        yield self.leave, ()
        yield from ((self.backward, (layer,)) for layer in reversed(order))
        yield self.finish, ()

    @torch.no_grad()
    def enter(self) -> None:
        """Embeds all samples, and learns with which arguments each block is called."""
        with self.loaded(self.front, check=True):
            for sample in self.samples:
                sample.states.append(self.embed(sample).cpu())

    @torch.no_grad()
    def forward(self, layer: int) -> None:
        """Sends all samples through one block."""
        with self.loaded(self.of_layer(layer), check=True):
            for sample in self.samples:
                entering = sample.states[-1].to(self.device)
                sample.states.append(self.block(layer, sample, entering).cpu())

    def leave(self) -> None:
        """Loss of every sample; scores the final norm and the head, unless it is tied."""
        with self.loaded(self.tail, check=True) as named:
            # A tied head's gradient is one half of the embedding's; `finish` takes both together.
            untied = {name: p for name, p in named.items() if name not in self.front}
            with Hooks(untied, self.score, self.keep) as hooks:
                for index, sample in enumerate(self.samples):
                    leaving = sample.states.pop()
                    sample.leaving = leaving if self.spec.tied else None
                    # A leaf: ∂L/∂states is what the block below will be differentiated with.
                    states = leaving.to(self.device).requires_grad_()
                    loss = self.loss(sample, states)
                    check_loss(loss, index)
                    loss.backward()
                    sample.gradient = states.grad
                    hooks.check_fired(index)
            self.parts.take(hooks.sums.values())

    def backward(self, layer: int) -> None:
        """Computes one block again, for all samples, and scores its parameters."""
        with self.loaded(self.of_layer(layer)) as named:
            with Hooks(named, self.score, self.keep) as hooks:
                for index, sample in enumerate(self.samples):
                    states = sample.states[layer].to(self.device).requires_grad_()
                    # The chain rule, a block at a time: ∂L/∂out goes in, ∂L/∂in comes out, and
                    # the hooks see ∂L/∂θ of this block on the way.
                    self.block(layer, sample, states).backward(sample.gradient)
                    sample.gradient = states.grad
                    hooks.check_fired(index)
                    del sample.states[layer:]  # no block below asks for it again
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
                    ends, gradients = [self.embed(sample)], [sample.gradient]
                    if self.spec.tied and sample.leaving is not None:
                        ends.append(self.loss(sample, sample.leaving.to(self.device)))
                        gradients.append(None)
                    torch.autograd.backward(ends, gradients)
                    hooks.check_fired(index)
            self.parts.take(hooks.sums.values())

    @property
    def front(self) -> list[str]:
        """Parameters that are used before the first block."""
        tail = self.tail
        embed = f"{self.spec.architecture.embed}.weight"
        outside = [name for name in self.names if self.spec.layer_of(name) is None]
        return [name for name in outside if name not in tail or name == embed]

    @property
    def tail(self) -> list[str]:
        """Parameters that are used after the last block; a tied head is the embedding's."""
        row = self.spec.architecture
        starts = (f"{row.final_norm}.", f"{row.head}.")  # a tied head may have a bias of its own
        starts += (f"{row.embed}.",) if self.spec.tied else ()
        return [name for name in self.names if name.startswith(starts)]

    def of_layer(self, layer: int) -> list[str]:
        """Parameters of one block."""
        return [name for name in self.names if self.spec.layer_of(name) == layer]

    @contextmanager
    def loaded(self, names: list[str], *, check: bool = False) -> Iterator[dict[str, nn.Parameter]]:
        """Puts real weights in place of the empty ones, and takes them away again."""
        empty = {name: self.model.get_parameter(name) for name in names}
        named = {}
        for name in names:
            # Checked on the way forward only: the way back reads the same bytes again.
            read = self.weights.finite(name, self.ref.source) if check else None
            read = self.weights.parameter(name) if read is None else read
            # Contiguous, as in a loaded model: a view of a fused matrix may compute otherwise.
            tensor = read.to(self.device, self.dtype).contiguous()
            named[name] = nn.Parameter(tensor, requires_grad=False)
        self._place(named)
        try:
            yield named
        finally:
            self._place(empty)

    def _place(self, named: Mapping[str, nn.Parameter]) -> None:
        for name, parameter in named.items():
            module, _, kind = name.rpartition(".")
            setattr(self.model.get_submodule(module), kind, parameter)
            if self.spec.tied and module == self.spec.architecture.embed:
                self.model.get_submodule(self.spec.architecture.head).weight = parameter

    def embed(self, sample: _SamplePass) -> Tensor:
        """What enters the first block; records the arguments of every block on the way."""
        sample.calls.clear()
        entered: list[Tensor] = []

        # The model's own forward makes masks and rotations, which differ from block to block in
        # some architectures (sliding windows): so it runs, with blocks that pass states through.
        def record(states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            entered.append(states)
            sample.calls.append((args, kwargs))
            if len(entered) == len(self.blocks):
                raise _Reached  # what follows has no weights yet
            return states

        with replaced_forward(self.blocks, record):
            try:
                self.model(input_ids=sample.ids, use_cache=False)
            except _Reached:
                return entered[0]
        raise AssertionError("the model did not call its blocks")

    def block(self, layer: int, sample: _SamplePass, states: Tensor) -> Tensor:
        """One block as the whole model would call it."""
        args, kwargs = sample.calls[layer]
        return self.blocks[layer](states, *args, **kwargs)

    def loss(self, sample: _SamplePass, states: Tensor) -> Tensor:
        """The model's own loss, from the states that leave its last block."""
        with reading_states(self.model, self.spec, states):
            return self.model(input_ids=sample.ids, labels=sample.labels, use_cache=False).loss


def _skeleton(ref: ModelRef, spec: ArchSpec, dtype: torch.dtype, device: torch.device) -> Any:
    """The model without weights; tables that transformers computes (rotations) are real."""
    from accelerate import init_empty_weights

    with checked_folder(ref) as folder:
        config = transformers.AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    with init_empty_weights(include_buffers=False):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=dtype, trust_remote_code=False
        )
    model.tie_weights()  # each module was given an empty weight of its own
    for module in model.modules():
        for name, table in module.named_buffers(recurse=False):
            module.register_buffer(name, table.to(device), persistent=False)
    return split_fused(model, spec).requires_grad_(False).eval()

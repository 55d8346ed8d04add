"""A model that is never in memory whole: one block at a time, from its files.

Every operation is the one that the whole model would do, on the same numbers in the same order: in
float32 what comes out is equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers  # its parts are imported when they are first used
from torch import Tensor, nn

from nuggets.models.architecture import ArchSpec
from nuggets.models.forward import blocks_of, replaced_forward
from nuggets.models.fused import split_fused
from nuggets.models.loading import checked_folder
from nuggets.models.pair import read_spec
from nuggets.models.piecewise.boundaries import Boundaries, InMemory
from nuggets.models.references import ModelRef
from nuggets.models.stored_weights import StoredWeights

WORDS = 1024
"""Words that go through a block at once."""


class _Reached(Exception):
    """Ends a forward pass at the point that was of interest."""


@dataclass(eq=False)
class Pass:
    """What the forward pass of one sample, or of one batch, carries from block to block.

    Attributes:
        ids: token ids `[samples, tokens]`, on the device.
        labels: likewise.
        calls: per block, its arguments after the states: masks, positions.
    """

    ids: Tensor
    labels: Tensor
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)


class StreamedModel:
    """A model of which at most one part holds real weights, and forward passes through it.

    Attributes:
        erased: parameter → index of entries that are 0 whenever it is loaded.
        between: `(layer, sample)` → what enters that block `[samples, tokens, hidden]`; what leaves
            the last one comes after it.
    """

    def __init__(
        self,
        ref: ModelRef,
        dtype: torch.dtype,
        device: torch.device | str,
        between: Boundaries | None = None,
    ) -> None:
        """Builds the model without weights.

        Args:
            ref: a model in safetensors, on this machine or on the hub.
            dtype: of weights and activations.
            device: where a block computes.
            between: where states between blocks are kept; in memory when not given.

        Raises:
            Unsupported: if the weights cannot be read one by one.
            Damaged: if the weights are not those that the config describes.
        """
        self.between = InMemory() if between is None else between
        self.ref, self.spec = ref, read_spec(ref)
        self.dtype, self.device = dtype, torch.device(device)
        self.weights = StoredWeights(ref, self.spec)
        self.model = _skeleton(ref, self.spec, dtype, self.device)
        self.blocks = blocks_of(self.model, self.spec)
        self.names = [name for name, _ in self.model.named_parameters()]
        self.samples: list[Pass] = []
        self.erased: dict[str, list[Any]] = {}

    @torch.no_grad()
    def enter(self) -> None:
        """Embeds all samples, and learns with which arguments each block is called."""
        with self.loaded(self.front, check=True):
            for index, sample in enumerate(self.samples):
                self.between.put((0, index), self.embed(sample))

    @torch.no_grad()
    def forward(self, layer: int) -> None:
        """Sends all samples through one block."""
        with self.loaded(self.of_layer(layer), check=True):
            for index, sample in enumerate(self.samples):
                entering = self.between.take((layer, index), self.device)
                self.between.put((layer + 1, index), self.block(layer, sample, entering))

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
            if at := self.erased.get(name):
                tensor = tensor.clone()  # else it might be the file's own memory
                for each in at:
                    tensor[each] = 0
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

    def embed(self, sample: Pass) -> Tensor:
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

    def block(self, layer: int, sample: Pass, states: Tensor) -> Tensor:
        """One block as the whole model would call it."""
        args, kwargs = sample.calls[layer]
        return self.blocks[layer](states, *args, **kwargs)


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
    stream = StreamedModel(ref, torch.float32, device)
    parts = torch.tensor(ids, device=stream.device).split(WORDS)
    stream.samples = [Pass(part[:, None], part[:, None]) for part in parts]
    stream.enter()
    for layer in range(blocks):
        stream.forward(layer)
    leaving = [
        stream.between.take((blocks, index), torch.device("cpu")) for index in range(len(parts))
    ]
    return torch.cat([states[:, 0] for states in leaving])


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

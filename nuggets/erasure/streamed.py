"""Erasing in a model that does not fit into memory: one block of it at a time, from its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nuggets.alignment.stitching import stitched_logits
from nuggets.data.samples import Encoded
from nuggets.erasure.measure import Subject
from nuggets.models.forward import reading_states
from nuggets.models.streamed import Pass, StreamedModel
from nuggets.progress import Progress


class StreamedSubject(Subject):
    """As `Subject`, with no more than one block of the model in memory.

    Each measurement reads the blocks from the files once, for all items; what is erased is set to 0
    as a block is read. In float32 the outcomes are those of the whole model bit for bit.
    """

    def __init__(
        self,
        stream: StreamedModel,
        items: Mapping[str, Sequence[Encoded]],
        progress: Progress | None = None,
    ) -> None:
        """Embeds all items, which nothing that is erased changes.

        Args:
            stream: the model.
            items: skill → `(input_ids, labels)` per item.
            progress: can cancel between two measurements.

        Raises:
            Damaged: if a weight is not finite, naming it.
        """
        self.stream, self._checked = stream, False
        super().__init__(stream.model, stream.spec, items, progress)
        stream.samples = [Pass(batch.ids, batch.ids) for batch in self._batches]
        stream.enter()

    @property
    def device(self) -> torch.device:
        """Where a block computes."""
        return self.stream.device

    def weight(self, module: str) -> Tensor:
        """The weight of a block matrix, from the files."""
        return self.stream.weights.weight(module).to(self.stream.dtype)

    @contextmanager
    def zeroed(self, module: str, at: Any) -> Iterator[None]:
        """A block matrix with some entries 0 whenever it is read."""
        erased = self.stream.erased.setdefault(f"{module}.weight", [])
        erased.append(at)
        try:
            yield
        finally:
            erased.pop()

    def logits(self, untouched: int) -> Iterator[Float[Tensor, "answers vocab"]]:
        """What is said at the answers of each batch."""
        last = [states[untouched] for states in self._states] if untouched else None
        for states in self._sweep(untouched, last):
            last = states
        stream, check = self.stream, not self._checked
        with stream.loaded(stream.tail, check=check):
            self._checked = True
            for batch, states in zip(self._batches, last or self._entering, strict=True):
                with reading_states(self.model, self.spec, states.to(self.device)):
                    yield stitched_logits(self.model, self.spec, batch)

    def recorded(self) -> Iterator[list[Tensor]]:
        """What enters the first layer and leaves each, for every batch."""
        layers = list(self._sweep(0, None))
        yield from map(list, zip(self._entering, *layers, strict=True))

    @property
    def _entering(self) -> list[Tensor]:
        between, cpu = self.stream.between, torch.device("cpu")
        return [between.take((0, index), cpu) for index in range(len(self.stream.samples))]

    def _sweep(self, start: int, states: list[Tensor] | None) -> Iterator[list[Tensor]]:
        """What leaves each layer from `start` on, all batches together."""
        stream, states = self.stream, states or self._entering
        for layer in range(start, self.spec.n_layers):
            with stream.loaded(stream.of_layer(layer), check=not self._checked):
                states = [
                    stream.block(layer, sample, entering.to(self.device)).cpu()
                    for sample, entering in zip(stream.samples, states, strict=True)
                ]
            yield states

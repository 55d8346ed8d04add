"""What a model can still do without some of its weights. Every bit of it is put back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nuggets.alignment.states import BATCH_SIZE, Batch, check_samples, make_batches, record_states
from nuggets.alignment.stitching import stitched_logits
from nuggets.data.samples import IGNORED, Encoded
from nuggets.erasure.orders import Part
from nuggets.models.architecture import ArchSpec
from nuggets.models.forward import blocks_of, decoder_of, evaluation, replaced_forward
from nuggets.progress import Progress

LOGIT_BYTES = 2**28
"""Memory for the logits of one batch."""
STATE_BYTES = 2**30
"""Memory for the states of all items, which save what lies below the part that is taken out."""
WRECKED = 100.0
"""Nats that stand for a loss beyond all numbers, which a wrecked model may have."""

Outcomes = Float[ndarray, "2 n_items"]
"""Mean loss per answer token in nats; 1 where all answer tokens are the first choice, else 0."""


@contextmanager
def zeroed(weight: Tensor, at: Any) -> Iterator[None]:
    """A weight with some entries 0; afterwards they are what they were, bit for bit."""
    values = weight[at].clone()
    weight[at] = 0
    try:
        yield
    finally:
        weight[at] = values


@contextmanager
def shifted(module: nn.Module, shift: Float[Tensor, " out"]) -> Iterator[None]:
    """A module with a constant added to whatever it puts out."""

    def shifted_output(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output + shift

    handle = module.register_forward_hook(shifted_output)
    try:
        yield
    finally:
        handle.remove()


class Means(NamedTuple):
    """What a model reads and adds on average, in float64: what mean ablation leaves of a part.

    Mean ablation takes out what a part says of this input and keeps what it says of all (Wang et
    al. 2023, arXiv 2211.00593).

    Attributes:
        reads: module → mean input of each block matrix `[in]`.
        updates: per layer the mean of what leaves it less what enters it `[hidden]`.
    """

    reads: dict[str, Tensor]
    updates: list[Tensor]


def means_over(model: nn.Module, spec: ArchSpec, skills: Sequence[Sequence[Encoded]]) -> Means:
    """Means over every token of some skills' samples, each skill counting alike."""
    modules = {m: model.get_submodule(m) for m, _, layer in spec.modules() if layer is not None}
    names: list[Any] = [*modules, *range(spec.n_layers)]
    means: dict[Any, Tensor] = dict.fromkeys(names, torch.zeros((), dtype=torch.float64))
    tokens, share = torch.empty(0), 0.0

    def add(name: Any, values: Tensor) -> None:
        # Not in place: all start from the same zero.
        means[name] = means[name].to(values.device) + share * values[tokens].double().sum(0)

    def reads(name: str) -> Any:
        return lambda module, inputs: add(name, inputs[0])

    def updates(layer: int) -> Any:
        return lambda module, inputs, output: add(layer, output - inputs[0])

    with evaluation(model), ExitStack() as hooks:
        for name, module in modules.items():
            hooks.callback(module.register_forward_pre_hook(reads(name)).remove)
        for layer, block in enumerate(blocks_of(model, spec)):
            hooks.callback(block.register_forward_hook(updates(layer)).remove)
        for encoded in skills:
            share = 1 / len(skills) / sum(len(ids) for ids, _ in encoded)
            for batch in make_batches(encoded, model):
                tokens = batch.tokens
                decoder_of(model, spec)(input_ids=batch.ids, use_cache=False)
    return Means({name: means[name] for name in modules}, [means[i] for i in range(spec.n_layers)])


class Subject:
    """A loaded model and the items that it is measured on."""

    def __init__(
        self,
        model: nn.Module,
        spec: ArchSpec,
        items: Mapping[str, Sequence[Encoded]],
        progress: Progress | None = None,
        means: Means | None = None,
    ) -> None:
        """Batches all items, of whichever skill, by their length.

        Args:
            model: in evaluation or training mode; left as it was.
            spec: its dimensions.
            items: skill → `(input_ids, labels)` per item.
            progress: can cancel between two measurements.
            means: what is erased goes on to contribute on average; nothing when not given.
        """
        self.model, self.spec, self._progress, self._means = model, spec, progress, means
        encoded = [item for each in items.values() for item in each]
        check_samples(encoded, spec)
        ends = np.cumsum([0, *map(len, items.values())])
        self._skills = [slice(a, b) for a, b in pairwise(ends)]
        self._order = sorted(range(len(encoded)), key=lambda i: len(encoded[i][0]))
        answer = max(sum(label != IGNORED for label in labels) for _, labels in encoded)
        rows = LOGIT_BYTES // (4 * spec.vocab_size * answer)
        size = min(max(rows, 1), BATCH_SIZE)
        device = self.device
        self._batches = list(make_batches([encoded[i] for i in self._order], device, size))
        self._states: list[list[Tensor]] = []
        blocks = [(m, spec.shape(role)) for m, role, layer in spec.modules() if layer is not None]
        self._modules = [module for module, _ in blocks]
        self._shapes = [shape for _, shape in blocks]
        self._ends = np.cumsum([0, *map(math.prod, self._shapes)])

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.model.parameters()).device

    def weight(self, module: str) -> Tensor:
        """The weight of a block matrix."""
        return self.model.get_submodule(module).weight.detach()  # type: ignore[union-attr]

    def magnitudes(self) -> Iterator[tuple[str, ndarray]]:
        """|θ| of every block matrix."""
        for module in self._modules:
            yield "", self.weight(module).float().abs().cpu().numpy()

    def outcomes(self, untouched: int = 0) -> Outcomes:
        """Loss and exact match of every item, in the order given.

        Args:
            untouched: layers below which nothing was changed, so that what leaves them is known
                (after `keep_states`).
        """
        if self._progress is not None:
            self._progress.check_cancelled()
        losses, hits = [], []
        with evaluation(self.model):
            for batch, found in zip(self._batches, self.logits(untouched), strict=True):
                loss, hit = _per_item(found.float(), batch)
                losses += loss
                hits += hit
        outcomes = np.empty((2, len(self._order)))
        outcomes[:, self._order] = losses, hits
        return outcomes

    def logits(self, untouched: int) -> Iterator[Float[Tensor, "answers vocab"]]:
        """What is said at the answers of each batch; `untouched` as for `outcomes`."""
        for place, batch in enumerate(self._batches):
            states = self._states[place][untouched] if untouched else None
            yield stitched_logits(self.model, self.spec, batch, untouched - 1, states)

    def keep_states(self) -> None:
        """Remembers what leaves every layer while nothing is erased, where there is room for it."""
        tokens = sum(batch.ids.numel() for batch in self._batches)
        if 4 * tokens * self.spec.hidden_size * (self.spec.n_layers + 1) > STATE_BYTES:
            return
        with evaluation(self.model):
            self._states = list(self.recorded())

    def recorded(self) -> Iterator[list[Tensor]]:
        """What enters the first layer and leaves each, for every batch."""
        for batch in self._batches:
            with record_states(self.model, self.spec) as states:
                decoder_of(self.model, self.spec)(input_ids=batch.ids, use_cache=False)
            yield states

    def curve(
        self, places: Int[ndarray, " k"], counts: Sequence[int], guess: float
    ) -> Float[ndarray, "n_counts 2 n_items"]:
        """Outcomes while more and more of the weights at `places` are 0.

        Where every skill's loss is that of guessing or worse, a model is wrecked: with more
        weights erased it is not measured again, and its last outcomes stand for these.

        Args:
            places: of block weights, laid end to end in the model's order; first ones go first.
            counts: how many are 0 at each point, ascending.
            guess: loss per token of guessing among all words.
        """
        found: list[Outcomes] = []
        with ExitStack() as erased:
            for start, stop in pairwise([0, *counts]):
                if found and all(found[-1][0][own].mean() >= guess for own in self._skills):
                    found.append(found[-1])
                    continue
                erased.enter_context(self.erased(places[start:stop]))
                found.append(self.outcomes())
        return np.stack(found)

    @contextmanager
    def erased(self, places: Int[ndarray, " k"]) -> Iterator[None]:
        """The model without what the weights at `places` contribute, or with its mean alone."""
        with torch.no_grad(), ExitStack() as stack:
            for number, at in self._located(places):
                stack.enter_context(self._taken(number, at))
            yield

    @contextmanager
    def _taken(self, number: int, at: Any) -> Iterator[None]:
        """One matrix without some of its entries.

        An entry contributes θ·x to its row's output, where x is what its column reads; its mean
        contribution is θ·x̄, a constant. The mean of a head, a neuron or a whole matrix follows.
        """
        module = self._modules[number]
        with ExitStack() as stack:
            if self._means is not None:
                weight = self.weight(module)
                removed = torch.zeros_like(weight, dtype=torch.float64)
                removed[at] = weight[at].double()
                shift = (removed @ self._means.reads[module]).to(weight.dtype)
                stack.enter_context(shifted(self.model.get_submodule(module), shift))
            stack.enter_context(self.zeroed(module, at))
            yield

    def zeroed(self, module: str, at: Any) -> AbstractContextManager[None]:
        """A block matrix with some entries 0."""
        return zeroed(self.weight(module), at)

    def _located(self, places: Int[ndarray, " k"]) -> Iterator[tuple[int, Any]]:
        """Numbers of weights, and which of their rows and columns places are."""
        places = np.sort(places)
        cuts = np.searchsorted(places, self._ends)
        for number, shape in enumerate(self._shapes):
            inside = places[cuts[number] : cuts[number + 1]] - self._ends[number]
            if len(inside):
                rows, cols = np.unravel_index(inside, shape)
                yield number, tuple(torch.from_numpy(i).to(self.device) for i in (rows, cols))

    def without(self, part: Part) -> Outcomes:
        """Outcomes while one part of the model is taken out."""
        untouched = part.layer if self._states else 0
        if part.role is None:
            skipped = [blocks_of(self.model, self.spec)[part.layer]]
            update = 0 if self._means is None else self._means.updates[part.layer]

            def skip(states: Tensor, *_: Any, **__: Any) -> Tensor:
                return (states + update).to(states.dtype)

            with replaced_forward(skipped, skip):
                return self.outcomes(untouched)
        number = self._modules.index(self.spec.module(part.role, part.layer))
        at = slice(None) if part.columns is None else (slice(None), list(part.columns))
        with torch.no_grad(), self._taken(number, at):
            return self.outcomes(untouched)


def _per_item(logits: Float[Tensor, "answers vocab"], batch: Batch) -> tuple[list, list]:
    """Mean loss and exact match of each item of a batch."""
    losses = cross_entropy(logits, batch.targets, reduction="none").double()
    losses = losses.nan_to_num(WRECKED, posinf=WRECKED).clamp(max=WRECKED)
    hits = logits.argmax(-1) == batch.targets
    return (
        [float(each.mean()) for each in losses.split(batch.counts)],
        [float(each.all()) for each in hits.split(batch.counts)],
    )

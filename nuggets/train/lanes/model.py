"""One model that holds what many arms and seeds train, and hands each lane back."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nuggets.extraction.adapter import is_wrapped, untie, write_factors
from nuggets.train.checkpoints import trainable
from nuggets.train.lab import Lab, Trainee
from nuggets.train.lanes.layers import (
    LaneAdapter,
    LaneDropout,
    LaneEmbedding,
    LaneLinear,
    LaneVectors,
)

_UNDECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)", re.IGNORECASE)
"""Names that transformers' Trainer spares from weight decay."""


class Unstackable(Exception):
    """This model or arm cannot share a program with others; it is trained alone."""


class LaneParameters:
    """All values that are trained, one row per lane; the layers' parameters are views of it.

    Attributes:
        flat: `[lanes, parameters]`, those with weight decay first.
        grad: their gradients, likewise.
        decayed: how many have weight decay.
        views: name → parameter `[lanes, *shape]`.
    """

    def __init__(self, values: Sequence[Mapping[str, Tensor]]) -> None:
        # Names with weight decay first: a lane's row is then two slices, one per AdamW group.
        names = sorted(values[0], key=lambda name: bool(_UNDECAYED.search(name)))
        if len({value.dtype for value in values[0].values()}) != 1:
            raise Unstackable("trained values of more than one precision")
        # One tensor for all lanes, so that norms, clipping, AdamW and checkpoints are a few large
        # operations per step and not some per matrix: a small model's time goes into calls.
        self.flat = torch.stack(
            [torch.cat([lane[n].reshape(-1) for n in names]) for lane in values]
        )
        self.grad = torch.zeros_like(self.flat)
        self.views: dict[str, nn.Parameter] = {}
        self._grad_views: list[Tensor] = []
        start, self.decayed = 0, 0
        for name in names:
            shape, end = values[0][name].shape, start + values[0][name].numel()
            # A leaf for autograd that shares its memory with `flat`: AdamW changes `flat` in
            # place and the layers see it, without a copy between them.
            view = nn.Parameter(self.flat[:, start:end].view(len(values), *shape))
            self.views[name] = view
            self._grad_views.append(self.grad[:, start:end].view_as(view))
            start = end
            self.decayed = self.decayed if _UNDECAYED.search(name) else end

    def differentiate(self, loss: Tensor, *, add: bool = False) -> None:
        """Sets `grad` to the gradient of a sum over lanes, or adds it.

        Lanes share no trained value, so each row is the gradient of that lane's loss alone.
        """
        # Not `backward`, which would give every view a `.grad` of its own, outside of `grad`.
        gradients = torch.autograd.grad(loss, list(self.views.values()))
        for view, gradient in zip(self._grad_views, gradients, strict=True):
            view.add_(gradient) if add else view.copy_(gradient)

    def lane(self, index: int) -> dict[str, Tensor]:
        """Copies of one lane's values."""
        return {name: view.detach()[index].clone() for name, view in self.views.items()}


class LaneModel:
    """Several trainees in one program.

    Attributes:
        model: a causal language model whose batches hold every lane's rows, lane by lane.
        n_lanes: number of lanes.
        parameters: what is trained.
        dropout: of the LoRA; None without.
    """

    def __init__(
        self, lab: Lab, trainees: Sequence[Trainee], seeds: Sequence[int], *, merge: bool
    ) -> None:
        """Stacks trainees of one kind: all adapters of the same modules and ranks, or all whole.

        Args:
            lab: where the shared base comes from.
            trainees: as their arms built them; without `merge`, adapters need no model.
            seeds: of dropout, per lane.
            merge: give every lane a base of its own and add LoRA products to the weights. It
                needs the memory of one student per lane.

        Raises:
            Unstackable: if they cannot share a program.
        """
        self.n_lanes, self._lab = len(trainees), lab
        starts = [trained_values(trainee) for trainee in trainees]
        if len({_signature(values) for values in starts}) != 1:
            raise Unstackable("adapters of different shapes")
        self.parameters = LaneParameters(starts)
        self.model = _carrier(lab, trainees[0])
        _check_randomness(self.model)
        self.dropout = None
        if lab.lora.dropout and trainees[0].whole is False:
            generators = [torch.Generator(lab.device).manual_seed(seed) for seed in seeds]
            self.dropout = LaneDropout(lab.lora.dropout, generators)
        self._merge = merge
        self._swap(trainees)

    def factors(self, lane: int) -> dict[str, tuple[Tensor, Tensor]]:
        """One lane's `(A, B)` per module."""
        values = self.parameters.lane(lane)
        names = [name.removesuffix(".lora_A") for name in values if name.endswith(".lora_A")]
        return {name: (values[f"{name}.lora_A"], values[f"{name}.lora_B"]) for name in names}

    def write_back(self, lane: int, trainee: Trainee) -> None:
        """Gives a trainee's own model what its lane learned."""
        if trainee.whole:
            weights = trainable(trainee.model)
            with torch.no_grad():
                for name, value in self.parameters.lane(lane).items():
                    weights[name].copy_(value)
        else:
            write_factors(trainee.model, self.factors(lane))

    def _swap(self, trainees: Sequence[Trainee]) -> None:
        """Puts a lane layer wherever lanes differ."""
        # A tied weight has one name, its first: embedding and head find the same trained values.
        names = {id(p): name for name, p in self.model.named_parameters()}
        bases = [_base_values(trainee) for trainee in trainees] if self._merge else None
        for path, module in list(self.model.named_modules()):  # a list: modules are replaced
            values, differs = {}, False
            for key, shared in module.named_parameters(recurse=False):
                values[key], stacked = self._values(names[id(shared)], shared, bases)
                differs = differs or stacked
            adapter = self._adapter(path, trainees)
            if values and (adapter is not None or differs):
                self._replace(path, self._layer(module, values, adapter, differs))

    def _values(
        self, name: str, shared: Tensor, bases: list[dict[str, Tensor]] | None
    ) -> tuple[Tensor, bool]:
        """A base tensor of all lanes, and whether it is stacked: trained, or not the same."""
        if name in self.parameters.views:
            return self.parameters.views[name], True
        # Where no arm subtracted anything all bases agree: one copy is broadcast over the lanes.
        if bases is None or all(torch.equal(base[name], shared) for base in bases):
            return shared.detach(), False
        return torch.stack([base[name] for base in bases]), True

    def _adapter(self, path: str, trainees: Sequence[Trainee]) -> LaneAdapter | None:
        a = self.parameters.views.get(f"{path}.lora_A")
        if a is None:
            return None
        b = self.parameters.views[f"{path}.lora_B"]
        initial = None
        # W − s·B₀A₀ is in a lane's own base already, where it has one (`merge`).
        if not self._merge and any(trainee.initial for trainee in trainees):
            starts = [_initial(trainee, path, a[0], b[0]) for trainee in trainees]
            initial = torch.stack([a0 for a0, _ in starts]), torch.stack([b0 for _, b0 in starts])
        return LaneAdapter(a, b, self._lab.lora.scale(a.shape[1]), initial)

    def _layer(
        self,
        module: nn.Module,
        values: dict[str, Tensor],
        adapter: LaneAdapter | None,
        differs: bool,
    ) -> nn.Module:
        # `type is`, not `isinstance`: a subclass may compute something else.
        if type(module) is nn.Linear:
            bias, n, dropout = values.get("bias"), self.n_lanes, self.dropout
            if dropout is not None and module is self.model.get_output_embeddings():
                dropout = dropout.before_head
            merge = self._merge or differs
            return LaneLinear(values["weight"], bias, adapter, n, dropout, merge=merge)
        # Only tokens: learned positions are looked up once for all rows, with no row per lane.
        if type(module) is nn.Embedding and module is self.model.get_input_embeddings():
            return LaneEmbedding(values["weight"], module.padding_idx, adapter, self.n_lanes)
        if adapter is None and all(value.ndim == 2 for value in values.values()):
            return LaneVectors(copy.deepcopy(module), values, self.n_lanes)
        raise Unstackable(f"a layer of the type {type(module).__name__}")

    def _replace(self, path: str, layer: nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        setattr(self.model.get_submodule(parent), name, layer)


def trained_values(trainee: Trainee) -> dict[str, Tensor]:
    """What an arm trains: `<module>.lora_A` and `.lora_B`, or weights by name."""
    if trainee.whole:
        return {name: p.detach() for name, p in trainable(trainee.model).items()}
    named = {}
    for name, (a, b) in trainee.factors().items():
        named |= {f"{name}.lora_A": a, f"{name}.lora_B": b}
    return named


def _carrier(lab: Lab, trainee: Trainee) -> Any:
    """A student of which only the modules are used; what lanes do not share is replaced."""
    # An arm's own base may have another shape than the student: a cut one, for example; a whole
    # one may have been untied.
    own = trainee.own_base or trainee.whole
    model = copy.deepcopy(trainee.model) if own else lab.fresh_student()
    if is_wrapped(model):
        model = model.unload()  # takes PEFT's layers out and leaves the base as it is
    for parameter in model.parameters():  # no gradient of what is not trained
        parameter.requires_grad_(False)
    if not trainee.whole:
        untie(model, trainee.factors())  # embedding and head part where a LoRA is on either
    return model


def _base_values(trainee: Trainee) -> dict[str, Tensor]:
    """Every frozen tensor of a trainee's model by its name in the plain model."""
    model: Any = trainee.model
    if is_wrapped(model):
        model = model.base_model.model
    # Both names of a tied weight: the carrier may know it by either.
    named = model.named_parameters(remove_duplicate=False)
    return {
        name.replace(".base_layer.", "."): value.detach()
        for name, value in named
        if ".lora_" not in name
    }


def _initial(trainee: Trainee, path: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """What was subtracted from a lane's base; zeros for a lane on the untouched one."""
    if path not in trainee.initial:
        return torch.zeros_like(a), torch.zeros_like(b)
    first = trainee.initial[path]
    return first.a.to(a), first.b.to(b)


def _signature(values: Mapping[str, Tensor]) -> tuple[Any, ...]:
    return tuple((name, value.shape, value.dtype) for name, value in values.items())


def _check_randomness(model: Any) -> None:
    """Refuses dropout of the student itself: its one mask for the stack mixes lanes' numbers."""
    inside = any(isinstance(module, nn.Dropout) and module.p for module in model.modules())
    # Applied as functions, so that the config alone tells of them.
    named = ("attention_dropout", "residual_dropout", "embedding_dropout")
    if inside or any(getattr(model.config, name, 0) for name in named):
        raise Unstackable("dropout inside the student")

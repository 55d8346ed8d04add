"""In which order weights are erased: by a score, by its controls, or part by part of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from nuggets.frozen import Frozen
from nuggets.models.architecture import ArchSpec
from nuggets.sensitivity.maps import SensitivityMap
from nuggets.sensitivity.scores import Contrast, Score, Specific
from nuggets.views.matrices import unit_scores

GROUPS = 8
"""Groups of FFN neurons per layer, from the most to the least sensitive."""
PartKind = Literal["layers", "matrices", "heads", "neurons"]
Entries = Iterator[tuple[str, Float[ndarray, "_ _"]]]


class Part(Frozen):
    """A part of a model that can be taken out.

    Attributes:
        kind: what sort of part.
        name: for people, such as `L3.up` or `L3 head 5`.
        layer: which it is in.
        share: of the sensitivity of all parts of its kind.
        role: the matrix of which something is set to 0; None skips the whole layer.
        columns: which of its columns; None sets all of it to 0.
    """

    kind: PartKind
    name: str
    layer: int
    share: float
    role: str | None = None
    columns: tuple[int, ...] | None = None


def entries_by(score: Score, maps: Sequence[SensitivityMap]) -> Entries:
    """Every block matrix of a score, one at a time.

    Args:
        score: what orders the weights.
        maps: the skill's own, and for a comparison those of its reference set.

    Raises:
        BadInput: if the full maps were not kept.
    """
    if not isinstance(score, Specific | Contrast):
        yield from maps[0].blocks()
        return
    scales = [score.scale(map) for map in maps]
    for module, own in maps[0].blocks():
        yield module, score.compare(own, [map.matrix(module) for map in maps[1:]], scales)


def least_first(map: SensitivityMap) -> Entries:
    """A map turned round: its least sensitive weights come first."""
    return ((module, -matrix) for module, matrix in map.blocks())


def block_weights(spec: ArchSpec) -> int:
    """Weights of all matrices in the layers; embedding, head, norms and biases are left alone."""
    shapes = (spec.shape(role) for _, role, layer in spec.modules() if layer is not None)
    return sum(rows * cols for rows, cols in shapes)


def drawn_places(spec: ArchSpec, k: int, seed: Sequence[int]) -> Int[ndarray, " k"]:
    """`k` places of block weights, drawn at random without replacement."""
    return np.random.default_rng(seed).choice(block_weights(spec), k, replace=False)


def parts_of(map: SensitivityMap, kinds: Sequence[PartKind]) -> list[Part]:
    """The parts of some kinds, with the share of the sensitivity that a map gives each."""
    spec, found = map.spec, []
    roles = spec.architecture.roles
    values: list[tuple[str, int, float, dict[str, Any]]]
    for kind in kinds:
        if kind == "layers":
            values = [(f"L{i}", i, value, {}) for i, value in enumerate(map.layer_scores)]
        elif kind == "matrices":
            values = [
                (f"L{i}.{role}", i, map.total(spec.module(role, i)), {"role": role})
                for i in range(spec.n_layers)
                for role in roles
            ]
        else:
            values = _heads(map) if kind == "heads" else _neuron_groups(map)
        total = float(sum(value for _, _, value, _ in values)) or 1.0
        found += [
            Part(kind=kind, name=name, layer=layer, share=float(value) / total, **rest)
            for name, layer, value, rest in values
        ]
    return found


def _heads(map: SensitivityMap) -> list[tuple[str, int, float, dict[str, Any]]]:
    """Query heads: what each puts out is what its columns of `o` read."""
    width = map.spec.head_dim
    return [
        (f"L{i} head {h}", i, score,
         {"role": "o", "columns": tuple(range(h * width, (h + 1) * width))})
        for i, row in enumerate(unit_scores(map, "heads"))
        for h, score in enumerate(row)
    ]  # fmt: skip


def _neuron_groups(map: SensitivityMap) -> list[tuple[str, int, float, dict[str, Any]]]:
    """FFN neurons of each layer by rank: what each puts out is what its column of `down` reads."""
    found = []
    for layer, scores in enumerate(unit_scores(map, "neurons")):
        groups = np.array_split(np.argsort(-scores, kind="stable"), min(GROUPS, len(scores)))
        for place, group in enumerate(groups):
            columns = tuple(sorted(group.tolist()))
            name = f"L{layer} neurons {place + 1}/{len(groups)}"
            found.append((name, layer, scores[group].sum(), {"role": "down", "columns": columns}))
    return found

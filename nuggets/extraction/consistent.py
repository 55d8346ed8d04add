"""One choice of dimensions for a whole network, so that a cut keeps a working circuit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from nuggets.errors import BadInput
from nuggets.models.architecture import ArchSpec, Axis
from nuggets.sensitivity.maps import SensitivityMap

Order = Literal["sensitivity", "first", "random"]
Index = Int[ndarray, " _"]
_NONE: Index = np.arange(0)


@dataclass(frozen=True, eq=False)
class ConsistentChoice:
    """What a smaller network keeps of a larger one; every index array is ascending.

    Attributes:
        layers: teacher layers `[L_s]`, entry i goes to student layer i.
        resid: residual dimensions `[d_s]`, shared by all matrices.
        heads: query heads per kept layer `[H_s]`, whole groups.
        kv_heads: key/value heads per kept layer `[K_s]`.
        ffn: FFN neurons per kept layer `[f_s]`, shared by gate, up and down.
        head_dim: width of one head, the same in both networks.
        vocab: vocabulary size, kept whole.
    """

    layers: tuple[int, ...]
    resid: Index
    heads: tuple[Index, ...]
    kv_heads: tuple[Index, ...]
    ffn: tuple[Index, ...]
    head_dim: int
    vocab: int

    def index(self, axis: Axis, place: int) -> Index:
        """Indices along an axis for the kept layer at `place`."""
        within = np.arange(self.head_dim)
        # Head h owns rows h · head_dim … (h + 1) · head_dim − 1: [heads, head_dim], flattened.
        if axis == "q_heads":
            return (self.heads[place][:, None] * self.head_dim + within).reshape(-1)
        if axis == "kv_heads":
            return (self.kv_heads[place][:, None] * self.head_dim + within).reshape(-1)
        whole = {"vocab": np.arange(self.vocab), "head_dim": within, "positions": np.arange(0)}
        return {"resid": self.resid, "ffn": self.ffn[place], **whole}[axis]


def why_not_consistent(role: str, teacher: ArchSpec, student: ArchSpec) -> str:
    """Why a role's heads cannot be kept whole; empty if they can, or if it has none."""
    axes = {"q_heads", "kv_heads"} & set(student.axes(role))
    if not axes:
        return ""
    if teacher.head_dim != student.head_dim:
        return f"heads of {teacher.head_dim} and {student.head_dim} dimensions"
    if student.group > teacher.group:
        return (
            f"the student has {student.group} query heads per key/value head and the teacher only "
            f"{teacher.group}"
        )
    if student.n_kv_heads > teacher.n_kv_heads:
        return f"{student.n_kv_heads} head groups > {teacher.n_kv_heads}"
    return ""


def check_cut(teacher: ArchSpec, student: ArchSpec) -> None:
    """Refuses a student that cannot be cut out of a teacher with whole heads.

    Raises:
        BadInput: naming the dimension and both values.
    """
    rows = (
        ("deeper", teacher.n_layers, student.n_layers),
        ("wider", teacher.hidden_size, student.hidden_size),
        ("wider in the FFN", teacher.intermediate_size, student.intermediate_size),
    )
    for how, large, small in rows:
        if small > large:
            raise BadInput(
                f"The student is {how} than the teacher: {small} > {large}. A cut only makes a "
                "model smaller."
            )
    if reason := why_not_consistent("q", teacher, student):
        raise BadInput(f"A cut keeps whole head groups, but this pair has {reason}.")


def check_heads_fill(spec: ArchSpec, n_heads: int, hidden_size: int) -> None:
    """Refuses a width that an architecture without a head size of its own cannot have.

    Raises:
        BadInput: if the heads do not fill the width exactly.
    """
    if not spec.architecture.free_heads and n_heads * spec.head_dim != hidden_size:
        raise BadInput(
            f"The heads of a {spec.model_type} model fill its width: {n_heads} heads of "
            f"{spec.head_dim} make {n_heads * spec.head_dim}, not {hidden_size}. Choose a width "
            f"that is a multiple of {spec.head_dim * spec.group}, and as many heads as fill it."
        )


def choose_consistent(
    map: SensitivityMap,
    student: ArchSpec,
    layers: Sequence[int],
    order: Order = "sensitivity",
    seed: int = 0,
) -> ConsistentChoice:
    """Chooses residual dimensions, head groups and FFN neurons once for the whole network.

    Where the student's heads or neurons cannot be cut out of the teacher's, none are chosen.

    `sensitivity` ranks a residual dimension by the sum of all rows and columns that index it,
    a head group by the rows of q, k, v and the columns of o that it owns, a neuron by its rows
    of gate and up and its column of down. `first` and `random` do not look (controls).

    Args:
        map: the teacher's sensitivity; its row and column sums are enough.
        student: the dimensions that are kept.
        layers: the teacher layer of each student layer.
        order: by what dimensions, heads and neurons are chosen.
        seed: of `random`.
    """
    teacher = map.spec
    generator = np.random.default_rng(seed)

    def keep(scores: Float[ndarray, " n"], k: int) -> Index:
        if order == "first":
            return np.arange(k)
        if order == "random":
            return np.sort(generator.choice(len(scores), k, replace=False))
        # Stable, so that the lowest index wins a tie. Ascending afterwards: neighbours in the
        # teacher stay neighbours, and a choice of everything is the teacher itself.
        return np.sort(np.argsort(-scores, kind="stable")[:k])

    # One choice for all layers: what a block writes into the residual stream the next one reads,
    # so that with a choice per matrix, as windows make, adjacent ones use different dimensions.
    resid = keep(_axis_scores(map, "resid", None), student.hidden_size)
    heads_fit = not why_not_consistent("q", teacher, student)
    ffn_fits = student.intermediate_size <= teacher.intermediate_size
    heads, kv_heads, ffn = [], [], []
    for layer in layers:
        queries, groups = _heads(map, student, layer, keep) if heads_fit else (_NONE, _NONE)
        heads.append(queries)
        kv_heads.append(groups)
        scores = _axis_scores(map, "ffn", layer)
        ffn.append(keep(scores, student.intermediate_size) if ffn_fits else _NONE)
    return ConsistentChoice(
        tuple(layers),
        resid,
        tuple(heads),
        tuple(kv_heads),
        tuple(ffn),
        teacher.head_dim,
        student.vocab_size,
    )


def _heads(
    map: SensitivityMap, student: ArchSpec, layer: int, keep: Callable[..., Index]
) -> tuple[Index, Index]:
    """The query heads and the key/value heads that one layer keeps."""
    teacher = map.spec
    by_query = _per_head(_axis_scores(map, "q_heads", layer), teacher.head_dim)
    by_kv = _per_head(_axis_scores(map, "kv_heads", layer), teacher.head_dim)
    # Query heads of a group share one key/value head, and are of no use with another one.
    grouped = by_query.reshape(teacher.n_kv_heads, teacher.group)
    groups = keep(grouped.sum(axis=1) + by_kv, student.n_kv_heads)
    # Inside a kept group the student may have fewer query heads than the teacher.
    queries = [g * teacher.group + keep(grouped[g], student.group) for g in groups]
    return np.concatenate(queries), groups


def _axis_scores(map: SensitivityMap, axis: Axis, layer: int | None) -> Float[ndarray, " _"]:
    """Summed sensitivity of everything that indexes an axis (in one layer, or everywhere)."""
    scores = np.zeros(map.spec.size(axis))
    for module, role, place in map.spec.modules():
        if layer is not None and place != layer:
            continue
        # A matrix [out, in] has two axes: its rows index the first, its columns the second. Row
        # and column sums are enough, so that maps without full matrices can choose too.
        for side, sums in zip(map.spec.axes(role), (map.rows, map.cols), strict=True):
            if side == axis:
                scores += sums[module]
    return scores


def _per_head(scores: Float[ndarray, " _"], head_dim: int) -> Float[ndarray, " heads"]:
    return scores.reshape(-1, head_dim).sum(axis=1)

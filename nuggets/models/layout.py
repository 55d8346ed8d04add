"""Where each role's weight lies in the files: fused modules, transposed ones, other names.

A model in memory has one module per role (`nuggets.models.fused`); files keep what
transformers keeps, such as one `qkv_proj` for queries, keys and values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from nuggets.models.architecture import ArchSpec, Matrix
from nuggets.models.kinds.wrappers import inner_name, is_beside_text


class Place(NamedTuple):
    """Where one module's weight is stored.

    Attributes:
        module: name of the stored module.
        rows: the module's rows in it, before any transposition; None for all of them.
        transposed: whether the file holds `[in, out]`.
    """

    module: str
    rows: Int[ndarray, " out"] | None
    transposed: bool


def place_of(spec: ArchSpec, module: str) -> Place:
    """Where a module that `ArchSpec.module` names is stored.

    Embedding and head are stored as they are named; `canonical_name` translates the file's name.
    """
    layer = spec.layer_of(module)
    if layer is None:
        return Place(module, None, False)
    prefix = f"{spec.architecture.layers}.{layer}."
    suffix = module.removeprefix(prefix)
    matrix = next(m for m in spec.architecture.matrices if m.suffix == suffix)
    rows = None if matrix.layout == "alone" else stored_rows(spec, matrix)
    return Place(prefix + matrix.stored, rows, matrix.transposed)


def stored_rows(spec: ArchSpec, matrix: Matrix) -> Int[ndarray, " out"]:
    """The rows that a matrix has in its stored module (`[out, in]`)."""
    mates = spec.architecture.sharing(matrix.stored)
    place, size = mates.index(matrix), spec.size(matrix.out)
    if matrix.layout == "heads":  # head 0 of every role, then head 1 of every role, …
        heads = np.arange(size // spec.head_dim)[:, None] * len(mates) + place
        return (heads * spec.head_dim + np.arange(spec.head_dim)).reshape(-1)
    return sum(spec.size(m.out) for m in mates[:place]) + np.arange(size)


def canonical_name(spec: ArchSpec, name: str) -> str:
    """A tensor's name in transformers' modules, whatever prefix its file uses."""
    name = inner_name(name) if spec.wrapped else name
    for theirs, ours in spec.architecture.aliases.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def is_table(spec: ArchSpec, name: str) -> bool:
    """Whether a stored tensor is no weight of the text model.

    That is a table that transformers computes by itself, or what a wrapper sees with.
    """
    return name.endswith(spec.architecture.tables) or (spec.wrapped and is_beside_text(name))


def expected_tensors(spec: ArchSpec) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every weight a model must have, norms included.

    A tied head has no weight of its own and is left out; so are the biases of matrices, which some
    models of an architecture have and others lack.
    """
    row = spec.architecture
    yield f"{row.embed}.weight", spec.shape("embed")
    if row.positions:
        yield f"{row.positions}.weight", (spec.size("positions"), spec.hidden_size)
    if not spec.tied:
        yield f"{row.head}.weight", spec.shape("head")
    if row.head_bias:
        yield f"{row.head}.bias", (spec.vocab_size,)
    for prefix, matrix, out in _stored_matrices(spec):
        shape = (out, spec.size(matrix.into))
        yield f"{prefix}.weight", shape[::-1] if matrix.transposed else shape
    norms = {
        f"{row.layers}.{layer}.{suffix}": (spec.size(axis),)
        for layer in range(spec.n_layers)
        for suffix, axis in row.vectors.items()
    }
    for name, shape in (norms | {row.final_norm: (spec.hidden_size,)}).items():
        yield f"{name}.weight", shape
        if row.norm_bias:
            yield f"{name}.bias", shape


def optional_tensors(spec: ArchSpec) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every weight a model may have: biases, and a stored copy of a tied head."""
    for prefix, _, out in _stored_matrices(spec):
        yield f"{prefix}.bias", (out,)
    yield f"{spec.module('head')}.weight", spec.shape("head")


def _stored_matrices(spec: ArchSpec) -> Iterator[tuple[str, Matrix, int]]:
    """Every stored module of the layers once, with its first role and its number of rows."""
    row = spec.architecture
    for layer in range(spec.n_layers):
        for stored in dict.fromkeys(matrix.stored for matrix in row.matrices):
            mates = row.sharing(stored)
            out = sum(spec.size(matrix.out) for matrix in mates)
            yield f"{row.layers}.{layer}.{stored}", mates[0], out

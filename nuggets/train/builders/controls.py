"""What carries the size of what the teacher gives, but not its knowledge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from nuggets.compute.svd import LowRankFactors, truncated_svd
from nuggets.data.samples import Encoded
from nuggets.train.randomness import generator

Factors = Mapping[str, LowRankFactors]


def permute_factors(factors: Factors, seed: int) -> dict[str, LowRankFactors]:
    """Permutes rows and columns of every extracted matrix: same spectrum, same entries.

    The factors of a permuted matrix are the permuted factors, so no SVD is repeated.
    """
    permuted = {}
    for name, factor in factors.items():
        draw = generator(seed, f"permute {name}")
        rows = torch.randperm(factor.b.shape[0], generator=draw)
        cols = torch.randperm(factor.a.shape[1], generator=draw)
        permuted[name] = LowRankFactors(
            factor.a[:, cols], factor.b[rows], factor.singular_values, factor.energy
        )
    return permuted


def shuffle_factors(
    matrices: Iterable[tuple[str, Tensor]], factors: Factors, seed: int
) -> dict[str, LowRankFactors]:
    """Shuffles all entries of every extracted matrix, then factorises.

    Shuffling flattens the spectrum; B·A is scaled back to the norm of the extracted B·A, since
    that is what reaches the student.
    """
    shuffled = {}
    for name, matrix in matrices:
        draw = generator(seed, f"shuffle {name}")
        order = torch.randperm(matrix.numel(), generator=draw).to(matrix.device)
        mixed = matrix.reshape(-1)[order].reshape(matrix.shape)
        shuffled[name] = _like(mixed, factors[name], seed)
    return shuffled


def gaussian_factors(factors: Factors, seed: int) -> dict[str, LowRankFactors]:
    """Factorises Gaussian noise and scales B·A to the norm of the extracted B·A."""
    drawn = {}
    for name, factor in factors.items():
        shape = (factor.b.shape[0], factor.a.shape[1])
        noise = torch.randn(shape, generator=generator(seed, f"gaussian {name}"))
        drawn[name] = _like(noise.to(factor.a.device), factor, seed)
    return drawn


def states_of_another(
    encoded: Sequence[Encoded], targets: Sequence[Tensor], seed: int
) -> tuple[Tensor, ...]:
    """Each sample's states from another sample: of the same length, where there is one.

    Samples that are alone with their length get those of one another, cut or repeated to fit.
    """
    draw = generator(seed, "states")
    by_length: dict[int, list[int]] = {}
    for place, (ids, _) in enumerate(encoded):
        by_length.setdefault(len(ids), []).append(place)
    alone = [places[0] for _, places in sorted(by_length.items()) if len(places) == 1]
    if len(alone) == 1:  # it changes with one whose length others have too
        alone += [next(places[0] for places in by_length.values() if len(places) > 1)]
    found = list(targets)
    groups = [places for places in by_length.values() if len(places) > 1]
    for places in [*groups, *filter(None, [alone])]:
        order = torch.randperm(len(places), generator=draw).tolist()
        for step, place in enumerate(order):
            # One cycle through all, so that no sample keeps its own.
            own, other = places[place], places[order[step - 1]]
            length = targets[own].shape[1]
            times = -(-length // targets[other].shape[1])
            found[own] = targets[other].repeat(1, times, 1)[:, :length]
    return tuple(found)


def _like(matrix: Tensor, model: LowRankFactors, seed: int) -> LowRankFactors:
    """Factors of a matrix with the rank and the Frobenius norm of others."""
    made = truncated_svd(matrix, model.rank, seed=seed)
    # A has orthonormal rows, so the norm of B·A is that of the singular values.
    scale = model.singular_values.norm() / made.singular_values.norm()
    return LowRankFactors(made.a, made.b * scale, made.singular_values * scale, made.energy)

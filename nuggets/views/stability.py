"""How far a map would look the same with other seed samples.

Samples are drawn with a fixed seed: the same map always shows the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from nuggets.errors import BadInput
from nuggets.extraction.layers import CkaPath, LayersByHand, TopLayers, UniformLayers

DRAWS = 400


class Halves(NamedTuple):
    """Spearman correlation between two halves of the samples: mean and middle 95 % of splits."""

    mean: float
    low: float
    high: float
    n_half: int


class LayerStability(NamedTuple):
    """Which layers are chosen, and how often each would be with other samples."""

    chosen: Bool[ndarray, " n_layers"]
    frequency: Float[ndarray, " n_layers"]


def chosen_layers(scores: Float[ndarray, "*n n_layers"], k: int) -> Bool[ndarray, "*n n_layers"]:
    """Marks the `k` largest of the last axis; ties go to the lowest index."""
    chosen = np.zeros(scores.shape, dtype=bool)
    order = np.argsort(-scores, axis=-1, kind="stable")[..., :k]
    np.put_along_axis(chosen, order, True, axis=-1)
    return chosen


def split_half(samples: Float[ndarray, "n_samples n"], draws: int = DRAWS) -> Halves:
    """Rank agreement of two random halves of the samples, over many splits.

    Args:
        samples: each sample's values, such as sums per matrix.
        draws: number of splits; with an odd number of samples one is left out of each.

    Raises:
        BadInput: for fewer than four samples or two values.
    """
    n, width = samples.shape
    if n < 4 or width < 2:
        raise BadInput(f"Halves need at least 4 samples and 2 values; got {n} and {width}.")
    half = n // 2
    order = np.random.default_rng(0).permuted(np.tile(np.arange(n), (draws, 1)), axis=1)
    first, second = (
        samples[part].sum(axis=1) for part in (order[:, :half], order[:, half : 2 * half])
    )
    agreement = rank_correlation(first, second)
    agreement = agreement[np.isfinite(agreement)]
    if not agreement.size:
        return Halves(np.nan, np.nan, np.nan, half)
    low, high = np.quantile(agreement, [0.025, 0.975])
    return Halves(float(agreement.mean()), float(low), float(high), half)


def rank_correlation(
    first: Float[ndarray, "draws n"], second: Float[ndarray, "draws n"]
) -> Float[ndarray, " draws"]:
    """Spearman's correlation row by row; NaN where all values of a row are equal."""
    ranks = [np.stack([_ranks(row) for row in values]) for values in (first, second)]
    a, b = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    with np.errstate(invalid="ignore"):
        return (a * b).sum(axis=1) / np.sqrt(np.square(a).sum(axis=1) * np.square(b).sum(axis=1))


def _ranks(values: Float[ndarray, " n"]) -> Float[ndarray, " n"]:
    """Ranks from 1, ties sharing their mean; as scipy.stats, which takes .5 s to import."""
    ordered = np.sort(values)
    below, upto = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    return (below + upto + 1) / 2


def layer_stability(
    layer_samples: Float[ndarray, "n_samples n_layers"], k: int, draws: int = DRAWS
) -> LayerStability:
    """How often each layer is among the `k` best when samples are drawn with replacement.

    Raises:
        BadInput: if `k` layers cannot be chosen.
    """
    n, n_layers = layer_samples.shape
    if not 1 <= k <= n_layers or n < 1:
        raise BadInput(f"{k} of {n_layers} layers cannot be chosen from {n} samples.")
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=draws)
    chosen = chosen_layers(counts @ layer_samples, k)
    return LayerStability(chosen_layers(layer_samples.sum(axis=0), k), chosen.mean(axis=0))


def stability_by_samples(
    layer_samples: Float[ndarray, "n_samples n_layers"],
    k: int,
    sizes: Sequence[int],
    draws: int = DRAWS,
) -> Float[ndarray, " n_sizes"]:
    """Share of the chosen layers that fewer samples choose too, for each number of samples."""
    generator = np.random.default_rng(0)
    n = len(layer_samples)
    target = chosen_layers(layer_samples.sum(axis=0), k)
    shares = []
    for size in sizes:
        order = generator.permuted(np.tile(np.arange(n), (draws, 1)), axis=1)[:, :size]
        chosen = chosen_layers(layer_samples[order].sum(axis=1), k)
        shares.append((chosen & target).sum(axis=1).mean() / k)
    return np.array(shares)


def layer_maps(
    n_teacher: int,
    n_student: int,
    scores: Float[ndarray, " n_teacher"] | None = None,
    cka: Float[ndarray, "n_teacher n_student"] | None = None,
    by_hand: Sequence[int] | None = None,
) -> dict[str, list[tuple[int, int]]]:
    """Layer maps as (student layer, teacher layer) pairs, as far as their inputs are known.

    Args:
        n_teacher: layers of the teacher.
        n_student: layers of the student.
        scores: the teacher's layer scores, for `sensitivity`.
        cka: similarity of layers, for `cka`.
        by_hand: a teacher layer per student layer, for `by hand`.

    Raises:
        BadInput: if the map by hand does not fit.
    """
    blank = np.zeros(n_teacher)
    chosen = {"uniform": UniformLayers().pairs(blank, n_student)}
    if scores is not None:
        chosen = {"sensitivity": TopLayers().pairs(scores, n_student)} | chosen
    if cka is not None:
        chosen["cka"] = CkaPath().pairs(blank, n_student, cka)
    if by_hand is not None:
        chosen["by hand"] = LayersByHand(layers=tuple(by_hand)).pairs(blank, n_student)
    return {name: list(pairs) for name, pairs in chosen.items()}

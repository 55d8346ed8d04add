"""How uncertain a mean over seeds and items is: the crossed bootstrap in closed form.

Outcomes are `[n_seeds, n_items]` and crossed: each seed answers the same items. Resampling seeds
and items independently (the pigeonhole bootstrap: Owen, Annals of Applied Statistics 1, 2007) has
a variance that can be written down, so nothing is resampled and nothing depends on a random seed.
It is the sum of a seed, an item and a residual part; each is freed of the bootstrap's downward
bias, (n − 1)/n, and the sum has Satterthwaite's degrees of freedom. Tests compare it with a
bootstrap written as a loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuggets.errors import BadInput, NonFinite

Outcomes = NDArray[np.float64]


class Spread(NamedTuple):
    """Mean of crossed outcomes, its standard error and that error's degrees of freedom."""

    mean: float
    error: float
    df: float


def spread_of(outcomes: Outcomes) -> Spread:
    """Return mean, standard error and degrees of freedom of crossed outcomes.

    The squared error is (MS_seeds + MS_items + MS_residual) / (n_seeds · n_items), where MS are
    the mean squares of a two-way layout; with one seed it is the items' variance / n_items.

    Args:
        outcomes: `[n_seeds, n_items]`, as `checked_outcomes` returns them.
    """
    if np.ptp(outcomes) == 0:  # nothing varies; by the formulas below rounding would seem to
        return Spread(float(outcomes[0, 0]), 0.0, float(outcomes.shape[1] - 1))
    return combine_parts(float(outcomes.mean()), variance_parts(outcomes))


def variance_parts(outcomes: Outcomes) -> list[tuple[float, int]]:
    """Return the parts of the squared error with their degrees of freedom: items, rest, seeds.

    With one seed there are the items' alone.
    """
    n_seeds, n_items = outcomes.shape
    by_seed, by_item = outcomes.mean(axis=1), outcomes.mean(axis=0)  # [n_seeds], [n_items]
    # MS_items is n_seeds times the variance of the items' means, so that MS_items / (n_seeds ·
    # n_items) is that variance / n_items; likewise for seeds.
    parts = [(float(by_item.var(ddof=1)) / n_items, n_items - 1)]
    if n_seeds > 1:
        # What is neither the seed's nor the item's; with one seed it cannot be told from items.
        residual = outcomes - by_seed[:, None] - by_item + outcomes.mean()
        df = (n_seeds - 1) * (n_items - 1)
        parts.append((float(np.square(residual).sum()) / df / outcomes.size, df))
        parts.append((float(by_seed.var(ddof=1)) / n_seeds, n_seeds - 1))
    return parts


def combine_parts(mean: float, parts: Sequence[tuple[float, int]]) -> Spread:
    """Add variance parts, each with its degrees of freedom (Satterthwaite, Biometrics 2, 1946)."""
    # df = (Σ v)² / Σ (v² / df): near that of the part which dominates. With few seeds that vary
    # it is near n_seeds − 1, however many items there are.
    total = float(sum(variance for variance, _ in parts))
    doubt = float(sum(variance**2 / df for variance, df in parts if variance > 0))
    return Spread(mean, float(np.sqrt(total)), total**2 / doubt if doubt > 0 else 1.0)


def checked_outcomes(outcomes: ArrayLike, level: float) -> Outcomes:
    """Return the outcomes as float64 `[n_seeds, n_items]`.

    Raises:
        BadInput: Not two axes, no seed, fewer than two items, or a level outside (0, 1).
        NonFinite: An outcome is NaN or infinite.
    """
    array = np.asarray(outcomes, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] < 2:
        raise BadInput(
            "Outcomes need the shape (seeds, items) with at least 1 seed and 2 items; "
            f"got {array.shape}."
        )
    if not 0 < level < 1:
        raise BadInput(f"A confidence level lies between 0 and 1; got {level}.")
    if not np.isfinite(array).all():
        seed, item = (int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise NonFinite(
            f"The outcome of item {item} in seed row {seed} is {array[seed, item]}; "
            "leave out seeds that failed."
        )
    return array


def is_binary(outcomes: Outcomes) -> bool:
    """Tell whether every outcome is 0 or 1, so that the mean is a proportion."""
    return bool(np.isin(outcomes, (0.0, 1.0)).all())


def is_graded(outcomes: Outcomes) -> bool:
    """Tell whether every outcome is 0, ¼, ½, ¾ or 1, as right answers and win rates are."""
    return bool(np.isin(outcomes, (0.0, 0.25, 0.5, 0.75, 1.0)).all())

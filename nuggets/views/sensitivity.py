"""What the views show of sensitivity: values per matrix, scales, differences and intervals.

A map's values are a vector with one entry per matrix, in the order of `ArchSpec.modules()`; all
modes are arithmetic on such vectors. Intervals come from the seed samples by the delta method, so
nothing is resampled and a view never flickers.

Matrices, neurons and stability live next door and are offered here too: pages need one name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.special import stdtrit  # scipy.stats has it too, and takes .5 s to import

from nuggets.errors import BadInput
from nuggets.sensitivity.maps import SensitivityMap
from nuggets.views.matrices import (
    Binned,
    Overlap,
    Placed,
    Units,
    axis_name,
    bin_matrix,
    chosen_windows,
    held_by_top,
    overlap,
    profile,
    top_units,
    unit_scores,
    units_of,
)
from nuggets.views.residual import Residual, dimension_shares, residual_dimensions
from nuggets.views.stability import (
    Halves,
    LayerStability,
    chosen_layers,
    layer_maps,
    layer_stability,
    split_half,
    stability_by_samples,
)

__all__ = [
    "MODES",
    "Binned",
    "Halves",
    "LayerStability",
    "Mode",
    "Overlap",
    "Placed",
    "Residual",
    "Units",
    "Values",
    "axis_name",
    "bin_matrix",
    "chosen_layers",
    "chosen_windows",
    "difference",
    "dimension_shares",
    "held_by_top",
    "layer_maps",
    "layer_stability",
    "layer_values",
    "module_samples",
    "module_sizes",
    "module_values",
    "overlap",
    "profile",
    "residual_dimensions",
    "split_half",
    "stability_by_samples",
    "top_units",
    "unit_scores",
    "units_of",
]

Mode = Literal["distinctive", "share", "per_parameter", "absolute"]
MODES: tuple[Mode, ...] = ("share", "distinctive", "per_parameter", "absolute")
"""share: of the sum over all matrices, which needs no other task. distinctive: log2 of the share
over the mean share of a fixed set of tasks. per_parameter: absolute / number of entries. absolute:
the sum itself."""

LEVEL = 0.95


class Values(NamedTuple):
    """One value per matrix (or layer) and the bounds of its interval over seed samples.

    `low` and `high` are NaN where fewer than two samples were measured.
    """

    mean: Float[ndarray, " n"]
    low: Float[ndarray, " n"]
    high: Float[ndarray, " n"]


def module_samples(map: SensitivityMap) -> Float[ndarray, "n_samples n_modules"]:
    """Each sample's sum over every matrix, in the order of `spec.modules()`."""
    columns = {name: column for column, name in enumerate(map.parameters)}
    order = [columns[f"{module}.weight"] for module, _, _ in map.spec.modules()]
    return map.totals[:, order]


def module_sizes(map: SensitivityMap) -> Float[ndarray, " n_modules"]:
    """The number of entries of every matrix."""
    shapes = [map.spec.shape(role) for _, role, _ in map.spec.modules()]
    return np.array([rows * cols for rows, cols in shapes], dtype=np.float64)


def layer_values(map: SensitivityMap, mode: Mode = "share") -> Values:
    """Value per layer, norms and biases included as in the paper's layer score.

    Args:
        map: what was measured.
        mode: `share` (of the sum over all layers) or `absolute`.
    """
    samples = map.layer_samples
    return _absolute(samples) if mode == "absolute" else _share(samples)


def module_values(map: SensitivityMap, mode: Mode, tasks: Sequence[SensitivityMap] = ()) -> Values:
    """Value per matrix with its interval over seed samples.

    Args:
        map: what was measured for one task.
        mode: the scale.
        tasks: for `distinctive`, the maps of the tasks that it is set against, `map` included.

    Raises:
        BadInput: for `distinctive` with fewer than two tasks.
    """
    samples = module_samples(map)
    if mode == "absolute":
        return _absolute(samples)
    if mode == "per_parameter":
        return Values(*(bound / module_sizes(map) for bound in _absolute(samples)))
    if mode == "share":
        return _share(samples)
    return _distinctive(map, tasks)


def difference(
    a: SensitivityMap,
    b: SensitivityMap,
    mode: Mode,
    log: bool = False,
    tasks: Sequence[SensitivityMap] = (),
) -> Values:
    """Value of A minus value of B per matrix; on a log scale log2(A / B).

    For `distinctive`, which is a logarithm already, the mean over tasks cancels: the difference
    is log2 of the ratio of shares on either scale. The two tasks' samples are independent. Sums
    grow with the number of samples: those of B are scaled to as many as A has.
    """
    if log or mode == "distinctive":
        shares = mode in ("distinctive", "share")
        return _log_ratio(a, b, shares)
    first, second = module_values(a, mode, tasks), module_values(b, mode, tasks)
    scale = 1.0 if mode == "share" else a.n_samples / b.n_samples
    half = np.hypot(first.high - first.mean, scale * (second.high - second.mean))
    return _around(first.mean - scale * second.mean, half)


def _around(mean: ndarray, half: ndarray) -> Values:
    return Values(mean, mean - half, mean + half)


def _critical(n: int) -> float:
    """Student's quantile for n samples; NaN, and with it every bound, for a single one."""
    return float(-stdtrit(n - 1, (1 - LEVEL) / 2)) if n > 1 else float("nan")


def _error(residuals: Float[ndarray, "n_samples n"]) -> Float[ndarray, " n"]:
    """Standard error of a sum over samples, from each sample's deviation."""
    n = len(residuals)
    if n < 2:
        return np.full(residuals.shape[1], np.nan)
    return np.sqrt(n / (n - 1) * np.square(residuals).sum(axis=0))


def _absolute(samples: Float[ndarray, "n_samples n"]) -> Values:
    mean = samples.sum(axis=0)
    return _around(mean, _critical(len(samples)) * _error(samples - samples.mean(axis=0)))


def _share_error(samples: ndarray) -> tuple[ndarray, ndarray]:
    """Share of the total and its standard error (ratio estimator, delta method)."""
    total = samples.sum()
    if not total > 0:
        raise BadInput(
            "This map is zero everywhere, so nothing can be shown as a share of its total. "
            "Choose the mode `absolute`, or measure with other samples."
        )
    share = samples.sum(axis=0) / total
    return share, _error(samples - share * samples.sum(axis=1, keepdims=True)) / total


def _share(samples: ndarray) -> Values:
    share, error = _share_error(samples)
    low_high = _around(share, _critical(len(samples)) * error)
    return Values(share, np.maximum(low_high.low, 0), np.minimum(low_high.high, 1))


def _distinctive(map: SensitivityMap, tasks: Sequence[SensitivityMap]) -> Values:
    """log2(share / mean share over tasks); every task's samples add to the interval."""
    if len(tasks) < 2 or not any(task is map for task in tasks):
        raise BadInput(
            f"Distinctive values compare at least two tasks, but got {len(tasks)}. Measure "
            "another task."
        )
    found = [_share_error(module_samples(task)) for task in tasks]
    shares = np.array([share for share, _ in found])
    errors = np.array([error for _, error in found])
    own = next(index for index, task in enumerate(tasks) if task is map)
    mean = shares.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.where(mean > 0, np.log2(shares[own] / mean), 0.0)
        slopes = np.broadcast_to(-1 / (len(tasks) * mean), shares.shape).copy()
        slopes[own] += 1 / shares[own]
        error = np.sqrt(np.square(slopes * errors).sum(axis=0)) / np.log(2)
    return _around(value, _critical(min(task.n_samples for task in tasks)) * error)


def _log_ratio(a: SensitivityMap, b: SensitivityMap, shares: bool) -> Values:
    """log2(A / B) of shares or of sums per sample; 0 where both are 0."""
    means, variance = [], np.zeros(len(module_sizes(a)))
    for map in (a, b):
        samples = module_samples(map) / map.n_samples
        mean = samples.sum(axis=0)
        error = _error(samples - samples.mean(axis=0))
        if shares:
            mean, error = _share_error(samples)
        means.append(mean)
        with np.errstate(divide="ignore", invalid="ignore"):
            variance = variance + np.square(error / mean / np.log(2))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(means[0] == means[1], 0.0, np.log2(means[0] / means[1]))
    return _around(ratio, _critical(min(a.n_samples, b.n_samples)) * np.sqrt(variance))

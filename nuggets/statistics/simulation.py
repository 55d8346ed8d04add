"""0/1 answers with known truth, crossed like measured ones, for checking what is said of them.

Answer = 1 where z + √ρ_s · seed + √ρ_i · item + √(1 − ρ_s − ρ_i) · rest > 0, all standard normal: a
probit with crossed effects. Two answers of one seed to different items agree as the bivariate
normal distribution with correlation ρ_s says, so that z and ρ follow from a mean and a variance.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy  # which imports `special` when it is first used, a tenth of a second
from numpy.typing import NDArray

from nuggets.statistics.spread import Outcomes


class Truth(NamedTuple):
    """Mean of all answers, and how much the means of seeds and of items truly vary (as sd)."""

    mean: float
    seed_sd: float
    item_sd: float


def truth_of(outcomes: Outcomes) -> Truth:
    """Return mean and spreads of measured answers, freed of the chance in single answers.

    Args:
        outcomes: `[n_seeds, n_items]` of 0 and 1, at least two of each.
    """
    n_seeds, n_items = outcomes.shape
    mean = float(outcomes.mean())
    by_seed, by_item = outcomes.mean(axis=1), outcomes.mean(axis=0)
    residual = outcomes - by_seed[:, None] - by_item + mean
    rest = np.square(residual).sum() / ((n_seeds - 1) * (n_items - 1))
    seeds = max(float(by_seed.var(ddof=1) - rest / n_items), 0.0)
    items = max(float(by_item.var(ddof=1) - rest / n_seeds), 0.0)
    return Truth(mean, seeds**0.5, items**0.5)


def simulate(
    truth: Truth, n_seeds: int, items: NDArray[np.float64], generator: np.random.Generator
) -> Outcomes:
    """Return answers `[n_seeds, n_items]` of 0 and 1.

    Args:
        truth: Mean and spreads, of which the larger ones are cut where they leave no chance.
        n_seeds: How many seeds.
        items: Effects of the items `[n_items]`, standard normal; arms that share them answer the
            same items.
        generator: Of seeds and single answers.
    """
    if not 0 < truth.mean < 1:
        return np.full((n_seeds, len(items)), round(truth.mean), dtype=np.float64)
    z = float(scipy.special.ndtri(truth.mean))
    by_seed = _latent_share(z, truth.mean, truth.seed_sd)
    by_item = min(_latent_share(z, truth.mean, truth.item_sd), 1 - by_seed)
    latent = z + by_seed**0.5 * generator.normal(size=(n_seeds, 1)) + by_item**0.5 * items
    rest = generator.normal(size=(n_seeds, len(items)))
    return (latent + (1 - by_seed - by_item) ** 0.5 * rest > 0).astype(np.float64)


def _latent_share(z: float, mean: float, sd: float) -> float:
    """Return the latent correlation ρ at which means vary with this standard deviation.

    Var = Φ₂(z, z; ρ) − Φ(z)², where Φ₂(z, z; ρ) = Φ(z) − 2 T(z, √((1 − ρ)/(1 + ρ))) with Owen's T.
    """
    rho = np.linspace(0.0, 0.999, 1000)
    variance = mean - 2 * scipy.special.owens_t(z, np.sqrt((1 - rho) / (1 + rho))) - mean**2
    return float(np.interp(sd**2, variance, rho))  # the variance rises with ρ

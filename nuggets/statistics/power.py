"""Which differences an experiment can see, before and after it is run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy  # which imports `special` when it is first used, a tenth of a second
from numpy.typing import ArrayLike

from nuggets.errors import BadInput
from nuggets.frozen import Frozen
from nuggets.statistics.spread import Spread, checked_outcomes, combine_parts, spread_of

POWER = 0.8
"""Chance of finding a difference for which detectable differences are given."""
SEED_SD = 0.128
"""Standard deviation of an arm's exact match from seed to seed, where half of it is right: the
median of the trained arms of the studies in docs/paper (see `spread_at_half`), which a test takes
again. Half of the arms lie between .09 and .19."""
MEASURED = "the median of the trained arms in docs/paper"
"""Where `SEED_SD` is from, in words."""
CORRELATION = 0.35
"""Between two arms' answers to one item. With `SEED_SD` plans promise 1.04 times what the
comparisons in docs/paper could detect in the median, with quartiles .8 and 1.6, mostly because
seeds of single arms spread more or less than the median."""


class DetectableEffect(Frozen):
    """The smallest difference that a planned experiment should show, and for which design.

    `value` is `None` when not even a difference of 1 would be found. `n_comparisons` is the size
    of the treatment's family (the baseline and its content controls), allowed for by Bonferroni.
    `seed_sd` is the spread of seeds where half is right, and `source` says where that is from;
    the defaults are those of 0.1, which wrote down neither.
    """

    n_seeds: int
    n_items: int
    n_comparisons: int = 1
    base_rate: float = 0.5
    power: float = POWER
    seed_sd: float = 0.08
    source: str = "assumed by version 0.1"
    value: float | None

    @property
    def sentence(self) -> str:
        """The answer in one sentence."""
        seeds = "1 seed" if self.n_seeds == 1 else f"{self.n_seeds} seeds"
        if self.value is None:
            return f"With {seeds} and {self.n_items} items no difference can be detected."
        return (
            f"With {seeds} and {self.n_items} items a difference of {self.value:.2f} is detected "
            f"{100 * self.power:.0f} % of the time."
        )

    @property
    def basis(self) -> str:
        """For which family of comparisons that is, and with which spread of seeds."""
        others = self.n_comparisons - 1
        family = (
            "the single comparison with plain LoRA"
            if not others
            else f"a family of {self.n_comparisons} comparisons (plain LoRA and "
            f"{others} content control{'s' if others > 1 else ''})"
        )
        sd = self.seed_sd * _relative_spread(self.base_rate)
        return (
            f"This is for {family}, where {100 * self.base_rate:.0f} % are right and seeds have a "
            f"standard deviation of {sd:.3f} ({self.source})."
        )


def detectable_effect(
    n_seeds: int,
    n_items: int,
    n_comparisons: int = 1,
    base_rate: float = 0.5,
    seed_sd: float = SEED_SD,
    source: str = MEASURED,
) -> DetectableEffect:
    """Return what a design promises (see `planned_detectable_effect`).

    Args:
        n_seeds: Seeds per arm.
        n_items: Items, the same for all arms.
        n_comparisons: Of the treatment's family.
        base_rate: Expected mean, inside (0, 1).
        seed_sd: Standard deviation over seeds where half is right.
        source: Where that is from, in words.

    Raises:
        BadInput: A value is outside its range.
    """
    if n_comparisons < 1:
        raise BadInput(f"Planning needs at least one comparison; got {n_comparisons}.")
    # Bonferroni, the bound for the smallest p of Holm's family: a plan cannot know the others.
    level = 1 - 0.05 / n_comparisons
    value = planned_detectable_effect(n_seeds, n_items, base_rate, seed_sd=seed_sd, level=level)
    return DetectableEffect(
        n_seeds=n_seeds,
        n_items=n_items,
        n_comparisons=n_comparisons,
        base_rate=base_rate,
        seed_sd=seed_sd,
        source=source,
        value=value if value <= 1 else None,
    )


def minimum_detectable_effect(
    differences: ArrayLike, power: float = POWER, level: float = 0.95
) -> float:
    """Return the true difference that a t-test on such data finds with the given power.

    Differences of 0/1 outcomes that are the same everywhere show no spread; then it is the share
    of items that could differ and still all be missed.

    Args:
        differences: `[n_seeds, n_items]`, one arm minus another, in the units of the outcomes.
        power: Chance of finding the difference.
        level: One minus the two-sided significance level.

    Raises:
        BadInput: The shape, power or level does not allow it.
        NonFinite: A difference is NaN or infinite.
    """
    array = checked_outcomes(differences, level)
    spread = spread_of(array)
    # A t-test on data without spread would find any difference at all.
    if spread.error == 0 and spread.mean in (-1.0, 0.0, 1.0):
        return unseen_share(array.shape[1], level)
    return detectable_difference(spread, power, level)


def planned_detectable_effect(
    n_seeds: int,
    n_items: int,
    base_rate: float = 0.5,
    *,
    seed_sd: float = SEED_SD,
    correlation: float = CORRELATION,
    power: float = POWER,
    level: float = 0.95,
) -> float:
    """Return the difference of two 0/1 means that a planned experiment should reveal.

    It is what `minimum_detectable_effect` gives on average once the experiment is run. What two
    arms do not share of an item is taken as drawn anew in every seed, as in measured runs. Where
    seeds dominate the error, more items gain nothing; with 2 or 3 seeds they even lose a little,
    as the test then knows its own error less well.

    Args:
        n_seeds: Seeds per arm. With one, the answer is about that seed only.
        n_items: Items, the same for both arms; at least two.
        base_rate: Expected mean, inside (0, 1).
        seed_sd: Standard deviation of an arm's mean from seed to seed where half is right. At
            other rates it is 4p(1 − p) times as large: the same spread in log-odds.
        correlation: Between the two arms' answers to one item, in [0, 1).
        power: Chance of finding the difference.
        level: One minus the two-sided significance level.

    Raises:
        BadInput: A value is outside its range.
    """
    if n_seeds < 1 or n_items < 2 or not 0 < base_rate < 1 or not 0 <= correlation < 1:
        raise BadInput(
            "Planning needs at least 1 seed, 2 items, a base rate inside (0, 1) and a correlation "
            f"in [0, 1); got {n_seeds}, {n_items}, {base_rate} and {correlation}."
        )
    # Var(a − b) = 2 p(1 − p)(1 − ρ) per item and seed: what two paired 0/1 answers do not share.
    residual = 2 * base_rate * (1 - base_rate) * (1 - correlation) / (n_seeds * n_items)
    parts = [(residual, n_items - 1)]
    if n_seeds > 1:
        # The arms' seeds are independent runs: their variances add. The crossed bootstrap counts
        # the residual twice (see `spread`): in the means of items, and by itself.
        between = 2 * (seed_sd * _relative_spread(base_rate)) ** 2 / n_seeds
        parts += [(between, n_seeds - 1), (residual, (n_seeds - 1) * (n_items - 1))]
    return detectable_difference(combine_parts(0.0, parts), power, level)


def spread_at_half(per_seed: Sequence[float]) -> float:
    """Return the standard deviation that an arm's 0/1 means would have if half were right.

    Raises:
        BadInput: There is one seed only, or no answer or every answer is right.
    """
    mean = float(np.mean(per_seed))
    if len(per_seed) < 2 or not 0 < mean < 1:
        raise BadInput(
            "The spread of seeds needs at least 2 seeds and a mean inside (0, 1); got "
            f"{len(per_seed)} and {mean:g}."
        )
    return float(np.std(per_seed, ddof=1)) / _relative_spread(mean)


def _relative_spread(rate: float) -> float:
    """Return d rate / d log-odds, relative to that at one half."""
    return 4 * rate * (1 - rate)


def detectable_difference(spread: Spread, power: float, level: float) -> float:
    """Return the difference found with `power` by a two-sided t-test with this error.

    The noncentral t distribution is solved for its noncentrality; the chance of a significant
    result in the wrong direction is left out, as it is below (1 − level) / 2.

    Raises:
        BadInput: The power is not between the level's error rate and .99.
    """
    if not 1 - level < power <= 0.99:
        raise BadInput(f"The power must lie between {1 - level:g} and 0.99; got {power:g}.")
    critical = float(-scipy.special.stdtrit(spread.df, (1 - level) / 2))
    # Solves P(T > critical) = power for the noncentrality δ = difference / error. A normal
    # approximation (1.96 + .84) would promise too much with the few degrees of freedom of seeds.
    return spread.error * float(scipy.special.nctdtrinc(spread.df, 1 - power, critical))


def unseen_share(n_items: int, level: float) -> float:
    """Return the largest share of items that may behave otherwise when none of `n_items` did.

    Clopper–Pearson's upper bound at zero of `n_items`, two-sided at `level`.
    """
    # 1 − ((1 − level) / 2)^(1 / n): with a larger share, that no item shows it is rarer than that.
    return float(scipy.special.betaincinv(1, n_items, (1 + level) / 2))

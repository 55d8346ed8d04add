"""What a calibration found: how often something false was said, per design, pool and together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field
from scipy import special  # the distributions of scipy.stats, without its .5 s of import

from nuggets.frozen import Frozen
from nuggets.statistics.intervals import LEVEL

BOUNDED = ("hurts", "same_as_controls", "helps_without_controls", "located")
"""The claims whose rates must be shown to stay within 5 %. Wherever "helps" is said with a control,
"helps_without_controls" would be, so that the bound of this holds for both."""
FALSE = ("helps", *BOUNDED, "student", "percentile")
"""Fields of a design that say how often something false was said of identical arms."""


class Rate(Frozen):
    """How often something was said.

    `n` comparisons were made and `disjoint` of them shared no seed; the interval is
    Clopper–Pearson's with `disjoint` comparisons.
    """

    value: float
    low: float
    high: float
    n: int
    disjoint: int


class Design(Frozen):
    """Error rates with one number of seeds per arm; `None` where an older file has none.

    `helps` is the full rules with one identical content control, `same_as_controls` with one that
    has the treatment's own outcomes. `hurts` and `helps_without_controls` have a ruined control,
    so that only the baseline can stop a false claim (and Holm's correction does not). `located`
    has everything ruined but an identical location control. `percentile` is how often the
    percentile interval of the hierarchical bootstrap excludes 0 between identical arms on either
    side, and `student` the same for the interval that decides.

    Per planted difference, `found` gives the rate of "helps", and `not_located` how often that is
    said although it was planted over the location control, and all else ruined. `planned` is the
    difference that should be found in four of five experiments, with this pool's spread of seeds.
    """

    n_seeds: int
    helps: Rate
    hurts: Rate
    same_as_controls: Rate | None = None
    helps_without_controls: Rate
    located: Rate | None = None
    student: Rate
    percentile: Rate
    found: dict[str, Rate]
    not_located: dict[str, Rate] = Field(default_factory=dict)
    planned: float | None

    @property
    def bound(self) -> float:
        """The largest upper end of all false claims' intervals."""
        rates = (getattr(self, name) for name in BOUNDED)
        return max(rate.high for rate in rates if rate is not None)

    @property
    def allowed(self) -> bool:
        """Whether false claims are shown to stay within 5 %."""
        return self.bound <= 1 - LEVEL


class TriedRate(Frozen):
    """A learning rate, how many seeds kept it, and what all of them did with it.

    `mean` and `seed_sd`, the standard deviation over seeds, are of means over validation items,
    where several rates were tried, and over test items otherwise.
    """

    learning_rate: float
    n_kept: int
    mean: float
    seed_sd: float


class Calibration(Frozen):
    """The verdict's error rates on pools of real training runs, by one edition of the rules.

    With several `pools`, `designs` are theirs together and `mean` and `seed_sd` means of theirs.
    `simulated` are the same designs on simulated seeds with the pool's mean and spreads: there
    the rules' assumptions hold. `item_sd` is how much the means of items truly vary, and `rates`
    are those that at least two seeds were trained at.
    """

    task: str
    student: str = ""
    arm: str
    metric: str
    n_pool: int
    n_items: int
    mean: float
    seed_sd: float
    designs: list[Design]
    item_sd: float = 0.0
    rates: list[TriedRate] = Field(default_factory=list)
    simulated: list[Design] = Field(default_factory=list)
    pools: list[Calibration] = Field(default_factory=list)
    edition: int = 1

    @property
    def passed(self) -> bool:
        """Whether false claims are shown to stay within 5 % with every number of seeds."""
        return all(design.allowed for design in self.designs)

    @property
    def least_seeds(self) -> int | None:
        """The smallest number of seeds from which on every larger measured one is allowed."""
        least = None
        for design in sorted(self.designs, key=lambda design: -design.n_seeds):
            if not design.allowed:
                break
            least = design.n_seeds
        return least

    @property
    def every_pool(self) -> list[Calibration]:
        """The pools, or this one alone."""
        return self.pools or [self]


def together(pools: Sequence[Calibration]) -> Calibration:
    """Return the rates over several pools: their disjoint comparisons are added up."""
    first = pools[0]
    return Calibration(
        task=", ".join(dict.fromkeys(pool.task for pool in pools)),
        student=", ".join(dict.fromkeys(pool.student for pool in pools)),
        arm=first.arm,
        metric=first.metric,
        n_pool=sum(pool.n_pool for pool in pools),
        n_items=first.n_items,
        mean=float(np.mean([pool.mean for pool in pools])),
        seed_sd=float(np.mean([pool.seed_sd for pool in pools])),
        item_sd=float(np.mean([pool.item_sd for pool in pools])),
        designs=[_sum(designs) for designs in zip(*(p.designs for p in pools), strict=True)],
        simulated=[_sum(designs) for designs in zip(*(p.simulated for p in pools), strict=True)],
        pools=list(pools),
        edition=first.edition,
    )


def upper_bound(events: float, disjoint: int) -> float:
    """The upper end of a rate's 95 % interval: Clopper–Pearson's, also of a fractional number."""
    if events >= disjoint:
        return 1.0
    tail = (1 - LEVEL) / 2
    return float(special.betainccinv(events + 1, disjoint - events, tail))


def _sum(designs: Sequence[Design]) -> Design:
    """One number of seeds over several pools."""

    def effects(field: str) -> dict[str, Rate]:
        every = [getattr(design, field) for design in designs]
        names = dict.fromkeys(name for found in every for name in found)
        return {name: _added([found[name] for found in every if name in found]) for name in names}

    planned = [design.planned for design in designs if design.planned is not None]
    return Design(
        n_seeds=designs[0].n_seeds,
        **{name: _added([getattr(design, name) for design in designs]) for name in FALSE},
        found=effects("found"),
        not_located=effects("not_located"),
        planned=float(np.median(planned)) if planned else None,
    )


def _added(rates: Sequence[Rate]) -> Rate:
    disjoint = sum(rate.disjoint for rate in rates)
    value = sum(rate.value * rate.disjoint for rate in rates) / disjoint
    return rate_of(value, sum(rate.n for rate in rates), disjoint)


def rate_of(value: float, n: int, disjoint: int) -> Rate:
    """Clopper–Pearson at the number of disjoint comparisons (real-valued, so by beta quantiles)."""
    yes = value * disjoint
    return Rate(
        value=value,
        low=1 - upper_bound(disjoint - yes, disjoint),
        high=upper_bound(yes, disjoint),
        n=n,
        disjoint=disjoint,
    )

"""`python -m benchmarks.tuning_simulation`: what the choice of a learning rate does to a test.

Two identical arms are simulated, each comes to its rate in one of five ways, and the interval of
their difference should exclude 0 in one of twenty experiments. A rate that all seeds of an arm
share is an error that no interval over seeds sees. With `--like docs/calibration.json` the rates
are those of measured pools instead.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nuggets.statistics.error_rates import Calibration
from nuggets.statistics.intervals import paired_difference
from nuggets.statistics.simulation import Truth, simulate
from nuggets.statistics.spread import Outcomes

WAYS = (
    "fixed beforehand at the best",
    "once per arm, one tuning seed",
    "once per arm, three tuning seeds",
    "every seed its own best",
    "every seed the best of the others",
)
"""How an arm comes to its learning rate; tuned on validation items of its own."""
RATES = (Truth(0.12, 0.070, 0.089), Truth(0.21, 0.099, 0.125), Truth(0.37, 0.128, 0.160))
"""Three learning rates: standard deviations of .4 over seeds and .5 over items in probits."""


class Size(NamedTuple):
    """Of an experiment: seeds per arm, test items, and validation items of every seed."""

    n_seeds: int
    n_items: int
    n_validation: int = 60


SIZES = (Size(3, 80), Size(5, 80), Size(8, 160))


def tuned_arm(
    way: str,
    rates: Sequence[Truth],
    size: Size,
    items: NDArray[np.float64],
    generator: np.random.Generator,
) -> Outcomes:
    """Return one arm's answers to the test items `[n_seeds, n_items]`.

    Every seed has its own luck at every rate, and brings it to validation and test items alike.

    Args:
        way: One of `WAYS`.
        rates: What each learning rate does in truth.
        size: Of the experiment.
        items: Effects of the test items, shared by all arms.
        generator: Of everything else.
    """
    every = np.concatenate([items, generator.normal(size=size.n_validation)])
    answers = np.stack([simulate(rate, size.n_seeds, every, generator) for rate in rates])
    scores = answers[:, :, len(items) :].mean(axis=2)  # [rates, seeds]
    if way == WAYS[0]:
        scores[:] = [[rate.mean] for rate in rates]
    elif way in WAYS[1:3]:
        n_tuning = 1 if way == WAYS[1] else 3
        trials = (simulate(rate, n_tuning, every[len(items) :], generator) for rate in rates)
        scores[:] = [[trial.mean()] for trial in trials]
    elif way == WAYS[4]:
        scores = scores.sum(axis=1, keepdims=True) - scores
    return answers[scores.argmax(axis=0), np.arange(size.n_seeds), : len(items)]


def identical_arms(
    way: str, rates: Sequence[Truth], size: Size, n_experiments: int, seed: int = 0
) -> tuple[float, float]:
    """Return how often the interval of two identical arms excludes 0, and the mean they reach."""
    generator = np.random.default_rng([seed, WAYS.index(way), *size])
    excluded, means = [], []
    for _ in range(n_experiments):
        items = generator.normal(size=size.n_items)
        first, second = (tuned_arm(way, rates, size, items, generator) for _ in range(2))
        interval = paired_difference(first, second).interval
        excluded.append(interval.low > 0 or interval.high < 0)
        means.append(first.mean())
    return float(np.mean(excluded)), float(np.mean(means))


def show(title: str, rates: Sequence[Truth], sizes: Sequence[Size], n_experiments: int) -> None:
    """Prints the table of one set of rates."""
    each = ", ".join(f"{rate.mean:.2f} ± {rate.seed_sd:.3f}" for rate in rates)
    print(f"\n{title}; mean at each rate and its standard deviation over seeds: {each}")
    columns = " | ".join(f"{size.n_seeds} seeds × {size.n_items}" for size in sizes)
    print(f"| rate chosen | {columns} | mean reached |\n| --- |{' ---: |' * (len(sizes) + 1)}")
    for way in WAYS:
        found = [identical_arms(way, rates, size, n_experiments) for size in sizes]
        shares = " | ".join(f"{share:.3f}" for share, _ in found)
        print(f"| {way} | {shares} | {found[-1][1]:.2f} |", flush=True)


def main() -> None:
    """Prints the share of experiments whose interval excludes 0, for every way and size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiments", type=int, default=2000, help="per way and size")
    parser.add_argument("--like", type=Path, help="a calibration.json: its pools' rates")
    asked = parser.parse_args()
    print(f"Two identical arms: share of {asked.experiments} experiments whose 95 % interval "
          "excludes 0; .05 is right.")  # fmt: skip
    if asked.like is None:
        return show("Made-up rates", RATES, SIZES, asked.experiments)
    for pool in Calibration.model_validate_json(asked.like.read_text()).every_pool:
        rates = [Truth(rate.mean, rate.seed_sd, pool.item_sd) for rate in pool.rates]
        sizes = [Size(design.n_seeds, pool.n_items) for design in pool.designs]
        if rates:
            show(f"{pool.task}, {pool.student}", rates, sizes, asked.experiments)
    return None


if __name__ == "__main__":
    main()

"""`python -m benchmarks.aa_sweeps`: sweeps of identical trials, simulated. Does one claim anything?

In an A/A sweep every trial's treatment is its baseline again, so that every claim is false. Seeds
and items vary as in the pools of docs/calibration.json. The winner is searched for among 24 trials
on validation items, as a sweep does, and confirmed with fresh seeds on test items.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np

from nuggets.statistics.calibration import judge
from nuggets.statistics.error_rates import Calibration, upper_bound
from nuggets.statistics.intervals import paired_difference
from nuggets.statistics.simulation import Truth, simulate

TRIALS, SEEDS, VALIDATION = 24, 2, 60
CONFIRMING, TEST = 4, 80


def truths(path: Path) -> dict[str, Truth]:
    """How seeds and items of each pool vary, freed of the chance in single answers."""
    found = Calibration.model_validate_json(path.read_text()).every_pool
    return {
        f"{p.task}, {p.student}": Truth(
            p.mean, math.sqrt(max(p.seed_sd**2 - p.mean * (1 - p.mean) / p.n_items, 0)), p.item_sd
        )
        for p in found
    }


def sweep(truth: Truth, generator: np.random.Generator) -> tuple[bool, bool, bool, float]:
    """One A/A sweep.

    Returns:
        Whether the winner's own interval excludes 0; whether its confirmation says “helps”, beside
        an identical control and beside one that cannot stop it; and the optimism.
    """
    items = generator.normal(size=VALIDATION)
    both = simulate(truth, 2 * TRIALS * SEEDS, items, generator).reshape(2, TRIALS, SEEDS, -1)
    gaps = (both[0] - both[1]).mean(axis=(1, 2))
    best = int(gaps.argmax())
    seen = paired_difference(both[0, best], both[1, best]).interval
    fresh = generator.normal(size=TEST)
    plain, treatment, control = (simulate(truth, CONFIRMING, fresh, generator) for _ in range(3))
    claimed = judge((plain, treatment, control))[0].kind == "helps"
    unopposed = judge((plain, treatment, treatment - 1))[0].kind == "helps"
    return seen.low > 0, claimed, unopposed, seen.mean - float((treatment - plain).mean())


def main() -> None:
    """Prints a table; `--sweeps` per pool."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweeps", type=int, default=1000)
    parser.add_argument("--like", type=Path, default=Path("docs/calibration.json"))
    given = parser.parse_args()
    generator = np.random.default_rng(0)
    rows = []
    for pool, truth in truths(given.like).items():
        found = np.array([sweep(truth, generator) for _ in range(given.sweeps)])
        rows.append(found)
        said, helps, worst, flattery = found.mean(axis=0)
        print(f"{pool}: optimism +{flattery:.3f}; the winner's own interval is above 0 in "
              f"{said:.3f}, confirmed as “helps” {helps:.4f}, with a powerless control "
              f"{worst:.4f}")  # fmt: skip
    whole = np.concatenate(rows)
    for name, column in (("helps", 1), ("helps, powerless control", 2)):
        n = int(whole[:, column].sum())
        print(
            f"{name}: {n} of {len(whole)} sweeps, at most {upper_bound(n, len(whole)):.4f} (95 %)"
        )


if __name__ == "__main__":
    main()

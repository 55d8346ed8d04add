"""`python -m benchmarks.aa_sweeps`: sweeps of identical trials. Does one claim anything?

In an A/A sweep every trial's treatment is its baseline again, so that every claim is false. By
default they are simulated: seeds and items vary as in the pools of docs/calibration.json. The
winner is searched for among 24 trials on validation items, as a sweep does, and confirmed with
fresh seeds on test items.

`--real 20` makes so many sweeps with trainings of their own, on the four pools in turn, and goes on
where it was stopped (`--home`). They are ordinary sweeps but for one thing: in this process the arm
`paper` and its control are built as plain LoRA is, from the same samples in the same order, with
another draw of A in every trial and seed.
"""

from __future__ import annotations

import argparse
import math
import os
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from nuggets import api
from nuggets.statistics.calibration import judge
from nuggets.statistics.error_rates import Calibration, upper_bound
from nuggets.statistics.intervals import paired_difference
from nuggets.statistics.simulation import Truth, simulate
from nuggets.studies.calibrating import POOLS
from nuggets.sweeps.recipe import SweepRecipe, dump_sweep
from nuggets.train.arms.base import ArmBase
from nuggets.train.arms.family import Paper, Permuted
from nuggets.train.builders.lora import with_lora
from nuggets.train.lab import Lab, Trainee
from nuggets.worker import run_in_foreground

TRIALS, SEEDS, VALIDATION = 24, 2, 60
CONFIRMING, TEST = 4, 80
RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""What tells the trials of a real A/A sweep apart; no arm of it reads them."""
LEAST = 3
"""Seeds that confirm a real one: the fewest that may claim anything."""


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


def again(self: ArmBase, lab: Lab, seed: int) -> Trainee:
    """An arm's `build`: plain LoRA on the seed's samples, A drawn anew for arm, seed and trial."""
    draw = zlib.crc32(f"{self.kind} {seed} {lab.extraction.ratio}".encode())
    same_samples = replace(lab, train_samples=lambda _: lab.train_samples(seed))
    return with_lora(same_samples, draw, init_lora_weights=True)


def real_recipe(number: int) -> SweepRecipe:
    """One real A/A sweep: seeds of its own, and one of the four pools."""
    pool, first = POOLS[number % len(POOLS)], 100 * number
    fixed = (
        f"student={pool.student}",
        f"data.task={pool.task}",
        f"data.n_train={pool.n_train}",
        "data.old_skills=[]",
        "arms=[{kind: plain}, {kind: paper}, {kind: permuted}]",
        "train.steps=90",
        "train.lr=1e-2",
        "train.evaluate_every=0",
        f"seeds={[first + seed for seed in range(SEEDS)]}",
        "device=cpu",
    )
    fields = {"name": f"aa-{number}", "sampler": "grid", "confirm": {"seeds": LEAST}}
    return api.load_sweep("quick", fixed, space={"extraction.ratio": {"values": RATIOS}}, **fields)


def real_sweep(number: int) -> tuple[bool, bool, bool, float, str]:
    """Makes one, or goes on with it; what `sweep` returns, and the confirmed verdict's kind."""
    recipe = real_recipe(number)
    made = {each.recipe_text(): each for each in api.sweeping.sweeps()}.get(dump_sweep(recipe))
    if made is None:
        made = api.sweeping.run(recipe)
    else:
        run_in_foreground(made, lambda event: None)
    found = api.sweeping.state_of(made).confirmed
    assert found is not None
    cells = api.cells(api.open_run(found.run))
    plain, treatment = (
        np.array([cell.outcomes["exact_match"] for cell in cells if cell.arm == arm])
        for arm in ("plain", "paper")
    )
    unopposed = judge((plain, treatment, treatment - 1))[0].kind == "helps"
    said, kind = found.selected[0].low > 0, found.verdict.kind
    print(
        f"{number + 1}. {recipe.base.data.task}, {recipe.base.student}: plain LoRA "
        f"{plain.mean():.3f}, selected {found.selected[0].mean:+.3f}, confirmed "
        f"{found.scores[0].mean:+.3f}, {kind}",
        flush=True,
    )
    return said, kind == "helps", unopposed, found.optimism[0].mean, kind


def real(n: int, home: Path) -> None:
    """Makes the sweeps that a home lacks, and prints what all of them said."""
    os.environ |= {"NUGGETS_HOME": str(home.absolute()), "NUGGETS_ENGINE": "local"}
    Paper.build = Permuted.build = again
    found = [real_sweep(number) for number in range(n)]
    *columns, kinds = zip(*found, strict=True)
    said, helps, unopposed = (sum(column) for column in columns[:3])
    print(f"verdicts: {dict(Counter(kinds))}; optimism {np.mean(columns[3]):+.3f}; the winner's "
          f"own interval is above 0 in {said}")  # fmt: skip
    for name, events in (("helps", helps), ("helps, powerless control", unopposed)):
        print(f"{name}: {events} of {n} sweeps, at most {upper_bound(events, n):.3f} (95 %)")


def simulated(n: int, like: Path) -> None:
    """Simulates so many sweeps per pool, and prints what they said."""
    generator = np.random.default_rng(0)
    rows = []
    for pool, truth in truths(like).items():
        found = np.array([sweep(truth, generator) for _ in range(n)])
        rows.append(found)
        said, helps, worst, flattery = found.mean(axis=0)
        print(f"{pool}: optimism +{flattery:.3f}; the winner's own interval is above 0 in "
              f"{said:.3f}, confirmed as “helps” {helps:.4f}, with a powerless control "
              f"{worst:.4f}")  # fmt: skip
    whole = np.concatenate(rows)
    for name, column in (("helps", 1), ("helps, powerless control", 2)):
        n_said = int(whole[:, column].sum())
        bound = upper_bound(n_said, len(whole))
        print(f"{name}: {n_said} of {len(whole)} sweeps, at most {bound:.4f} (95 %)")


def main() -> None:
    """Simulates `--sweeps` per pool, or makes `--real` ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweeps", type=int, default=1000)
    parser.add_argument("--like", type=Path, default=Path("docs/calibration.json"))
    parser.add_argument("--real", type=int, default=0)
    parser.add_argument("--home", type=Path, default=Path("build/aa-sweeps"))
    given = parser.parse_args()
    if given.real:
        real(given.real, given.home)
    else:
        simulated(given.sweeps, given.like)


if __name__ == "__main__":
    main()

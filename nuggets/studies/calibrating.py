"""Calibrating the verdict as it is used, on real training runs: pools, plan and report."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nuggets.disk.commit import atomic_write, make_folder
from nuggets.errors import BadInput
from nuggets.recipe import TransferRecipe, anchored, load_job, load_recipe
from nuggets.runs.results import cells
from nuggets.runs.store import Run
from nuggets.statistics.calibration import COMPARISONS, SEEDS, calibrate, n_disjoint
from nuggets.statistics.error_rates import (
    BOUNDED,
    Calibration,
    Design,
    Rate,
    together,
    upper_bound,
)
from nuggets.studies.markdown import markdown_table

POOL = 600
"""Seeds of each pool, trained at every rate; see docs/decisions/0026."""
GRID = (2.5e-3, 5.0e-3, 1.0e-2)
"""Learning rates, of which every seed keeps the one that is best on its validation items."""
SECONDS = 1.25
"""Of one training with its evaluation on one core, as 1,200 of them took."""


class Pool(NamedTuple):
    """One of the four: what is trained, whose student, and on how many samples."""

    task: str
    student: str
    n_train: int


POOLS = (
    Pool("reverse", "independent", 256),
    Pool("reverse", "sibling", 32),  # with 256 it gets .97 right, where nothing can be planted
    Pool("sub", "independent", 256),
    Pool("sub", "sibling", 256),
)
TITLES = {
    "helps": "“helps”, with an identical content control",
    "helps_without_controls": "“helps”, when the control cannot stop it",
    "hurts": "“hurts”",
    "same_as_controls": "“same as its controls”",
    "located": "“located”, beside an identical location control",
    "student": "interval used for the verdict excludes 0",
    "percentile": "percentile bootstrap interval excludes 0",
}
"""Field of a design → what was said of identical arms."""


def pool_recipes(n_pool: int = POOL) -> list[TransferRecipe]:
    """Plain LoRA with many seeds, as in the recipe `quick`, its rates tuned: one per pool."""
    seeds = ", ".join(str(seed) for seed in range(n_pool))
    return [
        load_recipe(
            "quick",
            (
                f"name=calibration-{pool.task}-{pool.student}",
                "description=Plain LoRA many times, for comparing identical arms.",
                f"student={pool.student}",
                f"data.task={pool.task}",
                f"data.n_train={pool.n_train}",
                "arms=[{kind: plain}]",
                "data.old_skills=[]",
                "train.evaluate_every=0",
                f"train.lr_grid=[{', '.join(str(rate) for rate in GRID)}]",
                f"seeds=[{seeds}]",
            ),
        )
        for pool in POOLS
    ]


def calibration_plan(n_pool: int = POOL) -> str:
    """What the four pools can show, as Markdown; to be read before anything is trained."""
    trainings = len(POOLS) * len(GRID) * n_pool
    rows = []
    for size in SEEDS:
        for name, title in (("hurts", "two arms"), ("helps", "three arms")):
            disjoint = len(POOLS) * n_disjoint(n_pool, size, name)
            rows.append((f"{size} seeds, {title}", str(disjoint), f"{upper_bound(0, disjoint):.3f}",
                         f"{upper_bound(1, disjoint):.3f}"))  # fmt: skip
    headers = ("design", "disjoint comparisons", "bound after 0 events", "after 1")
    return _PLAN.format(
        pools="; ".join(f"{p.task}, {p.student} student ({p.n_train} samples)" for p in POOLS),
        n_pool=n_pool,
        grid=", ".join(f"{rate:g}" for rate in GRID),
        trainings=trainings,
        hours=trainings * SECONDS / 3600,
        bounds=markdown_table(headers, rows),
    )


def calibrate_run(run: Run, arm: str = "plain", comparisons: int = COMPARISONS) -> Calibration:
    """Compares one arm of a run with itself, over all seeds that are finished.

    Args:
        run: a transfer with many seeds of that arm; it need not be at its end.
        arm: which arm.
        comparisons: at least so many A/A comparisons per number of seeds, measured and simulated.

    Raises:
        BadInput: if the arm has too few finished seeds.
    """
    job = load_job(run.recipe_text())
    pool = [cell for cell in cells(run) if cell.arm == arm]
    if not pool:
        raise BadInput(f"Run {run.id} has no finished seed of the arm {arm!r}.")
    if any("exact_match" not in cell.outcomes for cell in pool):
        raise BadInput(f"Run {run.id} did not measure exact match, which calibration needs.")
    return calibrate(
        [cell.outcomes["exact_match"] for cell in pool],
        task=job.data.task or job.name,
        student=job.student,
        arm=arm,
        kept=[cell.learning_rate for cell in pool],
        trials=[cell.trials for cell in pool],
        comparisons=comparisons,
        simulated=comparisons,
    )


def calibration(
    runs: Sequence[Run], arm: str = "plain", comparisons: int = COMPARISONS
) -> tuple[Calibration, str]:
    """How often the verdict is wrong on the runs' own arm, and the report as Markdown.

    Args:
        runs: one, or the four pools, whose comparisons are added up.
        arm: which arm.
        comparisons: at least so many A/A comparisons per run and number of seeds.

    Raises:
        BadInput: if a run has too few finished seeds of the arm.
    """
    pools = [calibrate_run(run, arm, comparisons) for run in runs]
    found = pools[0] if len(pools) == 1 else together(pools)
    words = ["nuggets", "calibrate"]
    if [load_job(run.recipe_text()) for run in runs] == _recipes(pools[0].n_pool):
        words += ["--pool", str(pools[0].n_pool)]
    else:
        words += [run.id for run in runs] + ["--arm", arm]
    words += ["--comparisons", str(comparisons)]
    return found, calibration_markdown(found, runs, shlex.join(words))


def _recipes(n_pool: int) -> list[TransferRecipe]:
    return [anchored(recipe) for recipe in pool_recipes(n_pool)]


def save_calibration(found: Calibration, text: str, out: Path) -> None:
    """Writes `calibration.md` and `calibration.json`; replaces older ones."""
    make_folder(out)
    atomic_write(out / "calibration.md", text)
    atomic_write(out / "calibration.json", found.model_dump_json(indent=1) + "\n")


def calibration_markdown(found: Calibration, runs: Sequence[Run], command: str) -> str:
    """The report of a calibration as Markdown."""
    record = runs[-1].record()
    finished = record.finished or record.started or record.created
    versions = ", ".join(f"{k} {v}" for k, v in record.provenance.versions.items())
    return _TEXT.format(
        answer=_answer(found),
        arm=found.arm,
        pools=_pools(found),
        errors=_errors(found),
        agreement=_agreement(found),
        power=_planted(found.designs, "found"),
        planned=_planned(found.designs),
        missed=_planted(found.designs, "not_located"),
        plan=f"{calibration_plan(found.pools[0].n_pool)}\n\n" if found.pools else "",
        command=command,
        runs=", ".join(run.id for run in runs),
        date=finished.strftime("%Y-%m-%d"),
        versions=versions,
    )


def _answer(found: Calibration) -> str:
    """Which numbers of seeds may make a claim, and which may not, with their bounds."""
    said = [
        f"With {design.n_seeds} seeds per arm "
        f"{'all false claims are' if design.allowed else 'NOT all false claims are'} shown to be "
        f"within 5 %: the largest upper end of their 95 % intervals is {100 * design.bound:.1f} %."
        for design in found.designs
    ]
    least = found.least_seeds
    claim = f"{least} seeds or more" if least else "more seeds than were measured here"
    return " ".join([*said, f"So a claim needs {claim}."])


def _pools(found: Calibration) -> str:
    rows = [
        (
            f"{pool.task}, {pool.student}" if pool.student else pool.task,
            str(pool.n_pool),
            str(pool.n_items),
            f"{pool.mean:.3f}",
            f"{pool.seed_sd:.3f}",
            "; ".join(
                f"{rate.learning_rate:g}: {rate.mean:.3f} ± {rate.seed_sd:.3f}, {rate.n_kept}"
                for rate in pool.rates
            ),
            *(f"{design.bound:.3f}" for design in pool.designs),
        )
        for pool in found.every_pool
    ]
    bounds = (f"bound, {design.n_seeds} seeds" for design in found.designs)
    headers = (
        "pool",
        "seeds",
        "items",
        "exact match",
        "sd over seeds",
        "each rate, kept by",
        *bounds,
    )
    return markdown_table(headers, rows)


def _errors(found: Calibration) -> str:
    columns = [
        (f"{design.n_seeds} seeds{words}", design)
        for designs, words in ((found.designs, ""), (found.simulated, ", simulated"))
        for design in designs
    ]
    rows = [
        (
            f"**{title}**" if name in BOUNDED else title,
            *(_rate(getattr(design, name), "simulated" in words) for words, design in columns),
        )
        for name, title in TITLES.items()
    ]
    return markdown_table(("claim about identical arms", *(words for words, _ in columns)), rows)


def _agreement(found: Calibration) -> str:
    """Which simulated rates lie outside the interval of the measured one."""
    outside = [
        f"{TITLES[name]} ({measured.n_seeds} seeds)"
        for measured, simulated in zip(found.designs, found.simulated, strict=False)
        for name in TITLES
        if not _holds(getattr(measured, name), getattr(simulated, name).value)
    ]
    if outside:
        return f"Simulated rates lie outside the measured intervals for {'; '.join(outside)}."
    return "Every simulated rate lies within the interval of the measured one."


def _holds(rate: Rate, value: float) -> bool:
    return rate.low <= value <= rate.high


def _planted(designs: Sequence[Design], field: str) -> str:
    names = dict.fromkeys(name for design in designs for name in getattr(design, field))
    rows = [
        (f"+{float(effect):.2f}", *(_rate(getattr(design, field)[effect]) for design in designs))
        for effect in names
    ]
    sizes = [f"{design.n_seeds} seeds" for design in designs]
    return markdown_table(("planted difference", *sizes), rows)


def _planned(designs: Sequence[Design]) -> str:
    return " and ".join(
        f"{'none' if d.planned is None else f'+{d.planned:.2f}'} with {d.n_seeds}" for d in designs
    )


def _rate(rate: Rate, alone: bool = False) -> str:
    if alone:
        return f"{rate.value:.3f}"
    return f"{rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}] of {rate.disjoint}"


_PLAN = """## Written before it ran

- Pools: {pools}. Plain LoRA as in the recipe `quick`, {n_pool} seeds each, every seed trained
  at the rates {grid} and keeping the one that is best on its own validation items.
- Trainings: {trainings}, about {hours:.1f} hours on one core.
- Endpoint: for each number of seeds, the upper end of the 95 % interval of the rate of a
  false “hurts”, “same as its controls”, “helps” (when the control cannot stop it) and “located”,
  over the disjoint comparisons of all pools together. Each has to be at most 5 %; otherwise
  experiments with so few seeds get no claim. Pools are not made larger afterwards.

{bounds}"""

_TEXT = """# Calibration of the verdict

How often is the verdict wrong on real training runs? One arm ({arm}) was trained with many seeds.
Disjoint groups of these seeds take the parts of baseline, treatment and controls, so every claim
of the verdict is false. {answer}

{pools}

For each learning rate: what all seeds did with it on validation items (mean and standard
deviation), and how many kept it. “Bound” is the largest upper end of a pool's own false claims in
bold below; a single pool holds too few comparisons to bring it to 5 %.

{plan}## Identical arms (A/A)

{errors}

The rates in bold are bounded by 5 %; “of” says how many comparisons shared no seed. “When the
control cannot stop it” is the worst case: the control is worse by 1 in every answer, so that only
the baseline can prevent a false claim. “Hurts” is measured likewise, “same as its controls” with
a control that has the treatment's own outcomes, and “located” where everything but the location
control is ruined. The last two rows compare the treatment with the baseline alone, in both
directions. The verdict rests on Student's interval with the crossed variance. Reports also show
the percentile interval of the hierarchical bootstrap (seeds, then items), but no decision rests
on it, because it excludes 0 too often. Simulated columns have seeds and items drawn from normal
distributions with the pools' means and spreads. {agreement}

## A planted effect

A share of the treatment's wrong answers is set to right, so that its exact match rises by the
difference in the first column, where so many are wrong. How often is the verdict then “helps”?
Planned for 80 %, with the spread of these seeds: {planned} seeds.

{power}

How often is it “not located”, although the difference was planted over the location control?

{missed}

## How

The comparisons of one round share no seed, and each round partitions the pool anew. Rates are
unbiased means over all rounds. Their 95 % intervals are Clopper–Pearson's and use only the number
of disjoint comparisons, since rounds share the pool (the variance of a U-statistic is at most
that of its disjoint comparisons).

- Command: `{command}`
- Runs: {runs}
- Date: {date}. Versions: {versions}.
"""

"""Calibrating the verdict on real training runs: the pool of identical arms, and its report."""

from __future__ import annotations

import shlex
from pathlib import Path

from nuggets.disk.commit import atomic_write, make_folder
from nuggets.errors import BadInput
from nuggets.recipe import TransferRecipe, anchored, load_job, load_recipe
from nuggets.runs.results import cells
from nuggets.runs.store import Run
from nuggets.statistics.calibration import COMPARISONS, Calibration, Design, Rate, calibrate
from nuggets.studies.markdown import markdown_table

POOL = 1200
"""Seeds of the pool: 133 disjoint comparisons of three arms with 3 seeds each, 80 with 5, so that
the interval of a rate that is nearly 0 ends below 5 %."""


def pool_recipe(n_pool: int = POOL) -> TransferRecipe:
    """Plain LoRA with many seeds, trained as in the recipe `quick`, evaluated at the end only."""
    seeds = ", ".join(str(seed) for seed in range(n_pool))
    return load_recipe(
        "quick",
        (
            "name=calibration",
            "description=Plain LoRA many times, for comparing identical arms.",
            "arms=[{kind: plain}]",
            "data.old_skills=[]",
            "train.evaluate_every=0",
            f"seeds=[{seeds}]",
        ),
    )


def calibrate_run(run: Run, arm: str = "plain", comparisons: int = COMPARISONS) -> Calibration:
    """Compares one arm of a run with itself, over all seeds that are finished.

    Args:
        run: a transfer with many seeds of that arm; it need not be at its end.
        arm: which arm.
        comparisons: at least so many A/A comparisons per number of seeds.

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
        arm=arm,
        comparisons=comparisons,
    )


def calibration(
    run: Run, arm: str = "plain", comparisons: int = COMPARISONS
) -> tuple[Calibration, str]:
    """How often the verdict is wrong on a run's own arm, and the report as Markdown.

    Raises:
        BadInput: if the run has too few finished seeds of the arm.
    """
    found = calibrate_run(run, arm, comparisons)
    words = ["nuggets", "calibrate"]
    if load_job(run.recipe_text()) != anchored(pool_recipe(found.n_pool)):
        words += [run.id, "--arm", arm]
    words += ["--pool", str(found.n_pool), "--comparisons", str(comparisons)]
    return found, calibration_markdown(found, run, shlex.join(words))


def save_calibration(found: Calibration, text: str, out: Path) -> None:
    """Writes `calibration.md` and `calibration.json`; replaces older ones."""
    make_folder(out)
    atomic_write(out / "calibration.md", text)
    atomic_write(out / "calibration.json", found.model_dump_json(indent=1) + "\n")


def calibration_markdown(found: Calibration, run: Run, command: str) -> str:
    """The report of a calibration as Markdown."""
    record = run.record()
    finished = record.finished or record.started or record.created
    versions = ", ".join(f"{k} {v}" for k, v in record.provenance.versions.items())
    return _TEXT.format(
        passed="within" if found.passed else "ABOVE",
        pool=found.n_pool,
        arm=found.arm,
        task=found.task,
        items=found.n_items,
        mean=found.mean,
        seed_sd=found.seed_sd,
        errors=_errors(found.designs),
        power=_power(found.designs),
        command=command,
        run=run.id,
        date=finished.strftime("%Y-%m-%d"),
        versions=versions,
    )


def _errors(designs: list[Design]) -> str:
    kinds = (
        ("“helps”, full rules with one content control", "helps"),
        ("“hurts”, full rules", "hurts"),
        ("“helps” when its control always fails", "helps_without_controls"),
        ("“located” beside an identical location control", "located"),
        ("interval used for the verdict excludes 0", "student"),
        ("percentile bootstrap interval excludes 0", "percentile"),
    )
    rows = [
        (title, *(_rate(getattr(design, field)) for design in designs)) for title, field in kinds
    ]
    rows.append(("comparisons (disjoint)", *(_counts(design.helps) for design in designs)))
    return markdown_table(("claim about identical arms", *_sizes(designs)), rows)


def _power(designs: list[Design]) -> str:
    rows = [
        (f"+{float(effect):.2f}", *(_rate(design.found[effect]) for design in designs))
        for effect in designs[0].found
    ]
    planned = ["none" if d.planned is None else f"+{d.planned:.2f}" for d in designs]
    rows.append(("planned for 80 %", *planned))
    return markdown_table(("planted difference", *_sizes(designs)), rows)


def _sizes(designs: list[Design]) -> list[str]:
    return [f"{design.n_seeds} seeds" for design in designs]


def _rate(rate: Rate) -> str:
    return f"{rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}]"


def _counts(rate: Rate) -> str:
    return f"{rate.n} ({rate.disjoint})"


_TEXT = """# Calibration of the verdict

How often is the verdict wrong on real training runs? One arm ({arm}) was trained with {pool} seeds
on `{task}` ({items} test items; exact match {mean:.3f}, its standard deviation over seeds
{seed_sd:.3f}). Disjoint groups of these seeds take the parts of baseline, treatment and control, so
every claim of the verdict is false. The rate of a false “helps” or “located” is {passed} the
promised 5 %.

## Identical arms (A/A)

{errors}

“When its control always fails” is the worst case: every answer of the control is set to wrong, so
that only the baseline can prevent a false claim. In the row after it, baseline and content control
are wrong everywhere, so that only the location control can. The two rows after it compare the
treatment with the baseline alone, in both directions. The verdict rests on Student's interval with
the crossed variance. Reports also show the percentile interval of the hierarchical bootstrap
(seeds, then items), but no decision rests on it, because it excludes 0 too often.

## A planted effect

A share of the treatment's wrong answers is set to right, so that its exact match rises by the
difference in the first column. The table shows how often the verdict is then “helps”.

{power}

## How

The comparisons of one round share no seed, and each round partitions the pool anew. Rates are
unbiased means over all rounds. Their 95 % intervals are Clopper–Pearson's and use only the number
of disjoint comparisons, since rounds share the pool (the variance of a U-statistic is at most that
of its disjoint comparisons).

- Command: `{command}`
- Run: {run}
- Date: {date}. Versions: {versions}.
"""

"""The winner once more, and the base beside it: fresh seeds, untouched test items, all arms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from nuggets.disk.home import runs_dir
from nuggets.recipe import TransferRecipe
from nuggets.runs import results
from nuggets.runs.context import RunContext
from nuggets.runs.store import Run, RunStore
from nuggets.statistics.cells import CellOutcome
from nuggets.statistics.comparisons import compare_family, higher_is_better
from nuggets.statistics.report import build_report
from nuggets.statistics.verdict import Difference
from nuggets.sweeps.objectives import optimism, score
from nuggets.sweeps.recipe import SweepRecipe
from nuggets.sweeps.trials import Confirmed, SweepState, SweepTrial, write_state


class Finish(Protocol):
    """How runs are made or gone on with: name → the finished run."""

    def __call__(
        self,
        recipes: Mapping[str, TransferRecipe],
        known: Mapping[str, str],
        began: Callable[[str, Run], None],
        ctx: RunContext,
    ) -> dict[str, Run]:
        """Tells every run to `began`; `known` has the ids of those that were begun before."""
        ...


def confirm(
    sweep: SweepRecipe, best: SweepTrial, state: SweepState, ctx: RunContext, finish: Finish
) -> None:
    """Makes the runs that confirm, and writes what they say.

    Args:
        sweep: what is searched.
        best: the winner.
        state: the finished search.
        ctx: the sweep's.
        finish: makes runs or goes on with them.
    """
    recipes = {
        "winner": sweep.confirming_recipe(best.values, "confirmed"),
        "default": sweep.confirming_recipe({}, "default"),
    }
    same = recipes["winner"].model_copy(update={"name": recipes["default"].name})
    if same == recipes["default"]:
        del recipes["default"]

    def began(which: str, run: Run) -> None:
        nonlocal state
        known = {**state.confirming, which: run.id}
        state = state.model_copy(update={"confirming": known})
        write_state(ctx.folder, state, ())

    runs = finish(recipes, state.confirming, began, ctx)
    searched = results.cells(RunStore(runs_dir()).open(best.run))
    default = runs.get("default", runs["winner"])
    confirmed = results.cells(runs["winner"])
    cells = results.cells(default) if "default" in runs else confirmed
    found = summarise(sweep, best, searched, confirmed, cells)
    found = found.model_copy(update={"run": runs["winner"].id, "default_run": default.id})
    write_state(ctx.folder, state.model_copy(update={"confirmed": found}), ())


def summarise(
    sweep: SweepRecipe,
    best: SweepTrial,
    searched: Sequence[CellOutcome],
    confirmed: Sequence[CellOutcome],
    default: Sequence[CellOutcome],
) -> Confirmed:
    """What the confirmation says.

    Args:
        sweep: what was searched.
        best: the winner.
        searched: the cells of its trial.
        confirmed: those of its confirmation.
        default: those of the base's; the same where the base won.
    """
    data = sweep.base.data
    report = build_report(
        confirmed,
        task=data.task or sweep.base.name,
        metric=data.metric,
        higher_is_better=higher_is_better(data.metric),
        ground=sweep.base.ground,
    )
    return Confirmed(
        trial=best.number,
        run="",
        default_run="",
        verdict=report.verdicts.get(sweep.judged, report.verdict),
        selected=best.scores,
        scores=score(sweep, confirmed),
        default_scores=score(sweep, default),
        optimism=optimism(sweep, searched, confirmed),
        gains=() if confirmed is default else tuple(_gains(sweep, confirmed, default)),
    )


def _gains(
    sweep: SweepRecipe, confirmed: Sequence[CellOutcome], default: Sequence[CellOutcome]
) -> list[Difference]:
    """The winner's arm against the base's own, and against plain LoRA as the base trains it.

    Plain LoRA at the winner's settings may be worse than at the base's: a search that looks for a
    difference can find settings that harm its baseline.
    """
    metric, arm, plain = sweep.base.data.metric, sweep.judged, sweep.baseline

    def outcomes(cells: Sequence[CellOutcome], name: str) -> dict[int, list[float]]:
        return {cell.seed: cell.outcomes[metric] for cell in cells if cell.arm == name}

    tuned = f"{arm} (winner)"
    others = {f"{name} (default)": outcomes(default, name) for name in (arm, plain) if name}
    family = [(tuned, name) for name in others]
    both = {tuned: outcomes(confirmed, arm), **others}
    return compare_family(both, family, higher_is_better(metric))

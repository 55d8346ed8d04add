"""What a sweep found, in sentences: the best trial so far, or what was confirmed of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nuggets.amounts import plain_name, setting
from nuggets.statistics.intervals import Interval
from nuggets.statistics.verdict import in_words
from nuggets.sweeps.objectives import winner
from nuggets.sweeps.recipe import SweepRecipe, scored_on
from nuggets.sweeps.trials import Confirmed, SweepState


def sentences(sweep: SweepRecipe, state: SweepState) -> list[str]:
    """What was found, one sentence each; a verdict only once the winner is confirmed."""
    best = winner(sweep, state.trials)
    said = [state.stopped] if state.stopped else []
    if failed := [trial for trial in state.trials if trial.status == "failed"]:
        many = f"{len(failed)} trials failed; the first one" if failed[1:] else "One trial failed"
        said.append(f"{many}: {failed[0].reason}")
    if pruned := [trial for trial in state.trials if trial.status == "pruned"]:
        were = "were" if pruned[1:] else "was"
        said.append(f"{len(pruned)} of {len(state.trials)} trials {were} pruned before their last "
                    "step, because others had come further; none of them can win.")  # fmt: skip
    if best is None:
        return said
    where = f"trial {best.number} ({_values(best.values)})"
    if state.confirmed is None:
        scores = _scores(sweep, best.scores)
        on = scored_on(*sweep.objective)
        return [*said, f"Best so far on {on}: {where} with {scores}. It is not confirmed yet: the "
                "best of many trials looks better than it is."]  # fmt: skip
    return [*said, *_confirmed(sweep, state.confirmed, where)]


def counted_on(sweep: SweepRecipe, found: Confirmed) -> str:
    """The items on which each objective is confirmed: retention counts those of old skills."""
    counted = [
        f"{score.n_items} {'items of old skills' if name == 'retention' else 'test items'}"
        for name, score in zip(sweep.objective, found.scores, strict=True)
    ]
    return " and ".join(dict.fromkeys(counted))


def _confirmed(sweep: SweepRecipe, found: Confirmed, where: str) -> list[str]:
    said = [
        f"Confirmed on {found.scores[0].n_seeds} fresh seeds and {counted_on(sweep, found)} that "
        f"no trial saw: {where} has "
        f"{_scores(sweep, found.scores)}; the search had seen {_scores(sweep, found.selected)}."
    ]
    for name, gap in zip(sweep.objective, found.optimism, strict=True):
        verb = "overrated" if gap.low > 0 else "underrated" if gap.high < 0 else ""
        seen = (
            f"The search {verb} the {name} by {_interval(gap)}"
            if verb
            else f"Selected minus confirmed {name} is {_interval(gap)}, statistically "
            "indistinguishable from 0"
        )
        said.append(f"{seen}.")
    if not found.gains:
        said.append("The base itself won.")
    # The comparison is in the judged metric, whatever was searched for.
    in_what = f" in {plain_name(sweep.base.data.metric)}" if "retention" in sweep.objective else ""
    for gain in found.gains:
        told = "better than" if gain.better else "worse than" if gain.worse else ""
        verb = told or "statistically indistinguishable from"
        said.append(
            f"{in_words(gain.arm)} is {verb} {in_words(gain.versus)}{in_what}: "
            f"{_interval(gain.interval)}."
        )
    return [*said, found.verdict.sentence]


def _scores(sweep: SweepRecipe, scores: tuple[Interval, ...]) -> str:
    pairs = zip(sweep.objective, scores, strict=True)
    return " and ".join(
        f"a {name} of {_interval(found, name == 'difference')}" for name, found in pairs
    )


def _interval(found: Interval, signed: bool = True) -> str:
    sign = "+" if signed else ""
    text = f"{found.mean:{sign}z.3f} [{found.low:{sign}z.3f}, {found.high:{sign}z.3f}]"
    return text.replace("-", "−")


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{field} = {setting(value)}" for field, value in values.items())

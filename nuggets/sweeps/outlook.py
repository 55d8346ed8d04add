"""What a whole sweep will take and can show, before anything starts."""

from __future__ import annotations

from nuggets.errors import BadInput
from nuggets.frozen import Frozen
from nuggets.planning.outlook import Outlook, look_ahead
from nuggets.statistics.power import DetectableEffect
from nuggets.sweeps.recipe import SweepRecipe
from nuggets.sweeps.samplers import check_optuna


class SweepOutlook(Frozen):
    """A sweep's preflight.

    Attributes:
        refusals: why it would not be started, one sentence each.
        n_trials: how many trials there will be at most.
        n_trainings: trainings of all trials, each arm, seed and learning rate.
        seconds: of all trials and the confirmation, without what they share; None on an unknown
            device.
        memory: the most that a stage of any of them needs, in bytes; None where none is known.
        seen_in_search: the smallest difference that one trial can show.
        seen_in_confirmation: the smallest difference that the confirmation can show.
    """

    refusals: tuple[str, ...]
    n_trials: int
    n_trainings: int
    seconds: float | None
    memory: int | None
    seen_in_search: DetectableEffect | None
    seen_in_confirmation: DetectableEffect | None


def smallest(seen: DetectableEffect | None) -> str:
    """The smallest difference that a design can show, in two decimals, or why there is none."""
    if seen is None:
        return "unknown"
    return "none" if seen.value is None else f"{seen.value:.2f}"


def plan_sweep(sweep: SweepRecipe) -> SweepOutlook:
    """Looks at trials in the corners of the space, and at the confirmation.

    Nothing is loaded, measured or trained.

    Raises:
        BadInput: if a model is none at all, or the device is not there.
    """
    trials = [look_ahead(recipe) for recipe in sweep.corner_recipes()]
    confirming = look_ahead(sweep.confirming_recipe({}, "default"))
    looks = [*trials, confirming]
    seconds = [look.seconds[1] for look in trials if look.seconds is not None]
    whole = None
    if seconds and confirming.seconds is not None:
        whole = sweep.n_trials * sum(seconds) / len(seconds) + 2 * confirming.seconds[1]
    one = sweep.trial_recipe({})
    cells = sum(arm.trains for arm in one.arms) * len(one.seeds) * len(one.train.rates)
    refusals = [said for look in looks for said in look.refusals]
    try:
        check_optuna()
    except BadInput as missing:
        refusals.append(str(missing))
    return SweepOutlook(
        refusals=tuple(dict.fromkeys(refusals)),
        n_trials=sweep.n_trials,
        n_trainings=sweep.n_trials * cells,
        seconds=whole,
        memory=max((m for look in looks for m in _memory(look)), default=None),
        seen_in_search=trials[0].detectable,
        seen_in_confirmation=confirming.detectable,
    )


def _memory(look: Outlook) -> list[int]:
    return [stage.bytes_needed for stage in look.stages]

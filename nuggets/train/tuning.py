"""Which learning rate a seed keeps: the one that does best on its validation items."""

from __future__ import annotations

from collections.abc import Sequence

from nuggets.errors import NonFinite
from nuggets.statistics.cells import Trial
from nuggets.statistics.comparisons import higher_is_better


def best_trial(trials: Sequence[Trial], metric: str, name: str) -> Trial:
    """The trial that is kept.

    The best value of the metric wins, then the lowest loss (early in learning nothing is right
    yet and only the loss tells), then the smaller learning rate.

    Args:
        trials: one per rate; those that diverged have no value.
        metric: what the verdict is about.
        name: of the arm, for messages.

    Raises:
        NonFinite: if training diverged at every learning rate.
    """
    sign = 1.0 if higher_is_better(metric) else -1.0
    ranked = [
        ((sign * trial.value, -trial.loss, -trial.lr), index)
        for index, trial in enumerate(trials)
        if trial.value is not None and trial.loss is not None
    ]
    if not ranked:
        raise NonFinite(
            f"The arm {name} diverged at every learning rate: "
            f"{', '.join(f'{trial.lr:g}' for trial in trials)}. Add smaller ones to the grid."
        )
    return trials[max(ranked)[1]]

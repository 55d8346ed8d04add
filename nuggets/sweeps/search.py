"""Asking Optuna for trials: its journal lies in the sweep's folder and survives every kill."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from nuggets.sweeps.objectives import sign
from nuggets.sweeps.recipe import SweepRecipe
from nuggets.sweeps.samplers import SAMPLERS, check_optuna
from nuggets.sweeps.space import Dimension, Values, active, points
from nuggets.sweeps.trials import SweepTrial

JOURNAL = "journal.log"
STUDY = "sweep"


class Search:
    """A sweep's study, asked for one trial after another.

    Values are given to Optuna by their place in the list: as whole numbers where they have an
    order, so that a sampler knows which are near each other.
    """

    def __init__(self, sweep: SweepRecipe, folder: Path) -> None:
        """Opens the journal, or begins it.

        Raises:
            BadInput: if Optuna is not installed.
        """
        check_optuna()
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        _mend(folder / JOURNAL)
        backend = JournalFileBackend(str(folder / JOURNAL))
        up: Any = "maximize"
        self._sweep = sweep
        self._study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name=STUDY,
            directions=[up] * len(sweep.objective),
            load_if_exists=True,
        )
        if sweep.prune is not None:
            self._study.pruner = optuna.pruners.SuccessiveHalvingPruner(
                min_resource=sweep.prune.first, reduction_factor=sweep.prune.factor
            )
        self._asked: dict[int, Any] = {}
        self._told = 0
        self._importance: tuple[int, tuple[dict[str, float], ...]] = (0, ())
        if sweep.sampler == "grid":
            queued = list(points(sweep.space))
            for values in queued[len(self._study.get_trials(deepcopy=False)) :]:
                self._study.enqueue_trial(self._places(values))

    def ask(self, taken: Collection[int] = ()) -> tuple[int, Values]:
        """The number and the values of the next trial, or of one that a kill cut off.

        Args:
            taken: trials that are at work.
        """
        from optuna.trial import Trial, TrialState

        known = self._study.get_trials(deepcopy=False)
        cut_off = (t for t in known if t.state == TrialState.RUNNING and t.number not in taken)
        begun = next(cut_off, None)
        turn = begun.number if begun else sum(t.state != TrialState.WAITING for t in known)
        self._study.sampler = SAMPLERS[self._sweep.sampler](self._sweep.seed, turn)
        chosen: Values = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of experimental samplers
            trial = self._study.ask() if begun is None else Trial(self._study, begun._trial_id)
            for field, dimension in self._sweep.space.items():
                if active(dimension, chosen):
                    chosen[field] = _suggest(trial, field, dimension)
        self._asked[trial.number] = trial
        return trial.number, chosen

    def falls_behind(self, number: int, step: int, value: float) -> bool:
        """Tells a point of a trial's curve, larger is better; whether the trial is to stop."""
        trial = self._asked[number]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a point that was told before a kill
            trial.report(value, step)
        return trial.should_prune()

    def tell(self, trial: SweepTrial) -> None:
        """Tells the study how a trial ended; again is as once."""
        from optuna.trial import TrialState

        self._told += 1
        if trial.status == "done":
            signs = (sign(self._sweep, name) for name in self._sweep.objective)
            values = [s * found.mean for s, found in zip(signs, trial.scores, strict=True)]
            self._study.tell(trial.number, values, skip_if_finished=True)
        else:
            state = TrialState.PRUNED if trial.status == "pruned" else TrialState.FAIL
            self._study.tell(trial.number, state=state, skip_if_finished=True)

    def importance(self, whole: bool = False) -> tuple[dict[str, float], ...]:
        """Per objective, field → importance by PED-ANOVA; empty while there is too little to say.

        It looks at all trials, so it is found anew only when a twentieth more have ended, or when
        the `whole` is asked for.

        Source: Watanabe, Bansal, Hutter, IJCAI 2023 (arXiv 2304.10255). Fields that only some
        trials have are left out.
        """
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

        def one(place: int) -> dict[str, float]:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    return get_param_importances(
                        self._study,
                        evaluator=PedAnovaImportanceEvaluator(),
                        target=lambda trial: trial.values[place],
                    )
            except (ValueError, RuntimeError):  # fewer than two trials, or none differ
                return {}

        if whole or self._told >= 1.05 * self._importance[0]:
            found = [one(place) for place in range(len(self._sweep.objective))]
            finite = tuple({k: float(v) for k, v in each.items() if v == v} for each in found)
            self._importance = (self._told, finite)
        return self._importance[1]

    def _places(self, values: Values) -> dict[str, Any]:
        space = self._sweep.space
        return {
            field: space[field].ordered.index(value) if space[field].values else value
            for field, value in values.items()
        }


def _mend(journal: Path) -> None:
    """Cuts a line that a kill tore, and removes the lock that it left: one worker has the folder.

    Optuna refuses a journal with anything behind a torn line.
    """
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    if journal.is_file():
        whole = journal.read_bytes()
        with journal.open("r+b") as file:
            file.truncate(whole.rfind(b"\n") + 1)


def _suggest(trial: Any, field: str, dimension: Dimension) -> Any:
    if dimension.values:
        last = len(dimension.values) - 1
        place = (
            trial.suggest_int(field, 0, last)
            if dimension.numeric and last
            else trial.suggest_categorical(field, tuple(range(last + 1)))
        )
        return dimension.ordered[place]
    low, high, step = dimension.low, dimension.high, dimension.step
    if dimension.whole:
        ends = int(low or 0), int(high or 0)
        return trial.suggest_int(field, *ends, log=dimension.log, step=int(step or 1))
    return dimension.number(trial.suggest_float(field, low, high, log=dimension.log, step=step))


def same_values(trials: Sequence[SweepTrial], values: Values) -> SweepTrial | None:
    """A finished or pruned trial of the same values, which is not computed again."""
    ended = (trial for trial in trials if trial.status in ("done", "pruned"))
    return next((trial for trial in ended if trial.values == values), None)


def outcome_of(trial: SweepTrial) -> dict[str, Any]:
    """What another trial of the same values found, too."""
    return {name: getattr(trial, name) for name in ("run", "scores", "status", "reason")}

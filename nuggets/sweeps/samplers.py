"""How trials are chosen, all by Optuna, which is imported when a sweep runs: one function a way."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

from nuggets.errors import BadInput


def check_optuna() -> None:
    """Refuses to go on without Optuna.

    Raises:
        BadInput: saying what to install.
    """
    if importlib.util.find_spec("optuna") is None:
        raise BadInput("Sweeps need Optuna, which is not installed: pip install 'nuggets[sweep]'.")


def _optuna(name: str, **options: Any) -> Any:
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return getattr(optuna.samplers, name)(**options)


def _random(seed: int, turn: int) -> Any:
    return _optuna("RandomSampler", seed=_mixed(seed, turn))


def _sobol(seed: int, turn: int) -> Any:
    # Its place in the sequence is in the journal, so the seed of the scrambling must stay.
    return _optuna("QMCSampler", qmc_type="sobol", scramble=True, seed=seed,
                   warn_independent_sampling=False, warn_asynchronous_seeding=False)  # fmt: skip


def _tpe(seed: int, turn: int) -> Any:
    return _optuna("TPESampler", seed=_mixed(seed, turn), multivariate=True, group=True)


def _gp(seed: int, turn: int) -> Any:
    return _optuna("GPSampler", seed=_mixed(seed, turn), deterministic_objective=False)


def _mixed(seed: int, turn: int) -> int:
    """A seed for every turn, so that a resumed sweep goes on as if nothing had happened."""
    return (seed * 1_000_003 + turn * 7919) % 2**31


SAMPLERS: dict[str, Callable[[int, int], Any]] = {
    "grid": _random,  # its points are queued; nothing is left to draw
    "random": _random,
    "sobol": _sobol,
    "tpe": _tpe,
    "gp": _gp,
}
"""Name → (seed, the number of the trial) → Optuna's sampler for the next one."""
LEARNING = ("tpe", "gp")
"""Samplers whose proposals depend on what earlier trials found."""

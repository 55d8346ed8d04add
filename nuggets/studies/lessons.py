"""Measured results that are shipped for teaching, in `assets/learn`.

Each file names the command that made it; nothing here is computed again.
"""

from __future__ import annotations

from nuggets.disk.carried import carried
from nuggets.errors import BadInput
from nuggets.frozen import Frozen
from nuggets.statistics.error_rates import Calibration
from nuggets.statistics.report import BenchmarkReport
from nuggets.statistics.verdict import ArmRole


class ControlsLesson(Frozen):
    """A finished transfer with its controls.

    Attributes:
        command: what made it.
        run: the id of the run.
        date: when it was made.
        setting: task, samples, steps, seeds in one line.
        step0_difference: arm → largest absolute logit difference before training, over seeds.
        report: as `api.report` gives it.
    """

    command: str
    run: str
    date: str
    setting: str
    step0_difference: dict[str, float]
    report: BenchmarkReport


class Cut(Frozen):
    """Students cut out of the teacher in one way, then tuned: exact match with its interval."""

    origin: str
    role: ArmRole
    value: float
    low: float
    high: float


class CutDifference(Frozen):
    """Cut by sensitivity minus cut in another way."""

    versus: str
    value: float
    low: float
    high: float


class GraftLesson(Frozen):
    """How students do by the way they were cut, and the verdict; see `ControlsLesson`."""

    command: str
    run: str | None
    date: str
    setting: str
    arms: tuple[Cut, ...]
    differences: tuple[CutDifference, ...]
    verdict: str


def controls() -> ControlsLesson:
    """The paper's start beside its controls. Raises BadInput where it is not shipped."""
    return ControlsLesson.model_validate_json(_read("assets/learn/controls.json"))


def graft() -> GraftLesson:
    """Cuts by sensitivity beside their controls. Raises BadInput where it is not shipped."""
    return GraftLesson.model_validate_json(_read("assets/learn/graft.json"))


def calibration() -> Calibration:
    """Error rates of the verdict. Raises BadInput where they are not shipped."""
    return Calibration.model_validate_json(_read("docs/calibration.json"))


def _read(name: str) -> str:
    try:
        return carried(name).read_text()
    except OSError:
        raise BadInput(f"{name} is missing from this installation of Nuggets.") from None

"""What a chapter of the Learn page is asked for, and what it gives back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from nuggets import api
from nuggets.documents import colours
from nuggets.recipe import SensitivityJob, TransferRecipe
from nuggets.ui.frame import measure
from nuggets.ui.frame.share import Picture
from nuggets.ui.sensitivity.sources import Source

TEACHER, STUDENT, SIBLING = "teacher", "independent", "sibling"
RANK = 16


class Scene(NamedTuple):
    """One chapter with its numbers.

    Attributes:
        picture: stands beside the formula.
        answer: place of the right option.
        because: the measured numbers behind it, in a sentence or two.
        revealed: a second figure, shown with the answer.
        instead: the second figure holds the first and takes its place.
    """

    picture: Picture
    answer: int
    because: str
    revealed: Picture | None = None
    instead: bool = False


class NotMeasured(Exception):
    """A chapter needs measurements that are not there yet."""

    def __init__(self, jobs: Sequence[measure.Measurement]):
        super().__init__("not measured yet")
        self.jobs = list(jobs)


class Asked(NamedTuple):
    """What the scenes are about: a built-in skill, a device, the look of figures."""

    task: str
    device: str
    look: colours.Look

    @property
    def about(self) -> str:
        """Where the numbers come from, for captions."""
        return f"{self.task}, {TEACHER} → {STUDENT}"

    def recipe(self, selector: str = "window") -> TransferRecipe:
        """What would be extracted with a matrix selector."""
        return TransferRecipe.model_validate(
            {
                "teacher": TEACHER,
                "student": STUDENT,
                "device": self.device,
                "data": {"task": self.task},
                "extraction": {"matrices": {"kind": selector}},
                "lora": {"r": RANK},
            }
        )

    def source(self) -> Source:
        """The teacher's map.

        Raises:
            NotMeasured: if there is none.
        """
        data = api.DataConfig(task=self.task)
        job = SensitivityJob(model=TEACHER, data=data, device=self.device)
        found = measure.measured_map(job)
        if found is None:
            raise NotMeasured([job])
        return Source(self.task, job, found)


def percent(share: float) -> str:
    """A share in percent, for sentences."""
    return f"{100 * share:.0f} %"

"""What a chapter of the Learn page is asked for, and what it gives back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
import plotly.graph_objects as go

from nuggets import api
from nuggets.documents import colours
from nuggets.recipe import SensitivityJob, TransferRecipe
from nuggets.ui.frame import measure

TEACHER, STUDENT, SIBLING = "teacher", "independent", "sibling"
RANK = 16


class Picture(NamedTuple):
    """A figure with what `share.figure` needs beside it."""

    figure: go.Figure
    data: pd.DataFrame
    key: str
    caption: str
    command: str | None
    python: str | None
    alt: str


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
    def job(self) -> SensitivityJob:
        """The measurement of the teacher."""
        data = api.DataConfig(task=self.task)
        return SensitivityJob(model=TEACHER, data=data, device=self.device)

    @property
    def origin(self) -> str:
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

    def map(self) -> api.SensitivityMap:
        """The teacher's map.

        Raises:
            NotMeasured: if there is none.
        """
        found = measure.measured_map(self.job)
        if found is None:
            raise NotMeasured([self.job])
        return found


def percent(share: float) -> str:
    """A share in percent, for sentences."""
    return f"{100 * share:.0f} %"

"""What each chapter of the Learn page shows, and the answer to its question, from real numbers.

A scene has a figure that stands beside the formula, an answer, and a figure that would give the
answer away and is shown only with it. Numbers come from maps and alignments measured here, or
from results that the project ships; `NotMeasured` names what is missing.
"""

from __future__ import annotations

from collections.abc import Callable

from nuggets.ui import learn_measured, learn_shipped
from nuggets.ui.learn_asked import Asked, Scene


def scene(key: str, asked: Asked) -> Scene:
    """The scene of a chapter.

    Raises:
        NotMeasured: naming the jobs that it needs.
        NuggetsError: if models or shipped results are missing.
    """
    return _SCENES[key](asked)


_SCENES: dict[str, Callable[[Asked], Scene]] = {
    "sensitivity": learn_measured.sensitivity,
    "layers": learn_measured.layers,
    "windows": learn_measured.windows,
    "svd": learn_measured.svd,
    "subtraction": learn_measured.subtraction,
    "controls": learn_shipped.controls,
    "intervals": learn_shipped.intervals,
    "transfer": learn_shipped.transfer,
}

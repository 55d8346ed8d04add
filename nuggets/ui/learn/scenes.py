"""What each chapter of the Learn page shows, and the answer to its question, from real numbers.

A scene has a figure that stands beside the formula, an answer, and a figure that would give the
answer away and is shown only with it. Numbers come from maps and alignments measured here, or
from results that the project ships; `NotMeasured` names what is missing.
"""

from __future__ import annotations

from collections.abc import Callable

from nuggets.ui.learn import measured, shipped
from nuggets.ui.learn.asked import Asked, Scene


def scene(key: str, asked: Asked) -> Scene:
    """The scene of a chapter.

    Raises:
        NotMeasured: naming the jobs that it needs.
        NuggetsError: if models or shipped results are missing.
    """
    return _SCENES[key](asked)


_SCENES: dict[str, Callable[[Asked], Scene]] = {
    "erase": measured.erase,
    "sensitivity": measured.sensitivity,
    "layers": measured.layers,
    "windows": measured.windows,
    "svd": measured.svd,
    "subtraction": measured.subtraction,
    "controls": shipped.controls,
    "intervals": shipped.intervals,
    "transfer": shipped.transfer,
    "words": shipped.words,
}

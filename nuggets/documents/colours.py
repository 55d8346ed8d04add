"""The colours of every figure and page, on light and on dark paper."""

from __future__ import annotations

from typing import NamedTuple

# Okabe & Ito, without black, which is the ink: told apart by every kind of colour vision.
ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#8C8C8C"
CATEGORIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, YELLOW)
ROLE_COLOURS = {
    "treatment": ORANGE,
    "baseline": BLUE,
    "content_control": GREY,
    "location_control": SKY,
    "comparator": GREEN,
    "reference": PURPLE,
}


class Look(NamedTuple):
    """The colours of one theme."""

    paper: str
    ink: str
    muted: str
    grid: str

    @property
    def dark(self) -> bool:
        """Whether ink is light on dark paper."""
        return self.paper != "#ffffff"

    @property
    def blue(self) -> str:
        """The blue that is seen best on this paper."""
        return SKY if self.dark else BLUE


LIGHT = Look(paper="#ffffff", ink="#1f2430", muted="#5d6472", grid="#e3e6eb")
DARK = Look(paper="#0e1117", ink="#f1f3f7", muted="#a6adbb", grid="#2c313c")

"""Which windows are to be chosen while a map is measured. Torch-free."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nuggets.core.architecture import ROLES, ArchSpec
from nuggets.core.selectors import NeuronsSelector, WindowSelector
from nuggets.frozen import Frozen

SearchedSelector = Annotated[WindowSelector | NeuronsSelector, Field(discriminator="kind")]
"""Selectors that look at every entry of one matrix, and at nothing else."""


class WindowRequest(Frozen):
    """For which student, and by which selectors.

    Attributes:
        shapes: role → shape of the student's weight as stored, `[out, in]`.
        selectors: each chooses in every matrix.
    """

    shapes: dict[str, tuple[int, int]]
    selectors: tuple[SearchedSelector, ...] = (WindowSelector(),)

    @classmethod
    def of(cls, student: ArchSpec, selectors: tuple[SearchedSelector, ...]) -> WindowRequest:
        """The request that a student's dimensions make."""
        shapes = {role: student.shape(role) for role in ROLES if student.has(role)}
        return cls(shapes=shapes, selectors=selectors)

"""Which windows are to be chosen while a map is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from nuggets.extraction.selectors import MatrixSelector, Searching, WindowSelector
from nuggets.frozen import Frozen, members
from nuggets.models.architecture import ROLES, ArchSpec

if TYPE_CHECKING:
    SearchedSelector = Searching
else:
    _SEARCHING = tuple(m for m in members(MatrixSelector).values() if issubclass(m, Searching))
    SearchedSelector = Annotated[Union[_SEARCHING], Field(discriminator="kind")]  # noqa: UP007
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

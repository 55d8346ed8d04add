"""What every arm is. Torch-free at import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from nuggets.bench.verdict import ArmRole
from nuggets.frozen import Frozen

if TYPE_CHECKING:
    from nuggets.train.lab import Lab, Trainee


class ArmBase(Frozen):
    """What all arms share.

    Attributes:
        label: the arm's name in the report, so that one kind can appear twice.
    """

    role: ClassVar[ArmRole]
    title: ClassVar[str]
    stacks: ClassVar[Literal["adapter", "own_base", "whole"] | None] = None
    """What it trains, if it can share a program with other arms of the same: an adapter of the
    untouched student, an adapter of another base, or a whole model."""
    runs_teacher: ClassVar[bool] = False
    """Whether it runs the teacher or copies it whole; other arms read single matrices."""
    keeps_function: ClassVar[bool] = True
    """Whether the student's function is unchanged at step 0."""
    kind: Any  # a literal in every arm
    label: str | None = Field(default=None, min_length=1, max_length=40)

    @property
    def name(self) -> str:
        """What the report calls this arm."""
        return self.label or self.kind

    def build(self, lab: Lab, seed: int) -> Trainee:
        """Makes what is trained; the lab's models are not changed.

        Raises:
            BadInput: if the pair or the data cannot serve this arm, in one sentence.
        """
        raise NotImplementedError

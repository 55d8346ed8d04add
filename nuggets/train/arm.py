"""What every arm is. Torch-free at import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from nuggets.bench.verdict import Role
from nuggets.core.architecture import Frozen

if TYPE_CHECKING:
    from nuggets.train.lab import Lab, Trainee


class ArmBase(Frozen):
    """What all arms share.

    Attributes:
        label: the arm's name in the report, so that one kind can appear twice.
        keeps_function: whether the student's function is unchanged at step 0.
    """

    role: ClassVar[Role]
    title: ClassVar[str]
    keeps_function: ClassVar[bool] = True
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

"""Arms that bring the teacher into the student's basis: ideas beyond the paper, pre-registered.

See `docs/paper/preregistration.md` for what each one may look at and what would count as success.
None of them sees the teacher on a held-out item.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field

from nuggets.errors import BadInput
from nuggets.extraction.plan import ExtractionConfig
from nuggets.models.architecture import ArchSpec
from nuggets.statistics.verdict import ArmRole, Part
from nuggets.train.arms.base import ArmBase

if TYPE_CHECKING:
    from nuggets.train.lab import Lab, Trainee


class Aligned(ArmBase):
    """What these arms share.

    Attributes:
        control: destroys the correspondence of the two models and keeps sizes: the idea's content
            control.
        n_general: general samples on which the maps are fitted, beside the training samples.
    """

    runs_teacher: ClassVar[bool] = True
    compares_tokens: ClassVar[bool] = True
    needs_general: ClassVar[bool] = True
    control: bool = False
    n_general: int = Field(default=512, ge=8)

    @property
    def role(self) -> ArmRole:  # type: ignore[override]
        """Treatment, or its content control."""
        return "content_control" if self.control else "treatment"

    @classmethod
    def offered(cls) -> tuple[Self, ...]:
        """The idea, and its control."""
        return cls.model_validate({}), cls.model_validate({"control": True})

    def part(self, common: ExtractionConfig, task: str | None) -> Part:
        """A control judges the idea with the same settings."""
        return Part(self.role, self._kind_with("control"))

    @property
    def name(self) -> str:
        """What the report calls this arm."""
        return self.label or (f"{self.kind}_control" if self.control else self.kind)

    def _check_roles(self, changed: Collection[str], roles: Collection[str]) -> None:
        """Refuses a LoRA without the matrices that the arm starts from the teacher."""
        if lacking := [role for role in changed if role not in roles]:
            raise BadInput(
                f"The arm {self.name} starts the LoRA of {', '.join(changed)} from the teacher, "
                f"but extraction.roles lacks {', '.join(lacking)}. Add {', '.join(lacking)}, or "
                "remove the arm."
            )


class Memories(Aligned):
    """LoRA that starts with the teacher's most sensitive FFN neurons in place of unused ones."""

    title: ClassVar[str] = "Aligned memories"
    keeps_function: ClassVar[bool] = False
    family = "start"
    kind: Literal["memories"] = "memories"

    def check(self, teacher: ArchSpec, student: ArchSpec, roles: Collection[str]) -> None:
        """Refuses a model whose FFN has no gate, of which a neuron's key is a part."""
        for who, spec in (("teacher", teacher), ("student", student)):
            if not spec.has("gate"):
                raise BadInput(
                    f"The arm {self.name} needs a gate in the FFNs of both models, but the {who}, "
                    f"a {spec.model_type}, has none. Choose another model, or remove the arm."
                )
        self._check_roles(("gate", "up", "down"), roles)

    def build(self, lab: Lab, seed: int) -> Trainee:
        """Maps keys and values into the student's basis and puts them there."""
        from nuggets.train.builders import aligned

        return aligned.with_memories(lab, seed, self)


class States(Aligned):
    """Plain LoRA whose states are also drawn to the teacher's, on general samples.

    Attributes:
        weight: of that pull beside the answer's likelihood.
    """

    title: ClassVar[str] = "Aligned states"
    kind: Literal["states"] = "states"
    weight: float = Field(default=1.0, gt=0)

    def build(self, lab: Lab, seed: int) -> Trainee:
        """Fits the maps once and adds a fresh LoRA with both losses."""
        from nuggets.train.builders import aligned

        return aligned.with_states(lab, seed, self)


class Hints(Aligned):
    """The student first learns the teacher's states on general samples, then gets a plain LoRA.

    All weights and one linear map per layer are trained together (FitNets, arXiv 1412.6550), so
    that the student may encode whatever the teacher's states hold.

    Attributes:
        steps: of that first training, on answers of general samples and on states.
        lr: its learning rate.
        batch: samples per step.
        weight: of the states beside the answers' likelihood.
    """

    title: ClassVar[str] = "Learned states"
    keeps_weights = False
    uncounted = "learning the teacher's states in hints arms"
    kind: Literal["hints"] = "hints"
    n_general: int = Field(default=8000, ge=8)
    steps: int = Field(default=800, ge=1)
    lr: float = Field(default=2e-3, gt=0)
    batch: int = Field(default=32, ge=1)
    weight: float = Field(default=1.0, gt=0)

    @property
    def trains_all(self) -> bool:
        """Before its LoRA."""
        return True

    def build(self, lab: Lab, seed: int) -> Trainee:
        """Trains a copy of the student on the teacher's states and adds a fresh LoRA."""
        from nuggets.train.builders import aligned

        return aligned.with_hints(lab, seed, self)


class Regressed(Aligned):
    """LoRA that starts as the rank-r change that best imitates the teacher's layers."""

    title: ClassVar[str] = "Regressed layers"
    keeps_function: ClassVar[bool] = False
    family = "start"
    kind: Literal["regressed"] = "regressed"

    def check(self, teacher: ArchSpec, student: ArchSpec, roles: Collection[str]) -> None:
        """Refuses a LoRA without the matrix that is regressed."""
        self._check_roles(("down",), roles)

    def build(self, lab: Lab, seed: int) -> Trainee:
        """Solves a reduced-rank ridge regression per FFN output matrix."""
        from nuggets.train.builders import aligned

        return aligned.with_regression(lab, seed, self)

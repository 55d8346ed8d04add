"""Arms that start a LoRA as PEFT's own initialisers do: comparators without a teacher.

All are PEFT's implementations; what they take out of the base is kept, so that their adapters too
load on the untouched student.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, ClassVar, Literal

from nuggets.errors import BadInput
from nuggets.models.architecture import ArchSpec
from nuggets.statistics.verdict import ArmRole
from nuggets.train.arms.base import ArmBase

if TYPE_CHECKING:
    from nuggets.train.lab import Lab, Trainee


class Initialiser(ArmBase):
    """What PEFT's initialisers share."""

    role: ClassVar[ArmRole] = "comparator"
    needs_teacher: ClassVar[bool] = False
    stacks = "adapter"
    family = "start"

    def check(self, teacher: ArchSpec, student: ArchSpec, roles: Collection[str]) -> None:
        """Refuses embeddings, for which PEFT has no such initialisation."""
        if "embed" in roles:
            raise BadInput(
                f"PEFT has no {self.title} for embeddings. Remove the role embed from the "
                f"extraction, or remove the arm {self.name}."
            )


class Pissa(Initialiser):
    """LoRA that starts from the student's own principal components (arXiv 2404.02948)."""

    title: ClassVar[str] = "PiSSA"
    keeps_weights = False
    kind: Literal["pissa"] = "pissa"

    def build(self, lab: Lab, seed: int) -> Trainee:
        """Adds PEFT's PiSSA, which takes its start out of the base itself."""
        from nuggets.train.builders import initialisers

        self.check(lab.teacher_spec, lab.student_spec, lab.extraction.roles)
        return initialisers.out_of_base(lab, seed, "pissa")


class Olora(Initialiser):
    """LoRA that starts from a QR factorisation of the student's weights (arXiv 2406.01775)."""

    title: ClassVar[str] = "OLoRA"
    keeps_weights = False
    kind: Literal["olora"] = "olora"

    def build(self, lab: Lab, seed: int) -> Trainee:
        """Adds PEFT's OLoRA, which takes its start out of the base itself."""
        from nuggets.train.builders import initialisers

        self.check(lab.teacher_spec, lab.student_spec, lab.extraction.roles)
        return initialisers.out_of_base(lab, seed, "olora")


class LoraGa(Initialiser):
    """LoRA whose first step is that of full fine-tuning (LoRA-GA, arXiv 2407.05000)."""

    title: ClassVar[str] = "LoRA-GA"
    keeps_weights = False
    kind: Literal["lora_ga"] = "lora_ga"

    def build(self, lab: Lab, seed: int) -> Trainee:
        """Adds PEFT's LoRA-GA with the gradients of the training samples."""
        from nuggets.train.builders import initialisers

        self.check(lab.teacher_spec, lab.student_spec, lab.extraction.roles)
        return initialisers.by_gradient(lab, seed)


class Eva(Initialiser):
    """LoRA whose A spans what its layers read on the training samples (EVA, arXiv 2410.07170)."""

    title: ClassVar[str] = "EVA"
    kind: Literal["eva"] = "eva"

    def build(self, lab: Lab, seed: int) -> Trainee:
        """Adds PEFT's EVA; ranks stay the recipe's, so that all arms have the same capacity."""
        from nuggets.train.builders import initialisers

        self.check(lab.teacher_spec, lab.student_spec, lab.extraction.roles)
        return initialisers.by_activation(lab, seed)


class Corda(Initialiser):
    """LoRA from a decomposition of the weights weighted by their inputs (CorDA, arXiv 2406.05223).

    In the instruction-previewed mode: the directions that the training samples use most.
    """

    title: ClassVar[str] = "CorDA"
    keeps_weights = False
    kind: Literal["corda"] = "corda"

    def build(self, lab: Lab, seed: int) -> Trainee:
        """Adds PEFT's CorDA with the covariance of the training samples' states."""
        from nuggets.train.builders import initialisers

        self.check(lab.teacher_spec, lab.student_spec, lab.extraction.roles)
        return initialisers.by_covariance(lab, seed)

"""What every arm is."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field

from nuggets.extraction.plan import ExtractionConfig
from nuggets.frozen import Frozen, check_name
from nuggets.models.architecture import ArchSpec
from nuggets.statistics.verdict import ArmRole, Part

if TYPE_CHECKING:
    from nuggets.train.lab import Lab, Trainee


class ArmBase(Frozen):
    """What all arms share.

    Attributes:
        label: the arm's name in the report, so that one kind can appear twice.
    """

    role: ClassVar[ArmRole]
    of: ClassVar[str] = ""
    """For a control: the kind of the treatment whose parameters it takes, changed."""
    title: ClassVar[str]
    family: ClassVar[Literal["start", "other"]] = "other"
    """`start` if it differs from plain LoRA in nothing but what the LoRA starts from. Forms group
    arms by role and family."""
    trains: ClassVar[bool] = True
    stacks: ClassVar[Literal["adapter", "own_base", "whole", "whole_but_words"] | None] = None
    """What it trains, if it can share a program with other arms of the same: an adapter of the
    untouched student, an adapter of another base, a whole model, or all of one but the embedding.
    """
    needs_teacher: ClassVar[bool] = True
    """Whether it depends on the teacher at all, beyond the ranks that all arms share."""
    runs_teacher: ClassVar[bool] = False
    """Whether it runs the teacher or copies it whole; other arms read single matrices."""
    keeps_function: ClassVar[bool] = True
    """Whether the student's function is unchanged at step 0."""
    keeps_weights: ClassVar[bool] = True
    """Whether the student's own weights can stay as they are, so that bfloat16 rounds no change of
    them away."""
    compares_tokens: ClassVar[bool] = False
    """Whether both models read the same token ids, so that their tokenizers have to agree."""
    needs_extra_prompts: ClassVar[bool] = False
    """Whether it needs prompts beside the training samples."""
    needs_general: ClassVar[bool] = False
    """Whether it learns from general samples (`data.general`), or fits anything on them."""
    uncounted: ClassVar[str] = ""
    """What it does beside training that no estimate covers, in a few words."""
    kind: Any  # a literal in every arm
    label: Annotated[str, AfterValidator(check_name)] | None = Field(
        default=None, min_length=1, max_length=40
    )

    @property
    def name(self) -> str:
        """What the report calls this arm."""
        return self.label or self.kind

    @property
    def trains_all(self) -> bool:
        """Whether it trains all weights of a model, in its training or before it."""
        return self.stacks in ("whole", "whole_but_words")

    @classmethod
    def offered(cls) -> tuple[Self, ...]:
        """What forms offer of this kind, beside what a recipe has."""
        return (cls.model_validate({}),)

    def part(self, common: ExtractionConfig, task: str | None) -> Part:
        """What it is in a comparison: its role, and the treatment that it is or controls.

        Args:
            common: the recipe's extraction.
            task: the target.
        """
        return Part(self.role, self.of)

    def _kind_with(self, *without: str) -> str:
        """Its kind and all settings that are not the defaults, but for the label and `without`."""
        usual = self.model_validate({}).model_dump(mode="json")
        own = self.model_dump(mode="json", exclude={"label", *without})
        return " ".join([self.kind, *(f"{k}={own[k]}" for k in own if own[k] != usual[k])])

    def extraction(self, common: ExtractionConfig) -> ExtractionConfig:
        """What it extracts: the recipe's extraction, unless a part of it is the arm's own."""
        return common

    def check(self, teacher: ArchSpec, student: ArchSpec, roles: Collection[str]) -> None:
        """Refuses what is known to be impossible before anything is loaded.

        Args:
            teacher: dimensions of the teacher.
            student: dimensions of the student.
            roles: matrices that are extracted.

        Raises:
            BadInput: in one sentence.
        """

    def build(self, lab: Lab, seed: int) -> Trainee:
        """Makes what is trained; the lab's models are not changed.

        Raises:
            BadInput: if the pair or the data cannot serve this arm, in one sentence.
        """
        raise NotImplementedError


def check_weights(arms: Iterable[ArmBase], dtype: str) -> None:
    """Refuses arms that change the student's weights where those are not float32.

    Raises:
        ValueError: naming the first.
    """
    changed = [arm.name for arm in arms if not arm.keeps_weights]
    if dtype != "float32" and changed:
        raise ValueError(
            f"the arm {changed[0]} changes the student's own weights, and {dtype} would round its "
            "changes away; remove it, or set train.dtype to float32"
        )

"""The arm that prunes a student from the teacher instead of injecting into a given one."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, ClassVar, Literal, Self, get_args

from pydantic import Field

from nuggets.extraction.consistent import check_cut, check_heads_fill
from nuggets.extraction.plan import ExtractionConfig
from nuggets.models.architecture import ArchSpec
from nuggets.sensitivity.scores import Score
from nuggets.statistics.verdict import ArmRole, Part
from nuggets.train.arms.base import ArmBase

if TYPE_CHECKING:
    from nuggets.train.lab import Lab, Trainee

Origin = Literal["sensitivity", "first", "random", "permuted"]


class Graft(ArmBase):
    """A new student pruned from the teacher and fine-tuned to recover, then plain LoRA.

    All origins keep the same teacher layers (those of the extraction plan), so that they differ
    in the choice of dimensions, heads and neurons alone.

    Attributes:
        origin: which dimensions are kept. `permuted` cuts as `sensitivity` does and then
            permutes rows and columns of every matrix: the content control, without a working
            circuit. `first` and `random` are location controls, as is another task's sensitivity.
        task: whose sensitivity chooses, instead of the target's: a built-in task, a JSONL file or a
            data set.
        score: what is sensitive, instead of the recipe's score; the layers stay the recipe's.
        heal_steps: steps of full fine-tuning on general data after the cut.
        heal_lr: their learning rate.
        heal_batch: samples per step.
        heal_samples: general samples that healing draws from.
    """

    title: ClassVar[str] = "Graft and heal"
    stacks = "own_base"
    runs_teacher: ClassVar[bool] = True
    compares_tokens = True  # it has the teacher's embedding, and reads the student's tokens
    uncounted = "fine-tuning the grafts to recover"
    kind: Literal["graft"] = "graft"
    origin: Origin = "sensitivity"
    task: str | None = None
    score: Score | None = None
    heal_steps: int = Field(default=1500, ge=0)
    heal_lr: float = Field(default=3e-3, gt=0)
    heal_batch: int = Field(default=64, ge=1)
    heal_samples: int = Field(default=12_000, ge=1)

    @property
    def role(self) -> ArmRole:  # type: ignore[override]
        """Treatment by the target's sensitivity; the permuted cut has lost its meaning."""
        if self.origin == "permuted":
            return "content_control"
        located = self.origin == "sensitivity" and self.task is None
        return "treatment" if located else "location_control"

    @property
    def needs_general(self) -> bool:  # type: ignore[override]
        """Where it is healed."""
        return self.heal_steps > 0

    @property
    def trains_all(self) -> bool:
        """Where it is healed."""
        return self.heal_steps > 0

    @classmethod
    def offered(cls) -> tuple[Self, ...]:
        """Every origin: the treatment and its controls."""
        return tuple(cls(origin=each) for each in get_args(Origin))

    def part(self, common: ExtractionConfig, task: str | None) -> Part:
        """A control judges the cut that recovers in the same way; the target is no other task."""
        own = self.model_copy(update={"task": None}) if self.task == task else self
        return Part(own.role, self._kind_with("origin", "task"))

    @property
    def name(self) -> str:
        """What the report calls this arm."""
        own = self.kind if self.origin == "sensitivity" else f"{self.kind}_{self.origin}"
        return self.label or own

    def check(self, teacher: ArchSpec, student: ArchSpec, roles: Collection[str]) -> None:
        """Refuses pairs of which no student can be cut."""
        check_cut(teacher, student)
        check_heads_fill(teacher, student.n_heads, student.hidden_size)

    def build(self, lab: Lab, seed: int) -> Trainee:
        """Cuts, heals and adds a fresh LoRA."""
        from nuggets.train.builders import graft

        return graft.grafted(lab, seed, self)

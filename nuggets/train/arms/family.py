"""The arms of a transfer: what is compared. One class and one line each.

Every arm of a run gets the same training samples, steps and rank; an arm's class says in what
it differs. Seeds govern which samples are drawn, initial values and the order of training.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from nuggets.errors import BadInput
from nuggets.extraction.layers import LayerSelector, RandomLayers
from nuggets.extraction.plan import ExtractionConfig, Role
from nuggets.extraction.selectors import MatrixSelector
from nuggets.models.architecture import ArchSpec
from nuggets.sensitivity.scores import Score
from nuggets.statistics.verdict import ArmRole, Part
from nuggets.train.arms.aligned import Hints, Memories, Regressed, States
from nuggets.train.arms.base import ArmBase
from nuggets.train.arms.graft import Graft
from nuggets.train.arms.initialisers import Corda, Eva, LoraGa, Olora, Pissa
from nuggets.train.arms.lexicon import Lexicon

if TYPE_CHECKING:
    from nuggets.compute.svd import LowRankFactors
    from nuggets.train.lab import Lab, Trainee


class Vanilla(ArmBase):
    """The student as it is, without training."""

    role: ClassVar[ArmRole] = "reference"
    needs_teacher: ClassVar[bool] = False
    title: ClassVar[str] = "Untouched student"
    trains = False
    kind: Literal["vanilla"] = "vanilla"

    def build(self, lab: Lab, seed: int) -> Trainee:
        """Returns a copy of the student that is not trained."""
        from nuggets.train.lab import Trainee

        return Trainee(lab.fresh_student(), [], trains=False)


class Plain(ArmBase):
    """LoRA with its usual initialisation (A random, B zero); nothing comes from the teacher."""

    role: ClassVar[ArmRole] = "baseline"
    needs_teacher: ClassVar[bool] = False
    title: ClassVar[str] = "Plain LoRA"
    stacks = "adapter"
    family = "start"
    kind: Literal["plain"] = "plain"

    def build(self, lab: Lab, seed: int) -> Trainee:
        """Adds a fresh LoRA to the student."""
        from nuggets.train.builders import lora

        return lora.with_lora(lab, seed, init_lora_weights=True)


class Paper(ArmBase):
    """LoRA that starts from the teacher's extracted matrices (arXiv 2310.11451).

    By default from the recipe's extraction; what is given here replaces a part of it for this arm
    alone, so that one run can compare several ways to extract.

    Attributes:
        layers: which teacher layers.
        matrices: which entries of their matrices.
        only: roles that start from the teacher; the others get a LoRA that starts as usual, so
            that all arms have the same capacity.
        task: whose seed samples locate the parameters, instead of the target's: a built-in task, a
            JSONL file or a data set.
        score: what is sensitive, instead of the recipe's score.
    """

    role: ClassVar[ArmRole] = "treatment"
    title: ClassVar[str] = "Extracted parameters"
    stacks = "adapter"
    family = "start"
    kind: Literal["paper"] = "paper"
    layers: LayerSelector | None = None
    matrices: MatrixSelector | None = None
    only: tuple[Role, ...] | None = Field(default=None, min_length=1)
    task: str | None = None
    score: Score | None = None

    def part(self, common: ExtractionConfig, task: str | None) -> Part:
        """With an extraction of its own it is a treatment of its own, which no control judges."""
        own = self.score is not None or self.task not in (None, task)
        same = self.extraction(common) == common and not own
        return Part(self.role, self.kind if same else self._kind_with())

    def check(self, teacher: ArchSpec, student: ArchSpec, roles: Collection[str]) -> None:
        """Refuses roles of its own that no LoRA of the recipe has."""
        if lacking := [role for role in self.only or () if role not in roles]:
            raise BadInput(
                f"The arm {self.name} is to start {', '.join(lacking)} from the teacher, but all "
                f"arms train {', '.join(roles)} (extraction.roles). Add {', '.join(lacking)} "
                "there, or take it out of the arm's only."
            )

    def build(self, lab: Lab, seed: int) -> Trainee:
        """Injects the extracted factors on a function-preserving base."""
        from nuggets.train.builders import lora

        return lora.injected(lab, seed, self._factors(lab))

    def extraction(self, common: ExtractionConfig) -> ExtractionConfig:
        """The recipe's extraction with the arm's own layers, matrices and roles."""
        own = {"layers": self.layers, "matrices": self.matrices, "roles": self.only}
        return common.model_copy(update={k: v for k, v in own.items() if v is not None})

    def _factors(self, lab: Lab) -> Mapping[str, LowRankFactors]:
        extraction = self.extraction(lab.extraction)
        if self.task is not None or self.score is not None:
            return lab.factors_of(lab.located_by(self.task, self.score), extraction)
        own = extraction != lab.extraction
        return lab.factors(lab.plan(extraction)) if own else lab.factors()


class Permuted(ArmBase):
    """Like the treatment, but with rows and columns of every extracted matrix permuted."""

    role: ClassVar[ArmRole] = "content_control"
    of = "paper"
    title: ClassVar[str] = "Permuted extraction"
    stacks = "adapter"
    family = "start"
    kind: Literal["permuted"] = "permuted"

    def build(self, lab: Lab, seed: int) -> Trainee:
        """Injects factors with the same spectrum and entries, but no meaning."""
        from nuggets.train.builders import controls, lora

        return lora.injected(lab, seed, controls.permute_factors(lab.factors(), seed))


class Shuffled(ArmBase):
    """Like the treatment, but with all entries of every extracted matrix shuffled."""

    role: ClassVar[ArmRole] = "content_control"
    of = "paper"
    title: ClassVar[str] = "Shuffled extraction"
    stacks = "adapter"
    family = "start"
    kind: Literal["shuffled"] = "shuffled"

    def build(self, lab: Lab, seed: int) -> Trainee:
        """Injects factors of the shuffled matrices, of the same norm."""
        from nuggets.train.builders import controls, lora

        factors = controls.shuffle_factors(lab.matrices(), lab.factors(), seed)
        return lora.injected(lab, seed, factors)


class Gaussian(ArmBase):
    """Like the treatment, but with Gaussian noise of the same norm instead of the teacher."""

    role: ClassVar[ArmRole] = "content_control"
    of = "paper"
    title: ClassVar[str] = "Gaussian noise"
    stacks = "adapter"
    family = "start"
    kind: Literal["gaussian"] = "gaussian"

    def build(self, lab: Lab, seed: int) -> Trainee:
        """Injects factors of noise, of the same norm."""
        from nuggets.train.builders import controls, lora

        return lora.injected(lab, seed, controls.gaussian_factors(lab.factors(), seed))


class RandomLayerChoice(ArmBase):
    """Like the treatment, but from teacher layers chosen at random."""

    role: ClassVar[ArmRole] = "location_control"
    of = "paper"
    title: ClassVar[str] = "Random layers"
    stacks = "adapter"
    family = "start"
    kind: Literal["random_layers"] = "random_layers"

    def build(self, lab: Lab, seed: int) -> Trainee:
        """Injects what the same matrix selector finds in random layers."""
        from nuggets.train.builders import lora

        wanted = lab.extraction.model_copy(update={"layers": RandomLayers(seed=seed)})
        return lora.injected(lab, seed, lab.factors(lab.plan(wanted)))


class RandomWindow(ArmBase):
    """Like the treatment, but from windows (or a consistent choice) chosen at random."""

    role: ClassVar[ArmRole] = "location_control"
    of = "paper"
    title: ClassVar[str] = "Random window"
    stacks = "adapter"
    family = "start"
    kind: Literal["random_window"] = "random_window"

    def build(self, lab: Lab, seed: int) -> Trainee:
        """Injects random entries of the same layers."""
        from nuggets.train.builders import lora

        blind = lab.extraction.matrices.blind(seed)
        wanted = lab.extraction.model_copy(update={"matrices": blind})
        return lora.injected(lab, seed, lab.factors(lab.plan(wanted)))


class WrongTask(ArmBase):
    """Like the treatment, but located by the seed samples of a different task.

    Attributes:
        task: which, built-in or a source of samples; `copy` when not given, or `add` for `copy`.
    """

    role: ClassVar[ArmRole] = "location_control"
    of = "paper"
    title: ClassVar[str] = "Wrong task"
    stacks = "adapter"
    family = "start"
    kind: Literal["wrong_task"] = "wrong_task"
    task: str | None = None

    def build(self, lab: Lab, seed: int) -> Trainee:
        """Injects what is sensitive for another task."""
        from nuggets.train.builders import lora

        wrong = lab.located_by(self.task or lab.unlike, None)
        return lora.injected(lab, seed, lab.factors_of(wrong))


class Distill(ArmBase):
    """Plain LoRA that imitates the teacher's token distribution on the same samples."""

    role: ClassVar[ArmRole] = "comparator"
    title: ClassVar[str] = "Distillation"
    stacks = "adapter"
    runs_teacher: ClassVar[bool] = True
    compares_tokens = True
    uncounted = "the teacher's forward passes in distillation"
    kind: Literal["distill"] = "distill"

    def build(self, lab: Lab, seed: int) -> Trainee:
        """Adds a fresh LoRA that is trained on KL(teacher ‖ student)."""
        from nuggets.train.builders import lora

        return lora.distilled(lab, seed)


class TeacherLabels(ArmBase):
    """Plain LoRA on the same samples and on extra prompts labelled by the teacher.

    Attributes:
        n: extra prompts; fewer where fewer exist.
    """

    role: ClassVar[ArmRole] = "comparator"
    title: ClassVar[str] = "Teacher's answers"
    stacks = "adapter"
    runs_teacher: ClassVar[bool] = True
    needs_extra_prompts = True
    uncounted = "labelling samples with the teacher"
    kind: Literal["teacher_labels"] = "teacher_labels"
    n: int = Field(default=1500, ge=1)

    def build(self, lab: Lab, seed: int) -> Trainee:
        """Lets the teacher answer, greedily, and adds a fresh LoRA."""
        from nuggets.train.builders import lora

        return lora.with_teacher_labels(lab, seed, self.n)


class Full(ArmBase):
    """Fine-tuning of all weights of the student."""

    role: ClassVar[ArmRole] = "comparator"
    needs_teacher: ClassVar[bool] = False
    title: ClassVar[str] = "Full fine-tuning"
    keeps_weights = False
    stacks = "whole"
    kind: Literal["full"] = "full"

    def build(self, lab: Lab, seed: int) -> Trainee:
        """Returns a copy of the student, all of it trainable."""
        from nuggets.train.builders import lora

        return lora.fully_trainable(lab, seed)


Arm = Annotated[
    Vanilla
    | Plain
    | Paper
    | Permuted
    | Shuffled
    | Gaussian
    | RandomLayerChoice
    | RandomWindow
    | WrongTask
    | Pissa
    | Olora
    | LoraGa
    | Eva
    | Corda
    | Distill
    | TeacherLabels
    | Full
    | Graft
    | Memories
    | States
    | Hints
    | Regressed
    | Lexicon,
    Field(discriminator="kind"),
]
"""The arms, chosen by `kind`."""

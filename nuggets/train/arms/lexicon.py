"""Arms that add the teacher's word vectors to the student's: what a word means is a lexicon.

See "Word vectors" in `docs/paper/preregistration.md` for what they may look at and what counts.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, ClassVar, Literal, Self, get_args

from pydantic import Field

from nuggets.errors import BadInput
from nuggets.extraction.plan import ExtractionConfig
from nuggets.models.architecture import ArchSpec
from nuggets.statistics.verdict import ArmRole, Part
from nuggets.train.arms.base import ArmBase

if TYPE_CHECKING:
    from nuggets.train.lab import Lab, Trainee

Source = Literal["embedding", "first_block"]
LexiconControl = Literal["no_rows", "permuted", "noise", "late_blocks"]
Stacks = Literal["adapter", "own_base", "whole", "whole_but_words"]


class Lexicon(ArmBase):
    """The teacher's word vectors added to the student's, which then learns to read them.

    Rows of the teacher are standardised over the words, mapped to the student's width, scaled, and
    added to the rows of the same words in the student. Then it is trained on the task, with general
    samples among the batches so that it keeps its old skills.

    Attributes:
        source: what is taken of each word: its row of the teacher's embedding, or the word alone
            through the teacher's first block. Both are weights alone: no sample is read.
        map: from the teacher's width to the student's. `random`: an orthogonal matrix drawn from
            the run's seed. `ridge`: fitted on the other words that both models have. `supervised`:
            first to the directions that tell the answers of the training samples apart.
        scale: norm of every added row, in mean norms of the student's own vectors of these words.
        words: which get rows: the words in which the task's questions differ (answers are not
            looked at), or all words that both models have. Words are matched by their text.
        general: share of general samples in the training batches; steps and batch size stay those
            of all arms.
        general_samples: how many different ones.
        heal_steps: steps on general samples alone before the training.
        heal_lr: their learning rate.
        trained: all weights but the word vectors, all weights, or a LoRA on the recipe's matrices,
            which must include embedding and head; its export is then an adapter.
        control: `no_rows`, `permuted` and `noise` are content controls: the same training with
            nothing added, with the teacher's rows permuted among the words, and with noise of their
            covariance. `late_blocks` is a location control: each word through all of its blocks.
    """

    title: ClassVar[str] = "Teacher's word vectors"
    keeps_weights = False
    uncounted = "the longer general samples of lexicon arms"
    kind: Literal["lexicon"] = "lexicon"
    source: Source = "first_block"
    map: Literal["random", "ridge", "supervised"] = "random"
    scale: float = Field(default=12.0, gt=0)
    words: Literal["task", "shared"] = "task"
    general: float = Field(default=0.5, ge=0, lt=1)
    general_samples: int = Field(default=8000, ge=1)
    heal_steps: int = Field(default=0, ge=0)
    heal_lr: float = Field(default=2e-3, gt=0)
    trained: Literal["all_but_words", "all", "lora"] = "all_but_words"
    control: LexiconControl | None = None

    @property
    def role(self) -> ArmRole:  # type: ignore[override]
        """Treatment, or one of its controls."""
        if self.control is None:
            return "treatment"
        return "location_control" if self.control == "late_blocks" else "content_control"

    @property
    def stacks(self) -> Stacks:  # type: ignore[override]
        """By what is trained."""
        forms: dict[str, Stacks] = {"all": "whole", "lora": "own_base"}
        return forms.get(self.trained, "whole_but_words")

    @property
    def keeps_function(self) -> bool:  # type: ignore[override]
        """Only where nothing is added and nothing healed."""
        return self.control == "no_rows" and not self.heal_steps

    @property
    def needs_general(self) -> bool:  # type: ignore[override]
        """Where some are among the batches, or it is healed."""
        return bool(self.general or self.heal_steps)

    @property
    def name(self) -> str:
        """What the report calls this arm."""
        return self.label or (f"{self.kind}_{self.control}" if self.control else self.kind)

    @classmethod
    def offered(cls) -> tuple[Self, ...]:
        """The treatment and its controls."""
        return tuple(cls(control=control) for control in (None, *get_args(LexiconControl)))

    def part(self, common: ExtractionConfig, task: str | None) -> Part:
        """A control judges the treatment with the same settings."""
        return Part(self.role, self._kind_with("control"))

    def check(self, teacher: ArchSpec, student: ArchSpec, roles: Collection[str]) -> None:
        """Refuses a LoRA that cannot say new words."""
        if self.trained == "lora" and not {"embed", "head"} <= set(roles):
            raise BadInput(
                f"The arm {self.name} trains a LoRA, which needs the roles embed and head in "
                f"extraction.roles beside {', '.join(roles)}. Add them, or set its trained to "
                "all_but_words."
            )

    def build(self, lab: Lab, seed: int) -> Trainee:
        """Adds the rows to a copy of the student, and general samples to its training."""
        from nuggets.train.builders import lexicon

        return lexicon.with_lexicon(lab, seed, self)

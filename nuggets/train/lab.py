"""All that an arm may use: two models, a map, data, and the settings shared by all arms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from nuggets.alignment.words import WordVectors, words_of
from nuggets.compute.svd import LowRankFactors
from nuggets.data.samples import Encoded, Format, Sample, encode_all
from nuggets.errors import BadInput
from nuggets.extraction.adapter import is_wrapped, read_factors
from nuggets.extraction.factors import cut_matrix, extract_factors
from nuggets.extraction.plan import (
    ExtractionConfig,
    ExtractionPlan,
    LoraConfig,
    make_plan,
    picks_of,
)
from nuggets.models.architecture import ArchSpec
from nuggets.progress import Progress
from nuggets.sensitivity.maps import SensitivityMap
from nuggets.sensitivity.scores import Score
from nuggets.train.config import TrainConfig
from nuggets.train.untouched import Untouched


@dataclass(frozen=True, eq=False)
class Workspace:
    """Where an arm that takes long to build keeps checkpoints, if anywhere, and whom it tells."""

    folder: Path | None = None
    progress: Progress | None = None


@dataclass(frozen=True, eq=False)
class Trainee:
    """What one arm trains with one seed.

    Attributes:
        model: a PEFT model, or a plain one for arms that train all weights or none.
        encoded: token ids and labels of the training samples.
        initial: the arm's initial factors where its base was changed by them; they are part of
            the exported adapter.
        loss: what is minimised; the answer's likelihood when not given.
        trains: False for arms that are only measured.
        own_base: whether it starts from another model than the lab's student.
        n_samples: samples that the arm was given.
        seconds: time that building took beyond what every arm needs.
        flops: operations of matrix products in that time.
        note: what the user should know, one sentence.
        adapter: `(A, B)` per module where they are kept without their model.
    """

    model: Any
    encoded: list[Encoded]
    initial: Mapping[str, LowRankFactors] = field(default_factory=dict)
    loss: Callable[[Any, Tensor, Tensor], Tensor] | None = None
    trains: bool = True
    own_base: bool = False
    n_samples: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    note: str = ""
    adapter: Mapping[str, tuple[Tensor, Tensor]] | None = None

    @property
    def whole(self) -> bool:
        """Whether every weight is trained, rather than an adapter."""
        return self.adapter is None and not is_wrapped(self.model)

    @property
    def is_adapter(self) -> bool:
        """Whether the result is an adapter of the untouched student."""
        return not self.whole and not self.own_base

    def factors(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """The adapter's current `(A, B)` per module."""
        return read_factors(self.model) if self.adapter is None else self.adapter


@dataclass(frozen=True, eq=False)
class Lab:
    """The material of one transfer; nothing in it is changed by arms.

    Attributes:
        teacher: a causal language model in evaluation mode; None where no arm runs it.
        teacher_weight: module → the teacher's weight, from memory or from its files; the
            model's own when not given.
        teacher_spec: its dimensions.
        untouched: the student, never trained itself.
        student_spec: its dimensions.
        tokenizer: the student's.
        map: the teacher's sensitivity on the target task.
        extraction: selectors and roles.
        lora: rank and scale, the same for all arms.
        train: steps, batch size and schedule, the same for all arms.
        train_samples: seed → training samples.
        extra_prompts: (n, seed) → prompts beyond the training set, for the teacher to answer.
        general_samples: (n, seed) → general data for healing.
        questions: validation and test items, whose questions alone an arm may look at.
        teacher_words: the teacher's vectors of single words, from memory or from its files; the
            model's own when not given.
        other_map: task or samples (None: the target) and score (None: the run's) → the teacher's
            sensitivity, for arms that name one.
        unlike: a built-in task that is not the target.
        teacher_tokenizer: the teacher's, where it is not the student's.
        cka: layer similarity, for the layer selector `cka`.
        device: where both models are.
        bf16: compute in bfloat16 on a GPU.
        format: how samples are written.
        threads: processors that arms trained side by side may use.
        helpers: devices that take a share of every batch, beside `device`.
        workspace: for arms that take long to build.
        kept: folder where healed students are kept for other runs; none are kept when not given.
    """

    teacher: Any
    teacher_spec: ArchSpec
    untouched: Untouched
    student_spec: ArchSpec
    tokenizer: Any
    map: SensitivityMap
    extraction: ExtractionConfig
    lora: LoraConfig
    train: TrainConfig
    train_samples: Callable[[int], list[Sample]]
    extra_prompts: Callable[[int, int], list[Sample]]
    general_samples: Callable[[int, int], list[Sample]]
    questions: Sequence[Sample] = ()
    teacher_words: WordVectors | None = None
    teacher_weight: Callable[[str], Tensor] | None = None
    other_map: Callable[[str | None, Score | None], SensitivityMap] | None = None
    unlike: str = "copy"
    teacher_tokenizer: Any = None
    cka: Float[ndarray, "n_teacher n_student"] | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    bf16: bool = False
    format: Format = "paper"
    threads: int = 1
    helpers: Sequence[str] = ()
    workspace: Workspace = field(default_factory=Workspace)
    kept: Path | None = None
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def student(self) -> Any:
        """The untouched student; what an arm changes is `fresh_student`, asked for last."""
        return self.untouched.model

    def fresh_student(self) -> Any:
        """A student that may be changed."""
        return self.untouched.fresh()

    def encode(self, samples: list[Sample]) -> list[Encoded]:
        """Token ids and response-only labels."""
        length = self.train.max_length
        return encode_all(samples, self.tokenizer, length, self.format)

    def training(self, seed: int) -> list[Encoded]:
        """The training samples of a seed, encoded; all arms get the same. Made once."""
        key = ("training", seed, self.train_samples, self.train.max_length)
        return self.once(key, lambda: self.encode(self.train_samples(seed)))

    def located_by(self, task: str | None, score: Score | None) -> SensitivityMap:
        """The map that locates an arm's parameters: the run's own, or that which the arm names.

        Measured once.

        Raises:
            BadInput: if the arm names one and this lab can measure none.
        """
        if task is None and score is None:
            return self.map
        measure = self.other_map
        if measure is None:
            named = "the target by another score" if task is None else task
            raise BadInput(
                f"An arm needs the teacher's sensitivity on {named}, which this lab cannot "
                "measure. Remove the arm's task and score."
            )
        return self.once(("map", measure, task, score), lambda: measure(task, score))

    def plan(self, extraction: ExtractionConfig | None = None) -> ExtractionPlan:
        """What goes where; the shared extraction when not given. Made once."""
        wanted = extraction or self.extraction
        return self.once(
            ("plan", wanted.model_dump_json()),
            lambda: make_plan(self.map, self.student_spec, wanted, self.lora, self.cka),
        )

    def weight(self, module: str) -> Tensor:
        """The teacher's weight of a module, as stored."""
        if self.teacher_weight is not None:
            return self.teacher_weight(module)
        return self.teacher.get_submodule(module).weight.detach()

    def words(self, ids: Sequence[int], blocks: int) -> Float[Tensor, "words hidden"]:
        """The teacher's vectors of single words, after so many blocks. Made once."""
        words = self.teacher_words or words_of(self.teacher, self.teacher_spec)
        return self.once(("words", tuple(ids), blocks), lambda: words(ids, blocks))

    def factors(self, plan: ExtractionPlan | None = None) -> dict[str, LowRankFactors]:
        """Initial factors of a plan; those of the shared plan are made once.

        All plans get the ranks of the shared one, so that every arm has the same capacity even
        where ranks follow from the energy.
        """
        if plan is not None:
            return self._extract(plan, self.map)
        return self.once(
            "factors",
            lambda: extract_factors(self.weight, self.plan(), self.map, device=self.device),
        )

    def factors_of(
        self, map: SensitivityMap, extraction: ExtractionConfig | None = None
    ) -> dict[str, LowRankFactors]:
        """Initial factors located by another map, and perhaps by another extraction."""
        wanted = extraction or self.extraction
        return self._extract(make_plan(map, self.student_spec, wanted, self.lora, self.cka), map)

    def _extract(self, plan: ExtractionPlan, map: SensitivityMap) -> dict[str, LowRankFactors]:
        return extract_factors(self.weight, plan, map, ranks=self.ranks(), device=self.device)

    def matrices(self) -> Iterator[tuple[str, Tensor]]:
        """The extracted student-shaped matrices of the shared plan, one at a time."""
        plan = self.plan()
        picks = picks_of(plan, self.map)
        for item in plan.items:
            pick = picks[item.student_module]
            matrix = cut_matrix(self.weight(item.teacher_module), item, pick)
            yield item.student_module, matrix.to(self.device)

    def ranks(self) -> dict[str, int]:
        """Student module → rank, the same in every arm."""
        asked = self.plan().ranks
        if self.lora.energy is None:
            return asked
        return asked | {name: factor.rank for name, factor in self.factors().items()}

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What was made for this key before, or is made now; for what no arm changes."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

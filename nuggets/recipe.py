"""What is asked for: the same YAML for app, command line and Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, PositiveInt, TypeAdapter, ValidationError, model_validator

from nuggets.builtin.skills import SKILLS
from nuggets.data.samples import Format
from nuggets.erasure.orders import PartKind
from nuggets.errors import BadInput
from nuggets.evaluation.benchmarks import Benchmark
from nuggets.extraction.plan import ExtractionConfig, LoraConfig
from nuggets.extraction.selectors import WindowSelector
from nuggets.extraction.window_request import SearchedSelector
from nuggets.frozen import Frozen, first_faults
from nuggets.recipe_tree import (
    absolute_paths,
    check_values,
    override,
    parse_yaml,
    read_recipe,
    with_new_names,
)
from nuggets.sensitivity.config import SensitivityConfig
from nuggets.sensitivity.scores import Contrast, Score, Specific, ThetaGrad, score_name
from nuggets.statistics.conditions import Ground
from nuggets.statistics.verdict import Part
from nuggets.train.arms.base import check_weights
from nuggets.train.arms.family import Arm, Paper, Plain, Vanilla
from nuggets.train.config import TrainConfig

Device = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,15}(:\d{1,3})?$")]
"""`auto`, `cpu`, `cuda` or `cuda:1`."""


class DataConfig(Frozen):
    """Which samples teach, locate and test the skill.

    Either a built-in `task`, or files: one JSONL `file` that is split by its ids, or
    `seed_samples`, `train` and `test` apart. A file may also be a data set:
    `org/name@revision:config/split`.

    Attributes:
        task: name of a built-in skill.
        file: JSONL split by hash of the ids: a fifth is kept for the test.
        seed_samples: JSONL of the samples that sensitivity is measured on.
        train: JSONL of the samples that every arm is trained on.
        test: JSONL of the samples that the report counts.
        n_seed_samples: how many of them are used (the paper: 32).
        n_train: training samples used (the paper: 1,000); every run seed draws its own.
        n_test: test items used.
        old_skills: skills whose loss or survival is measured too; all that a built-in student
            was taught when not given.
        n_old: items per old skill.
        metric: what the verdict is about.
        general: JSONL that healing and some arms learn from; only built-in models go without.
        format: how samples are written: as in the paper's data, or by a tokenizer's chat template.
        items: which the report counts: `test`, or `validation`, on which one may choose.
    """

    task: str | None = None
    file: str | None = None
    seed_samples: str | None = None
    train: str | None = None
    test: str | None = None
    n_seed_samples: int = Field(default=32, ge=1)
    n_train: int = Field(default=64, ge=1)
    n_test: int = Field(default=80, ge=1)
    old_skills: tuple[str, ...] | None = None
    n_old: int = Field(default=20, ge=1)
    metric: Literal["exact_match", "choice", "loss"] = "exact_match"
    general: str | None = None
    format: Format = "paper"
    items: Literal["test", "validation"] = "test"

    @model_validator(mode="before")
    @classmethod
    def _new_names(cls, fields: Any) -> Any:
        return with_new_names(fields) if isinstance(fields, dict) else fields

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        sources = [self.task, self.file, self.seed_samples or self.train or self.test]
        if sum(source is not None for source in sources) > 1:
            raise ValueError("give either a task, or one file, or seed_samples, train and test")
        return self


class SensitivityJob(Frozen):
    """Measure where one model keeps a skill.

    Attributes:
        model: what is measured.
        data: its seed samples.
        sensitivity: how it is measured.
        student: whose shapes the windows have; needed for `keep: windows` alone.
        selectors: which choose those windows.
        device: where it runs.
    """

    job: Literal["sensitivity"] = "sensitivity"
    name: str = "sensitivity"
    model: str
    data: DataConfig
    sensitivity: SensitivityConfig = Field(default_factory=SensitivityConfig)
    student: str | None = None
    selectors: tuple[SearchedSelector, ...] = (WindowSelector(),)
    device: Device = "auto"

    @model_validator(mode="after")
    def _for_someone(self) -> SensitivityJob:
        keep = self.sensitivity.keep
        if keep == "windows" and self.student is None:
            raise ValueError(
                "sensitivity.keep=windows needs a student, whose shapes the windows have"
            )
        if keep != "windows" and self.student is not None:
            raise ValueError(
                f"a student is used only with sensitivity.keep=windows, but keep is {keep}"
            )
        return self


class AlignJob(Frozen):
    """Measure how the layers of two models resemble each other.

    Attributes:
        teacher: the larger model.
        student: the smaller one.
        tasks: built-in tasks; all of them when none is named and there are no data.
        data: samples of one's own.
        n_fit: samples per task that maps are fitted on.
        n_test: samples per task that they are tested on.
        stitch: whether stitching is measured, the longest part on large models.
    """

    job: Literal["align"] = "align"
    name: str = "align"
    teacher: str
    student: str
    tasks: tuple[str, ...] = ()
    data: DataConfig | None = None
    n_fit: int = Field(default=64, ge=8)
    n_test: int = Field(default=32, ge=4)
    stitch: bool = True
    device: Device = "auto"


class EraseJob(Frozen):
    """Ask whether a map is true: set weights to 0, and measure the skill and others.

    Attributes:
        model: what is measured, in memory; its files are never touched.
        data: the skill; its test items are not among its seed samples.
        against: other skills: tasks, JSONL files or data sets; if empty, a task of each kind.
        scores: by which weights are erased, beside magnitude, random, least and another's map.
        fractions: of the weights of all layers' matrices, ascending.
        n_items: items per skill.
        n_maps: that of the seed samples, and of as many drawn from them with replacement.
        parts: what is taken out part by part.
        ablation: what erased weights contribute: 0, or their mean over the other skills' tokens.
        dtype: as in `SensitivityConfig`; `max_length` too.
    """

    job: Literal["erase"] = "erase"
    name: str = "erase"
    model: str
    data: DataConfig
    against: tuple[str, ...] = ()
    scores: tuple[Score, ...] = Field(default=(ThetaGrad(), Specific(), Contrast()), min_length=1)
    fractions: tuple[float, ...] = Field(default=(1e-6, 1e-5, 1e-4, 1e-3, 1e-2), min_length=1)
    n_items: int = Field(default=32, ge=2)
    n_maps: int = Field(default=6, ge=1, le=20)
    parts: tuple[PartKind, ...] = ("layers", "matrices")
    ablation: Literal["zero", "mean"] = "zero"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    max_length: int = Field(default=2048, ge=8)
    seed: int = 0
    device: Device = "auto"

    @model_validator(mode="after")
    def _in_order(self) -> EraseJob:
        ascending = sorted(set(self.fractions)) == list(self.fractions)
        if not ascending or not 0 < self.fractions[0] <= self.fractions[-1] <= 0.5:
            raise ValueError("fractions must ascend and lie between 0 and 0.5")
        names = ["magnitude", "random", *map(score_name, self.scores)]  # those two always are
        if len(set(names)) < len(names):
            raise ValueError(f"an order is measured once; got {', '.join(names)}")
        return self


class EvaluateJob(Frozen):
    """Measure models, or all arms and seeds of finished transfers, on benchmarks.

    Attributes:
        models: built-in names, folders, GGUF files, `org/name@revision`, `run:ID` or, for one of
            its arms, `run:ID/ARM`.
        benchmarks: what is asked.
        batch_size: sequences per forward pass.
        max_length: tokens of a prompt and its answer; longer prompts lose their beginning and
            are counted.
        dtype: of the weights; `auto` is bfloat16 on a GPU and float32 elsewhere.
    """

    job: Literal["evaluate"] = "evaluate"
    name: str = "evaluate"
    models: tuple[str, ...] = Field(min_length=1)
    benchmarks: tuple[Benchmark, ...] = Field(min_length=1)
    batch_size: int = Field(default=8, ge=1)
    max_length: int = Field(default=2048, ge=16)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Device = "auto"

    @model_validator(mode="after")
    def _differ(self) -> EvaluateJob:
        _check_distinct(self.benchmarks)
        if len(set(self.models)) < len(self.models):
            raise ValueError("a model is named twice")
        return self


class CutJob(Frozen):
    """Make a student from a teacher by one consistent choice of dimensions, and heal it.

    Attributes:
        teacher: what is cut.
        like: a model whose sizes are taken; `sizes` overrides single ones.
        sizes: `n_layers`, `hidden_size`, `intermediate_size`, `n_kv_heads`.
        order: how dimensions are chosen; `permuted` is the choice by sensitivity with every
            matrix's rows and columns permuted, a control.
        data: samples that sensitivity is measured on.
        score: what sensitivity is.
        heal: JSONL to heal on; a built-in teacher's cut is healed on built-in skills without.
        heal_steps: 0 leaves the cut as it is.
    """

    job: Literal["cut"] = "cut"
    teacher: str
    like: str | None = None
    sizes: dict[str, PositiveInt] = Field(default_factory=dict)
    order: Literal["sensitivity", "first", "random", "permuted"] = "sensitivity"
    data: DataConfig = Field(default_factory=DataConfig)
    score: Score = Field(default_factory=ThetaGrad)
    heal: str | None = None
    heal_steps: int = Field(default=0, ge=0)
    heal_lr: float = Field(default=1e-3, gt=0)
    heal_batch_size: int = Field(default=16, ge=1)
    seed: int = 0
    device: Device = "auto"


class TransferRecipe(Frozen):
    """Everything a transfer with its controls needs.

    Attributes:
        name: a short word for people; part of the run's id.
        teacher: built-in name, folder, GGUF file or `org/name@revision`.
        student: likewise.
        data: samples.
        sensitivity: how it is measured.
        extraction: layers, matrices and roles.
        lora: rank and scale.
        train: the same for all arms.
        arms: what is compared.
        benchmarks: what every arm and seed is measured on after training, beside the task.
        seeds: run seeds; each draws its own samples, initialisation and order.
        device: where it runs.
    """

    job: Literal["transfer"] = "transfer"
    name: str = "transfer"
    description: str = ""
    teacher: str = "teacher"
    student: str = "independent"
    data: DataConfig = Field(default_factory=lambda: DataConfig(task="reverse"))
    sensitivity: SensitivityConfig = Field(default_factory=SensitivityConfig)
    extraction: ExtractionConfig = Field(default_factory=ExtractionConfig)
    lora: LoraConfig = Field(default_factory=lambda: LoraConfig(r=8))
    train: TrainConfig = Field(default_factory=TrainConfig)
    arms: tuple[Arm, ...] = (Vanilla(), Plain(), Paper())
    benchmarks: tuple[Benchmark, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    device: Device = "auto"

    @model_validator(mode="after")
    def _names_differ(self) -> TransferRecipe:
        _check_distinct(self.arms, "two arms have the name {!r}; give one of them a label")
        if not self.arms or not self.seeds:
            raise ValueError("give at least one arm and one seed")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds must differ from each other")
        _check_distinct(self.benchmarks)
        check_weights(self.arms, self.train.dtype)
        return self

    @property
    def parts(self) -> dict[str, Part]:
        """Arm → its role in the comparison, and the treatment that it is or controls."""
        return {arm.name: arm.part(self.extraction, self.data.task) for arm in self.arms}

    @property
    def ground(self) -> Ground:
        """What the task demands before arms can be compared on it."""
        informed = next((arm.name for arm in self.arms if arm.needs_extra_prompts), "")
        skill = SKILLS.get(self.data.task or "")
        facts, chance = (skill.kind == "facts", skill.chance) if skill else (False, 0.0)
        return Ground(facts, chance, informed, self.data.items == "test")


def _check_distinct(named: Iterable[Any], words: str = "the benchmark {} is listed twice") -> None:
    names = [each.name for each in named]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(words.format(twice[0]))


AnyJob = TransferRecipe | SensitivityJob | AlignJob | EraseJob | EvaluateJob
"""Everything a worker can do, chosen by `job`."""

_JOBS: TypeAdapter[Any] = TypeAdapter(Annotated[AnyJob, Field(discriminator="job")])


def load_recipe(source: str | Path, overrides: Iterable[str] = ()) -> TransferRecipe:
    """Reads a shipped recipe by name, or a YAML file, and applies `path.to.field=value`.

    Paths become absolute: those in a file are seen from its folder, others from here.

    Raises:
        BadInput: for an unknown recipe, broken YAML, or a value that does not fit, naming it.
    """
    tree = read_recipe(source)
    for each in overrides:
        override(tree, each)
    return _transfer(tree, str(source))


def parse_recipe(text: str, source: str = "The file") -> TransferRecipe:
    """A recipe from its YAML, such as an uploaded one; paths become absolute, seen from here.

    Raises:
        BadInput: for broken YAML, another kind of job, or a value that does not fit, naming it.
    """
    return _transfer(parse_yaml(text, source), source)


def _transfer(tree: Mapping[str, Any], source: str) -> TransferRecipe:
    job = parse_job({"job": "transfer", **absolute_paths(dict(tree), Path.cwd())})
    if not isinstance(job, TransferRecipe):
        raise BadInput(f"{source} contains a {job.job} job, not a transfer recipe.")
    return job


def parse_job(tree: Mapping[str, Any]) -> Any:
    """Validates a job; the error names the field, the value and what is allowed.

    Raises:
        BadInput: with the first few faults in one sentence.
    """
    return validated("recipe", _JOBS.validate_python, tree, 1)


def parse_cut(tree: Mapping[str, Any]) -> CutJob:
    """As `parse_job`, for a cut, which is no worker's job.

    Raises:
        BadInput: with the first few faults in one sentence.
    """
    return validated("cut", CutJob.model_validate, tree, 0)


def validated(what: str, validate: Callable[[Any], Any], tree: Mapping[str, Any], n: int) -> Any:
    """What `validate` makes of a tree; BadInput on one line, whatever a key holds."""
    try:
        check_values(tree)
        return validate(dict(tree))
    except ValueError as problem:
        said = first_faults(problem, n) if isinstance(problem, ValidationError) else str(problem)
    raise BadInput(f"The {what} is not valid: {' '.join(said.split())}.")  # keys are anybody's text


def anchored(job: Frozen) -> Any:
    """The same job with absolute paths, seen from here: a worker runs in another folder."""
    return parse_job(absolute_paths(job.model_dump(), Path.cwd()))


def load_job(text: str) -> Any:
    """Reads a job back from the YAML that `dump_job` wrote, also that of 0.1.0."""
    tree = parse_yaml(text, "The recipe")
    if isinstance(data := tree.get("data"), dict):
        tree["data"] = with_new_names(data, tell=False)
    return parse_job(tree)


def dump_job(job: Frozen) -> str:
    """Writes a job as YAML, fields in their order, defaults included."""
    return yaml.safe_dump(job.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

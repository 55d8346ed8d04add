"""What an experiment is: runs to make, what is compared, and what the paper says."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from nuggets.frozen import Frozen

Layout = Literal["arms", "levels", "matrix", "retention"]
"""arms: one panel per run, a row per arm. levels: runs are levels of one setting, a line per arm.
matrix: runs are target tasks, columns the tasks that located the parameters. retention: old skills
instead of the target."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$")]
"""Also the name of a file or folder."""


OWN = "{run}"
"""The focus of an experiment whose runs are each about an arm of their own name."""


class PaperNumbers(Frozen):
    """What the paper reports, beside which ours stand.

    Attributes:
        source: where in the paper, which models and which score, and whether read off a chart.
        values: arm (or run, for levels) → the paper's number.
        claim: what its numbers say, in one sentence; empty where we have none of them.
    """

    source: str = ""
    values: dict[str, float] = Field(default_factory=dict)
    claim: str = ""


class MadeModel(Frozen):
    """A model made for an experiment: a cut of another, healed on every built-in skill."""

    teacher: str
    sizes: dict[str, PositiveInt]
    order: Literal["first", "random"] = "first"
    heal_steps: int = Field(default=1000, ge=0)
    heal_lr: float = Field(default=3e-3, gt=0)
    heal_batch_size: int = Field(default=32, ge=1)
    seed: int = 0


class StudyRun(Frozen):
    """One run of an experiment: the shared recipe with some fields set.

    Attributes:
        name: of the panel, level or target.
        set: `path.to.field=value`, as on the command line.
        x: the level's place on a numeric axis.
    """

    name: str
    set: tuple[str, ...] = ()
    x: float | None = None


class Study(Frozen):
    """An experiment of the paper as a set of ordinary runs.

    Attributes:
        name: word on the command line, and of the report's files.
        title: of the report.
        question: what is asked, in one sentence.
        layout: how results are arranged.
        axis: name of what differs between levels or columns.
        paper: the paper's own numbers and claim.
        recipe: fields of the transfer recipe that all runs share.
        runs: what differs.
        focus: the arm that is judged, the paper's choice, compared with every other treatment
            (Holm); `{run}` for the arm of the run's own name.
        versus: the arm that the question sets against the focus: their difference in every run,
            Holm over the runs.
        models: models to make first; recipes name them `{name}`.
        notes: deviations from the paper and reasons.
        file: where it was read, from whose folder its paths are seen; empty for shipped ones.
    """

    name: Name
    title: str
    question: str
    layout: Layout = "arms"
    axis: str = ""
    paper: PaperNumbers = Field(default_factory=PaperNumbers)
    recipe: dict[str, Any]
    runs: tuple[StudyRun, ...] = Field(
        default=(StudyRun(name="all"),), min_length=1, max_length=200
    )
    focus: str = "paper"
    versus: str = ""
    models: dict[Name, MadeModel] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    file: str = Field(default="", exclude=True)

    @model_validator(mode="after")
    def _names_differ(self) -> Study:
        names = [run.name for run in self.runs]
        if len(set(names)) != len(names):
            raise ValueError("two runs of the experiment have the same name")
        return self


def focus_of(study: Study, run: str) -> str:
    """The arm that is judged: in a matrix, the target's own seed samples."""
    return run if study.layout == "matrix" or study.focus == OWN else study.focus

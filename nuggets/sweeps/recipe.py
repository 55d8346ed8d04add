"""What a sweep is: a base recipe, the space, how it is searched, and the confirmation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import Field, PositiveInt, field_validator, model_validator

from nuggets.disk.untrusted import is_file, read_text
from nuggets.errors import BadInput
from nuggets.frozen import Frozen
from nuggets.recipe import TransferRecipe, parse_job, validated
from nuggets.recipe_tree import (
    MAX_BYTES,
    absolute_paths,
    override,
    parse_yaml,
    shipped_recipes,
)
from nuggets.statistics.verdict import LEAST_SEEDS
from nuggets.sweeps.samplers import SAMPLERS
from nuggets.sweeps.space import (
    Dimension,
    Values,
    check_space,
    points,
    random_point,
    read_setting,
    with_values,
)
from nuggets.workspace import recipes, strangers

Objective = Literal["value", "difference", "retention"]
"""value: the judged metric of the arm. difference: that minus plain LoRA's, paired by seed and
item. retention: exact match of the arm on the student's old skills."""


def scored_on(*objectives: str) -> str:
    """The items on which trials are scored, in words."""
    items = ("items of old skills" if o == "retention" else "validation items" for o in objectives)
    return " and ".join(dict.fromkeys(items))


USUAL_TRIALS = 24
MOST_TRIALS = 5000
CORNERS = 256
"""Corners of the space that are checked before a sweep starts; more are drawn at random."""
LOOKED_AT = 12
"""Corners that are also held against the models before a sweep starts."""


class Confirm(Frozen):
    """How the winner is confirmed: with all arms of the base, on test items that no trial saw.

    Attributes:
        seeds: how many run seeds, none of which the search used.
    """

    seeds: int = Field(default=4, ge=LEAST_SEEDS, le=1000)


class Prune(Frozen):
    """Successive halving: at some steps, only the best trials so far go on.

    Source: Li et al., MLSys 2020 (arXiv 1810.05934), asynchronous, as in Optuna.

    Attributes:
        first: the first step at which a trial may be stopped; then `factor` times as many.
        factor: of so many trials that reach such a step, about one goes on.
    """

    first: PositiveInt
    factor: int = Field(default=3, ge=2, le=100)


class SweepRecipe(Frozen):
    """Everything that a sweep needs.

    Attributes:
        name: a short word for people; part of ids.
        base: the recipe that is varied; what it says itself is the default beside the winner.
        space: field → what it may be, in the order in which fields are set.
        sampler: how trials are chosen.
        trials: how many; every point of a grid where it is not given, 24 otherwise.
        objective: what is optimised, one of `Objective` or two of them.
        arm: whose it is; the first treatment of the base when not given.
        max_hours: no trial starts that would not leave time for the confirmation.
        max_trials: the most trials.
        confirm: how the winner is confirmed.
        prune: how trials are stopped whose learning curves fall behind; all are finished without.
        seed: of the sampler.
    """

    job: Literal["sweep"] = "sweep"
    name: str = "sweep"
    base: TransferRecipe
    space: dict[str, Dimension]
    sampler: str = "tpe"
    trials: PositiveInt | None = None
    objective: tuple[Objective, ...] = ("difference",)
    arm: str = ""
    max_hours: float | None = Field(default=None, gt=0)
    max_trials: int | None = Field(default=None, ge=1, le=MOST_TRIALS)
    confirm: Confirm = Field(default_factory=Confirm)
    prune: Prune | None = None
    seed: int = Field(default=0, ge=0, lt=2**31)

    @field_validator("objective", mode="before")
    @classmethod
    def _one_or_two(cls, given: Any) -> Any:
        names = [given] if isinstance(given, str) else list(given)
        if not 1 <= len(names) <= 2 or len(set(map(str, names))) < len(names):
            raise ValueError("give one objective, or two different ones")
        return names

    @field_validator("sampler")
    @classmethod
    def _known_sampler(cls, name: str) -> str:
        if name not in SAMPLERS:
            raise ValueError(f"not one of {', '.join(SAMPLERS)}")
        return name

    @model_validator(mode="after")
    def _can_work(self) -> SweepRecipe:
        self._check_base()
        check_space(self.space, self.base)
        self._check_size()
        if self.prune is not None:
            self._check_prune(self.prune.first)
        try:
            for corner in self.corners():
                self.trial_recipe(corner)
        except BadInput as problem:
            raise ValueError(str(problem).removesuffix(".")) from None
        return self

    def _check_base(self) -> None:
        if self.base.data.items != "test":
            raise ValueError("data.items of the base must be test: a sweep keeps its test items "
                             "for the confirmation")  # fmt: skip
        arms = {arm.name: arm for arm in self.base.arms}
        if self.arm and self.arm not in arms:
            raise ValueError(f"the base has no arm {self.arm!r}; it has {', '.join(arms)}")
        if not self.judged:
            raise ValueError("the base has no treatment, such as the arm paper; add one, or name "
                             "the arm to optimise in arm")  # fmt: skip
        if not arms[self.judged].trains:
            raise ValueError(f"the arm {self.judged} does not train, so there is nothing to tune")
        if "difference" in self.objective and self.baseline in ("", self.judged):
            raise ValueError("the objective difference needs the arm plain in the base, beside the "
                             "arm that is compared with it")  # fmt: skip
        if "retention" in self.objective and self.base.data.old_skills == ():
            raise ValueError("the objective retention needs old skills, but data.old_skills of the "
                             "base is empty")  # fmt: skip

    def _check_size(self) -> None:
        if self.sampler == "grid":
            try:
                n = len(list(islice(points(self.space), MOST_TRIALS + 1)))
            except ValueError as problem:
                raise ValueError(f"sampler grid: {problem}") from None
            most = min(MOST_TRIALS, self.max_trials or MOST_TRIALS, self.trials or MOST_TRIALS)
            if n > most:
                raise ValueError(
                    f"the grid has {'more than ' * (n > MOST_TRIALS)}{min(n, MOST_TRIALS):,} "
                    f"points, but {most:,} trials are allowed; a part of a grid is none: take "
                    "fewer values, or the sampler sobol"
                )
        elif (self.trials or 0) > MOST_TRIALS:
            raise ValueError(f"{self.trials:,} trials; at most {MOST_TRIALS:,} can be made")

    def _check_prune(self, first: int) -> None:
        if self.objective not in (("value",), ("difference",)):
            raise ValueError("prune needs value or difference as the only objective: a learning "
                             "curve shows nothing else")  # fmt: skip
        train = self.base.train
        if train.lr_grid:
            raise ValueError("prune needs one learning rate per training, but train.lr_grid has "
                             "several; search train.lr instead")  # fmt: skip
        if train.epochs is not None or {"train.steps", "train.epochs"} & set(self.space):
            raise ValueError("prune compares equally long trainings step by step; give train.steps "
                             "in the base, and search neither steps nor epochs")  # fmt: skip
        if first >= train.steps:
            raise ValueError(f"prune.first is {first}, but trainings end at step {train.steps}")

    @property
    def n_trials(self) -> int:
        """How many trials there will be at most."""
        n = self.trials or USUAL_TRIALS
        n = sum(1 for _ in points(self.space)) if self.sampler == "grid" else n
        return min(n, self.max_trials or n)

    @property
    def judged(self) -> str:
        """The arm whose objective it is; empty if there is none."""
        parts = self.base.parts
        return self.arm or next((n for n, part in parts.items() if part.role == "treatment"), "")

    @property
    def baseline(self) -> str:
        """Plain LoRA's name; empty if it is not among the arms."""
        return next((n for n, part in self.base.parts.items() if part.role == "baseline"), "")

    @property
    def fresh_seeds(self) -> tuple[int, ...]:
        """The seeds of the confirmation."""
        first = max(self.base.seeds) + 1
        return tuple(range(first, first + self.confirm.seeds))

    def corners(self) -> list[Values]:
        """Combinations of the ends of all fields: all of them, or each end and others at random."""
        found = list(islice(points(self.space, "corners"), CORNERS + 1))
        if len(found) <= CORNERS:
            return found
        rng = np.random.default_rng(0)
        return [random_point(self.space, rng) for _ in range(CORNERS)]

    def corner_recipes(self) -> list[TransferRecipe]:
        """Trials of some corners, spread over all of them."""
        corners = self.corners()
        return [self.trial_recipe(each) for each in corners[:: -(-len(corners) // LOOKED_AT)]]

    def trial_recipe(self, values: Mapping[str, Any]) -> TransferRecipe:
        """The run of one trial: the arms that the objective needs, counted on validation items.

        Raises:
            BadInput: naming the field whose value does not fit.
        """
        whole = with_values(self.base, values)
        wanted = {self.judged, self.baseline} if "difference" in self.objective else {self.judged}
        counted, every = {"items": "validation"}, self.prune.first if self.prune else 0
        measured = counted if "retention" in self.objective else counted | {"old_skills": ()}
        said = "-".join(f"{field.rpartition('.')[2]}-{value}" for field, value in values.items())
        changes = {
            "name": re.sub(r"[^\w.]+", "-", f"{self.name}-{said}")[:60].strip("-"),
            "description": "",
            "data": whole.data.model_copy(update=measured),
            "train": whole.train.model_copy(update={"evaluate_every": every}),
            "arms": tuple(arm for arm in whole.arms if arm.name in wanted),
            "benchmarks": (),
        }
        return whole.model_copy(update=changes)

    def confirming_recipe(self, values: Mapping[str, Any], which: str) -> TransferRecipe:
        """The base with some fields set, all its arms, on fresh seeds and its test items."""
        changes = {"seeds": self.fresh_seeds, "name": f"{self.name}-{which}"}
        return with_values(self.base, values).model_copy(update=changes)


def parse_sweep(tree: Mapping[str, Any]) -> SweepRecipe:
    """Validates a sweep whose base is given by its fields.

    Raises:
        BadInput: with the first few faults in one sentence.
    """
    return validated("sweep", SweepRecipe.model_validate, tree, 0)


def load_sweep(source: str | Path, settings: Iterable[str] = (), **fields: Any) -> SweepRecipe:
    """A sweep from its YAML file, or from a recipe by name or file and what varies.

    Args:
        source: the file of a sweep, or a recipe: shipped, saved or a file.
        settings: `lora.r=4,8,16` and `extraction.ratio=.25..1` are searched; one value, such as
            `data.task=sub`, is set in the base.
        fields: of `SweepRecipe`; they win over the file's. None is as if not given.

    Raises:
        BadInput: for anything that does not fit, naming it; and for a file from elsewhere that
            names what nobody here allowed.
    """
    found = [(text, read_setting(text)) for text in settings]
    fixed = [text for text, setting in found if setting is None]
    tree = _tree(source, fixed)
    space = {field: setting for _, each in found if each for field, setting in [each]}
    written = tree.get("space") or {}
    tree["space"] = {**written, **space} if isinstance(written, dict) else written
    tree |= {name: value for name, value in fields.items() if value is not None}
    return parse_sweep(tree)


def parse_sweep_text(text: str) -> SweepRecipe:
    """A sweep from what `dump_sweep` wrote."""
    return parse_sweep(parse_yaml(text, "The sweep"))


def dump_sweep(sweep: SweepRecipe) -> str:
    """A sweep as YAML: its base whole, of the space only what is given."""
    tree = sweep.model_dump(mode="json")
    tree["space"] = {
        field: dimension.model_dump(mode="json", exclude_defaults=True)
        for field, dimension in sweep.space.items()
    }
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _tree(source: str | Path, fixed: list[str]) -> dict[str, Any]:
    path = Path(source)
    named = str(source) in (*shipped_recipes(), *recipes.own_recipes())
    if named or not is_file(path):
        return {"name": f"{path.stem}-sweep", "base": recipes.load_recipe(source, fixed)}
    tree = parse_yaml(read_text(path, MAX_BYTES), str(source))
    if tree.get("job") != "sweep":
        return {"name": f"{path.stem}-sweep", "base": recipes.load_recipe(source, fixed)}
    tree["base"] = _base(tree.get("base"), path, fixed)
    return tree


def _base(given: Any, path: Path, fixed: list[str]) -> TransferRecipe:
    """The base of a sweep's file: a recipe's name, a file seen from there, or its own fields."""
    if isinstance(given, str):
        known = given in (*shipped_recipes(), *recipes.own_recipes())
        return recipes.load_recipe(given if known else path.absolute().parent / given, fixed)
    if not isinstance(given, dict):
        raise BadInput(f"{path} has no base: name a recipe, such as quick, or give its fields.")
    tree = absolute_paths(given, path.absolute().parent)
    written = dict(tree)
    for each in fixed:
        override(tree, each)
    found = parse_job({"job": "transfer", **tree})
    if not isinstance(found, TransferRecipe):
        raise BadInput(f"The base of {path} is a {found.job} job, not a transfer recipe.")
    strangers.check_recipe(found, written, path)
    return found

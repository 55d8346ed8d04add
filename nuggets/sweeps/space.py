"""What a sweep searches: fields of a recipe, with values or a range, some only under others."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import numpy as np
import yaml
from pydantic import Field, model_validator

from nuggets.errors import BadInput
from nuggets.frozen import Frozen
from nuggets.recipe import TransferRecipe, parse_job
from nuggets.recipe_tree import (
    MODEL_PATHS,
    REFERENCE_PATHS,
    RENAMED,
    SOURCE_PATHS,
    leaves,
    named_values,
    override,
    parse_yaml,
)

Values = dict[str, Any]
"""Field → value of every field that is active in a trial."""
Space = Mapping[str, "Dimension"]

MOST_FIELDS = 20
MOST_VALUES = 200
_OUTSIDE = {*MODEL_PATHS, *SOURCE_PATHS, *REFERENCE_PATHS, "data.task"}
_KEPT = {
    "job": "it says what a recipe is",
    "name": "it changes nothing",
    "description": "it changes nothing",
    "device": "results of several devices are not compared",
    "arms": "trials compare the arms that the objective needs; the base names all of them",
    "benchmarks": "they are measured in the confirmation",
    "seeds": "every trial has the seeds of the base",
    "train.concurrent": "it changes no result",
    "train.processes": "it changes no result",
    "train.checkpoint_every": "it changes no result",
    "train.evaluate_every": "it changes no result",
}
"""Fields that no sweep varies, and why."""
_ITEMS = ("data.n_test", "data.items", "data.metric", "data.old_skills", "data.n_old")
_FIELD = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)*")
"""The one way to write a field: `override` forgives blanks and an `=`, what is refused must not."""
_RANGE = re.compile(r"(?P<low>[^,:]+?)\.\.(?P<high>[^,:]+?)(:(?P<how>[^,:]+))?")


class Dimension(Frozen):
    """One field of the space: a list of values, or a range.

    Attributes:
        values: what the field may be.
        low: the lower end of a range; with two whole ends the field is a whole number.
        high: the upper end, which belongs to the range.
        log: whether a range is searched by its logarithm.
        step: between the values of a range.
        when: fields above this one and the value that each must have; else this one stays as in
            the base. `{extraction.matrices.kind: window}`.
    """

    values: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = Field(default=None, gt=0)
    when: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_kind(self) -> Dimension:
        ranged = self.low is not None or self.high is not None
        if bool(self.values) == ranged:
            raise ValueError("give either values, or low and high")
        if self.values:
            self._check_values()
        else:
            self._check_range()
        return self

    def _check_values(self) -> None:
        if self.log or self.step is not None:
            raise ValueError("log and step belong to a range, not to values")
        if len(self.values) > MOST_VALUES:
            raise ValueError(f"{len(self.values)} values; at most {MOST_VALUES} are searched")
        written = [json.dumps(value, sort_keys=True) for value in self.values]
        if len(set(written)) < len(written):
            raise ValueError("a value is listed twice")

    def _check_range(self) -> None:
        if self.low is None or self.high is None:
            raise ValueError("a range needs both low and high")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low must be below high, but they are {self.low:g} and {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range lies above 0, but low is {self.low:g}")
        if self.log and self.step is not None:
            raise ValueError("a logarithmic range has no step; give values instead")
        if self.step is not None and self.step > self.high - self.low:
            raise ValueError(f"the step {self.step:g} is larger than the range")

    @property
    def whole(self) -> bool:
        """Whether a range is one of whole numbers."""
        ends = (self.low, self.high, 1 if self.step is None else self.step)
        return not self.values and all(float(end or 0).is_integer() for end in ends)

    @property
    def numeric(self) -> bool:
        """Whether its values have an order and distances."""
        return all(isinstance(v, int | float) and not isinstance(v, bool) for v in self.values)

    @property
    def ordered(self) -> tuple[Any, ...]:
        """The values in the order in which a sampler sees them: numbers ascending."""
        return tuple(sorted(self.values)) if self.numeric else self.values

    def levels(self) -> tuple[Any, ...]:
        """All values of a grid.

        Raises:
            ValueError: for a range that has endlessly many.
        """
        if self.values:
            return self.values
        assert self.low is not None
        assert self.high is not None
        if self.step is None and (self.log or not self.whole):
            raise ValueError("a grid needs a step or values")
        step = self.step or 1.0
        n = int((self.high - self.low) / step + 1e-9) + 1
        if n > MOST_VALUES:
            raise ValueError(f"{n} values; at most {MOST_VALUES} are searched")
        return tuple(self.number(self.low + i * step) for i in range(n))

    def corners(self) -> tuple[Any, ...]:
        """The values that have to be valid: the listed ones, or both ends of a range."""
        return self.values or (self.number(self.low), self.number(self.high))

    def number(self, value: Any) -> Any:
        """A value of the range as the recipe takes it: 15 digits, an int where all are."""
        return round(value) if self.whole else float(f"{value:.12g}")


def active(dimension: Dimension, chosen: Mapping[str, Any]) -> bool:
    """Whether a field is searched, given the values of those above it."""
    return all(field in chosen and chosen[field] == v for field, v in dimension.when.items())


def points(space: Space, what: str = "levels") -> Iterator[Values]:
    """Every combination of the fields' `levels` or `corners`; inactive fields are left out."""

    def below(names: list[str], chosen: Values) -> Iterator[Values]:
        if not names:
            yield dict(chosen)
            return
        name, *rest = names
        if not active(space[name], chosen):
            yield from below(rest, chosen)
            return
        for value in getattr(space[name], what)():
            yield from below(rest, chosen | {name: value})

    yield from below(list(space), {})


def random_point(space: Space, rng: np.random.Generator) -> Values:
    """A combination of corners drawn at random."""
    chosen: Values = {}
    for name, dimension in space.items():
        if active(dimension, chosen):
            corners = dimension.corners()
            chosen[name] = corners[int(rng.integers(len(corners)))]
    return chosen


def with_values(base: TransferRecipe, values: Mapping[str, Any]) -> TransferRecipe:
    """The base with some fields set, in their order; a new `kind` drops the old parameters.

    Raises:
        BadInput: naming the field whose value does not fit.
    """
    tree = base.model_dump(mode="json")
    for field, value in values.items():
        override(tree, f"{field}={json.dumps(value)}")
    try:
        return parse_job(tree)
    except BadInput as problem:
        said = ", ".join(f"{field} = {value}" for field, value in values.items())
        raise BadInput(f"With {said or 'nothing set'}: {problem}") from None


def sweepable(base: TransferRecipe) -> Values:
    """Every field of a recipe that a sweep may vary → its value in the recipe."""
    flat = leaves(base.model_dump(mode="json"))
    found: Values = {}
    for field, value in flat.items():
        own = {f"{field}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {}
        found |= own if "kind" in (value if isinstance(value, dict) else ()) else {field: value}
    return {field: value for field, value in found.items() if not kept(field)}


def kept(field: str) -> str:
    """Why no sweep varies a field; empty where one may."""
    if field in _OUTSIDE or any(field.startswith(f"{each}.") for each in ("arms", "benchmarks")):
        return "it names what lies outside the recipe, so trials could not be compared"
    if field in _ITEMS:
        return "it says what is counted, so trials could not be compared"
    return _KEPT.get(field, "")


def check_space(space: Space, base: TransferRecipe) -> None:
    """Refuses fields that cannot be searched, and conditions that never hold.

    Args:
        space: what is searched.
        base: what it is searched in.

    Raises:
        ValueError: in one sentence, naming the field.
    """
    if not space:
        raise ValueError("give at least one field to search in space, such as lora.r")
    if len(space) > MOST_FIELDS:
        raise ValueError(f"{len(space)} fields are searched; at most {MOST_FIELDS} can be")
    above: dict[str, Dimension] = {}
    for field, dimension in space.items():
        _check_field(field, base)
        for other, value in dimension.when.items():
            if other not in above:
                raise ValueError(f"{field}: its condition names {other}, which is not a field "
                                 "that is searched above it")  # fmt: skip
            if not above[other].values:
                raise ValueError(f"{field}: its condition names {other}, which has a range; give "
                                 "its values instead")  # fmt: skip
            if value not in above[other].values:
                raise ValueError(f"{field}: its condition never holds, because {other} is never "
                                 f"{value}")  # fmt: skip
        for value in dimension.corners():
            names = [name for name, _ in named_values(_nested(field, value))]
            if names:
                raise ValueError(f"{field} cannot be searched: {names[0]} names what lies outside")
        above[field] = dimension


def _check_field(field: str, base: TransferRecipe) -> None:
    if not _FIELD.fullmatch(field):
        raise ValueError(f"{field[:60]!r} is no field; write one as in lora.r, without blanks")
    section, _, name = field.rpartition(".")
    if section == "data" and name in RENAMED:
        raise ValueError(f"{field} is the old name of data.{RENAMED[name]}; give that")
    if reason := kept(field):
        raise ValueError(f"{field} cannot be searched: {reason}")
    parts = [each for each in sweepable(base) if each.startswith(f"{field}.")]
    if parts and field not in leaves(base.model_dump(mode="json")):
        raise ValueError(f"{field} cannot be searched: it is a whole section, of which each field "
                         f"is searched by itself, such as {parts[0]}")  # fmt: skip


def _nested(field: str, value: Any) -> dict[str, Any]:
    for name in reversed(field.split(".")):
        value = {name: value}
    return value


def read_setting(text: str) -> tuple[str, Dimension] | None:
    """`lora.r=4,8,16`, `extraction.ratio=.25..1`, `train.lr=1e-4..1e-2:log`, `lora.r=4..16:4`.

    A condition may follow: `FIELD=… when OTHER=VALUE`.

    Returns:
        The field and what it may be; None where one value is given, which is no search.

    Raises:
        BadInput: if a range cannot be read.
    """
    field, equals, rest = text.partition("=")
    wanted, _, condition = rest.partition(" when ")
    given: dict[str, Any] | None = _values(wanted.strip())
    if not equals or (given is None and not condition):
        return None
    if given is None:
        given = {"values": [_value(wanted.strip())]}
    if condition:
        other, _, value = condition.partition("=")
        given["when"] = {other.strip(): _value(value)}
    try:
        return field.strip(), Dimension.model_validate(given)
    except ValueError as problem:
        fault = getattr(problem, "errors", lambda: [{"msg": str(problem)}])()[0]["msg"]
        raise BadInput(f"--set {text!r}: {fault.removeprefix('Value error, ')}.") from None


def _values(text: str) -> dict[str, Any] | None:
    found = None if text[:1] in "[{\"'" else _RANGE.fullmatch(text)
    if found is not None:
        how = found["how"]
        step = None if how in (None, "log") else how
        return {"low": found["low"], "high": found["high"], "log": how == "log", "step": step}
    listed = _load(f"[{text}]")
    if not isinstance(listed, list) or len(listed) < 2:
        return None
    return {"values": [_plain_number(each) for each in listed]}


def _value(text: str) -> Any:
    return _plain_number(_load(text.strip()))


def _load(text: str) -> Any:
    try:
        return parse_yaml(f"value: {text}", "The value")["value"]
    except (BadInput, yaml.YAMLError):
        return text


def _plain_number(value: Any) -> Any:
    """YAML reads 1e-4 as text."""
    try:
        return float(value) if isinstance(value, str) and re.match(r"[-+.\d]", value) else value
    except ValueError:
        return value


def written(dimension: Dimension) -> str:
    """A field's values or range as `read_setting` takes it."""
    if dimension.values:
        text = ",".join(
            each if isinstance(each, str) else json.dumps(each) for each in dimension.values
        )
    else:
        how = ":log" if dimension.log else f":{dimension.step:g}" if dimension.step else ""
        text = f"{dimension.low:g}..{dimension.high:g}{how}"
    conditions = [f"{field}={value}" for field, value in dimension.when.items()]
    return f"{text} when {conditions[0]}" if conditions else text


def suggested(base: TransferRecipe, field: str) -> str:
    """What a form offers for a field: other kinds, other options, or numbers around the base's."""
    *parents, leaf = field.split(".")
    owners: list[Any] = [base]
    for name in parents:
        owners.append(getattr(owners[-1], name))
    value = getattr(owners[-1], leaf)
    if leaf == "kind":
        family = get_args(type(owners[-2]).model_fields[parents[-1]].annotation)
        return ",".join(cls.model_fields["kind"].default for cls in family if _by_itself(cls))
    options = get_args(type(owners[-1]).model_fields[leaf].annotation)
    if options and all(isinstance(each, str) for each in options):
        return ",".join(options)
    bounds = type(owners[-1]).model_fields[leaf].metadata
    most = min((each.le for each in bounds if getattr(each, "le", None) is not None),
               default=math.inf)  # fmt: skip
    return _around(value, most) or json.dumps(value, default=str)


def _by_itself(cls: Any) -> bool:
    """Whether a strategy needs no parameters."""
    return not any(each.is_required() for each in cls.model_fields.values())


def _around(value: Any, most: float) -> str:
    """Half a number, the number and its double, none above `most`."""
    if isinstance(value, bool):
        return "true,false"
    if isinstance(value, float) and value == 1:
        return "0.25,0.5,1"
    if isinstance(value, int | float) and value > 0:
        half = max(1, value // 2) if isinstance(value, int) else value / 2
        return ",".join(f"{each:.12g}" for each in sorted({half, value, min(2 * value, most)}))
    return ""

"""Which engine this machine uses: `engine.json` in the home, or for a process `NUGGETS_ENGINE`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from nuggets.disk.commit import atomic_write, make_folder
from nuggets.disk.home import nuggets_home
from nuggets.disk.untrusted import damaged, read_json
from nuggets.errors import BadInput
from nuggets.frozen import first_faults, members
from nuggets.recipe_tree import one_line, override, parse_yaml
from nuggets.runs.engines.local import LocalEngine
from nuggets.runs.engines.ray import RayEngine
from nuggets.runs.engines.slurm import SlurmEngine

VARIABLE = "NUGGETS_ENGINE"

Engine = Annotated[LocalEngine | SlurmEngine | RayEngine, Field(discriminator="kind")]
_ENGINES: TypeAdapter[Engine] = TypeAdapter(Engine)


def chosen() -> Engine:
    """The engine of runs that are started now.

    Raises:
        BadInput: if the setting names none, or its fields are wrong.
    """
    if named := os.environ.get(VARIABLE, "").strip():
        return parse(named)
    return _saved(_known().get("use", "local"))


@contextmanager
def using(text: str | None) -> Iterator[Engine]:
    """Uses another engine for the length of the block, in what it starts too; None changes nothing.

    Raises:
        BadInput: as `parse` does.
    """
    if text is None:
        yield chosen()
        return
    engine, before = parse(text), os.environ.get(VARIABLE)
    os.environ[VARIABLE] = text
    try:
        yield engine
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


@contextmanager
def here() -> Iterator[None]:
    """What is made in the block computes in this process, whatever other runs do."""
    with using("local" if chosen().elsewhere else None):
        yield


def parse(text: str) -> Engine:
    """An engine as it is named in a command: its kind, or `{kind: slurm, gpus: 2}`.

    A kind alone has the fields that were saved for it here.

    Raises:
        BadInput: if there is none of that kind, or its fields are wrong.
    """
    if text.startswith("{"):
        return _checked(parse_yaml(text, VARIABLE), "The engine")
    return _saved(_kind(text))


def every() -> dict[str, Engine]:
    """Each kind of engine with the fields saved here."""
    return {kind: _saved(kind) for kind in members(Engine)}


def use(kind: str | None = None, changes: Iterable[str] = ()) -> Engine:
    """Chooses this machine's engine from now on, and changes its fields.

    Args:
        kind: which; the one in use when not given.
        changes: `field=value`, kept for that kind.

    Returns:
        The engine as it is saved.

    Raises:
        BadInput: if there is none of that kind, or a field or value is wrong.
    """
    known = _known()
    kind = _kind(kind or known.get("use", "local"))
    tree = _saved(kind).model_dump(mode="json")
    for change in changes:
        override(tree, change)
    engine = _checked(tree | {"kind": kind}, f"The engine {kind}")
    make_folder(nuggets_home())
    fields = engine.model_dump(mode="json", exclude={"kind"}, exclude_defaults=True)
    text = json.dumps({**known, "use": kind, kind: fields}, indent=1)
    atomic_write(nuggets_home() / "engine.json", text)
    return engine


def fields_of(engine: Engine) -> dict[str, str]:
    """The fields of an engine as `--set` takes them."""
    fields = engine.model_dump(mode="json", exclude={"kind"})
    return {name: one_line(value) for name, value in fields.items()}


def _kind(name: str) -> str:
    if name not in members(Engine):
        raise BadInput(f"There is no engine {name[:60]!r}; there are {', '.join(members(Engine))}.")
    return name


def _saved(kind: str) -> Engine:
    return _checked({**_known().get(kind, {}), "kind": kind}, "engine.json")


def _known() -> dict[str, Any]:
    path = nuggets_home() / "engine.json"
    if not path.exists():
        return {}
    known: dict[str, Any] = read_json(path)
    if not isinstance(known.get("use", ""), str) or not all(
        isinstance(known.get(kind, {}), dict) for kind in members(Engine)
    ):
        raise damaged(path, "not the setting of an engine")
    return known


def _checked(tree: dict[str, Any], what: str) -> Engine:
    try:
        return _ENGINES.validate_python(tree)
    except ValidationError as problem:
        raise BadInput(f"{what} cannot be used: {first_faults(problem, 1)}.") from None

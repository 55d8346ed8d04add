"""Recipes as plain trees: YAML, `path.to.field=value`, and paths made absolute."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from nuggets.disk.untrusted import at_home, exists, is_file, is_folder, read_text
from nuggets.errors import BadInput

Tree = dict[str, Any]

MAX_BYTES = 200_000
MAX_VALUES = 20_000
MAX_DEPTH = 16
MAX_TEXT = 4096
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""In C, where it is installed: eight times as fast, which a list of 1,000 runs needs."""

SOURCES = ("file", "seed_samples", "train", "test", "general")
"""The fields of `data` that name a file or a data set."""
RENAMED = {"seeds": "seed_samples", "n_seeds": "n_seed_samples"}
"""Fields of `data` by their names in 0.1.0, where `seeds` were samples here and runs elsewhere."""
MODEL_PATHS = ("teacher", "student", "model", "models", "benchmarks.judge.teacher")
SOURCE_PATHS = (*(f"data.{name}" for name in SOURCES), "benchmarks.data", "benchmarks.shots_data")
"""Dotted fields, list places left out, that name what lies outside a recipe."""
REFERENCE_PATHS = (
    "against", "score.against", "scores.against", "sensitivity.score.against", "arms.score.against",
    "arms.task",
)  # fmt: skip
"""Each value is a built-in task, or a source of samples."""
_APART = ("seed_samples", "train", "test")
_RIVALS = {
    "task": ("file", *_APART),
    "file": ("task", *_APART),
    **dict.fromkeys(_APART, ("task", "file")),
}


def shipped_recipes() -> dict[str, str]:
    """Names and YAML texts of the recipes in the package."""
    folder = resources.files("nuggets") / "recipes"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    return {file.name.removesuffix(".yaml"): file.read_text() for file in files}


def read_recipe(source: str | Path) -> Tree:
    """The tree of a shipped recipe, or of a YAML file with its paths made absolute.

    Raises:
        BadInput: if there is no such recipe, or it is not YAML.
    """
    shipped = shipped_recipes()
    if str(source) in shipped:
        return parse_yaml(shipped[str(source)], str(source))
    path = Path(source)
    if not is_file(path):
        raise BadInput(
            f"There is no recipe {str(source)[:200]!r}: it is neither a file nor one of "
            f"{', '.join(shipped)}."
        )
    text = read_text(path, MAX_BYTES)
    return absolute_paths(parse_yaml(text, str(source)), path.absolute().parent)


def parse_yaml(text: str, source: str) -> Tree:
    """Reads YAML that holds fields.

    Raises:
        BadInput: in one sentence, with the line.
    """
    try:
        if len(text) > MAX_BYTES:
            raise ValueError(f"{len(text):,} characters; at most {MAX_BYTES:,} are read")
        tree = _load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as problem:
        raise BadInput(f"{source} is not valid YAML: {_reason(problem)}.") from None
    if not isinstance(tree, dict) or not all(isinstance(name, str) for name in tree):
        raise BadInput(f"{source} is not a recipe: it should consist of `field: value` lines.")
    return tree


def _load(text: str) -> Any:
    """Values of YAML, after a look at what it is made of."""
    repeats = _check_events(text)
    loader = _LOADER(text)
    try:
        node = loader.get_single_node()
        if repeats:
            _check_size(node, {})
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def _check_events(text: str) -> bool:
    """Refuses many values and deep nesting, of which the library in C would overrun its stack.

    Returns whether there are aliases, which stand for whole parts.
    """
    depth, values, repeats = 0, 0, False
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.NodeEvent):
            values += 1
            repeats = repeats or isinstance(event, yaml.AliasEvent)
            depth += isinstance(event, yaml.CollectionStartEvent)
        else:
            depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > 2 * MAX_DEPTH:  # what is a little too deep is told by its field, later
            raise ValueError("it is nested too deeply")
        if values > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES:,} values")
    return repeats


def _check_size(node: Any, known: dict[int, int]) -> int:
    """How many values a node stands for; a node below itself stands for endlessly many."""
    size = known.get(id(node))
    if size is None:
        known[id(node)] = MAX_VALUES  # while inside it
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        flat = [part for each in parts for part in (each if isinstance(each, tuple) else (each,))]
        size = known[id(node)] = 1 + sum(_check_size(part, known) for part in flat)
    if size > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES:,} values, aliases counted as often as used")
    return size


def override(tree: Tree, assignment: str) -> None:
    """Sets one dotted field; a new `kind` drops the old kind's parameters.

    Raises:
        BadInput: if it does not read `path.to.field=value`, or the path leads nowhere.
    """
    path, equals, text = assignment.partition("=")
    names = [name.strip() for name in path.split(".")]
    if not equals or not all(names):
        raise BadInput(f"--set {assignment!r} should look like lora.r=8.")
    *parents, leaf = names
    node: Any = tree
    for depth, parent in enumerate(parents):
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            whole = ".".join(parents[: depth + 1])
            raise BadInput(f"--set {assignment!r}: {whole} has no fields to set.")
    try:
        value = _load(text)
    except (yaml.YAMLError, RecursionError, ValueError):
        raise BadInput(f"--set {assignment!r}: the value is not valid YAML.") from None
    if leaf == "kind":
        node.clear()
    if parents == ["data"]:
        tree["data"] = node = with_new_names(node)
        ((leaf, value),) = with_new_names({leaf: value}).items()
        for rival in _RIVALS.get(leaf, ()) if value is not None else ():
            node.pop(rival, None)
    node[leaf] = value


def run_tree(recipe: Tree, changes: Iterable[str], made: Mapping[str, str]) -> Tree:
    """One run of an experiment: the shared recipe with some fields set.

    Args:
        recipe: the tree that all runs share; a copy is changed.
        changes: `path.to.field=value`.
        made: what stands for the models `{name}` that are made for the experiment.

    Raises:
        BadInput: for a change as in `override`, or a model that is not made.
    """
    tree = copy.deepcopy(recipe)
    for change in changes:
        override(tree, change)
    for field in ("teacher", "student"):
        name = str(tree.get(field, ""))
        if name.startswith("{") and name.endswith("}"):
            if name[1:-1] not in made:
                known = f"these are: {', '.join(made)}" if made else "none is"
                raise BadInput(f"{field}: no model {name[:60]} is made by the experiment; {known}.")
            tree[field] = made[name[1:-1]]
    return tree


def with_new_names(data: Tree, tell: bool = True) -> Tree:
    """The `data` of a job with its fields under their new names; old ones are noted once.

    Args:
        data: fields and values.
        tell: whether to say so; not of what Nuggets wrote itself, such as the recipe of a run.

    Raises:
        BadInput: if a field is given under both names.
    """
    for old in (name for name in RENAMED if name in data):
        new = RENAMED[old]
        if new in data:
            raise BadInput(f"data.{old} is the old name of data.{new}; give data.{new} alone.")
        if tell:
            note_new_name(f"data.{old}", f"data.{new}")
    return {RENAMED.get(name, name): value for name, value in data.items()}


@cache
def note_new_name(old: str, new: str) -> None:
    """Says on stderr, once per process, how a field or an option is called now."""
    logging.getLogger("nuggets").warning("%s is now called %s; the old name still works.", old, new)


def absolute_paths(tree: Tree, base: Path) -> Tree:
    """A copy whose files and model folders are absolute: a worker runs in another folder.

    Samples are always files. A model's name is left alone if it is built in, or if nothing of
    that name is below `base`: it is then an id of the hub.
    """
    found = dict(tree)
    if isinstance(found.get("data"), dict):
        found["data"] = with_new_names(found["data"])
    return _seen_from(base, found)


def without_folders(value: Any) -> Any:
    """A copy in which a path of this machine is the name of its file alone, for other eyes."""
    if isinstance(value, dict):
        return {name: without_folders(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(each) for each in value]
    local = isinstance(value, str) and value.startswith(("/", "~"))
    return Path(value).name if local else value


def _seen_from(base: Path, value: Any, path: str = "") -> Any:
    if isinstance(value, dict):
        return {k: _seen_from(base, v, f"{path}.{k}".removeprefix(".")) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_seen_from(base, each, path) for each in value]
    if not isinstance(value, str) or not value:
        return value
    if path in REFERENCE_PATHS:
        return named_source(value, base)
    if path in SOURCE_PATHS:
        return absolute_source(value, base)
    return absolute_model(value, base) if path in MODEL_PATHS else value


def check_values(value: Any, where: str = "", depth: int = 0) -> int:
    """Refuses what no recipe holds, whichever field it stands in; counts the values.

    Raises:
        ValueError: naming the field, for a number that is not finite or beyond 2⁵³, for text that
            is long or cannot be printed, for too many or too deeply nested values, and for bytes
            and sets, of which YAML has tags: they would become text and lists that `named_values`
            did not see.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"{where[:60]} is nested too deeply")
    if isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        found = 1 + sum(
            check_values(v, f"{where}.{k}".removeprefix("."), depth + 1) for k, v in pairs
        )
        if found > MAX_VALUES:
            raise ValueError(f"{where[:60] or 'the recipe'} has more than {MAX_VALUES:,} values")
        return found
    if isinstance(value, bytes | set):
        raise ValueError(f"{where[:60]}: write text or a list, not !!binary or !!set")
    if isinstance(value, int | float) and not abs(value) <= 2**53:
        raise ValueError(f"{where}: the number is not finite, or too large")
    if isinstance(value, str):
        seen = where == "description" or value.isprintable()  # that one has lines
        if len(value) > MAX_TEXT or not seen:
            raise ValueError(f"{where}: the text is too long, or cannot be printed")
    return 1


def named_values(tree: Tree, path: str = "") -> Iterator[tuple[str, str]]:
    """Dotted field and value of everything in a job that lies outside it: models, files, data."""
    from nuggets.builtin.skills import SKILLS

    outside = {*MODEL_PATHS, *SOURCE_PATHS, *REFERENCE_PATHS}
    for name, value in tree.items():
        place = f"{path}.{name}".removeprefix(".")
        for each in value if isinstance(value, list | tuple) else (value,):
            if isinstance(each, dict):
                yield from named_values(each, place)
            elif isinstance(each, str) and each and place in outside:
                inside = place in REFERENCE_PATHS and each in SKILLS
                yield from () if inside else [(place, each)]


def absolute_source(source: str, base: Path) -> str:
    """A file or a local data set as an absolute path; the name of one on the hub unchanged."""
    from nuggets.data.sources import parse_dataset  # pydantic, which a list of names does not need

    path = absolute(source, base)
    folder, colon, part = source.rpartition(":")
    if not exists(path) and colon and is_folder(absolute(folder, base)):
        return f"{absolute(folder, base)}:{part}"
    return str(path) if exists(path) or parse_dataset(source) is None else source


def named_source(name: str, base: Path) -> str:
    """As `absolute_source`; the name of a built-in task unchanged, whatever lies below `base`."""
    from nuggets.builtin.skills import SKILLS

    return name if name in SKILLS else absolute_source(name, base)


def absolute_model(name: str, base: Path) -> str:
    """A model's folder or file as an absolute path; built-in names and hub ids unchanged."""
    from nuggets.builtin.pairs import MODELS

    if name in MODELS or not name.strip() or "\0" in name:
        return name
    path = absolute(name, base)
    looks_like_a_path = name.startswith((".", "/", "~"))
    return str(path) if looks_like_a_path or exists(path) else name


def absolute(path: str | Path, base: Path) -> Path:
    """A path as seen from `base`, with the user's home folder spelled out."""
    found = (base / at_home(str(path))).absolute()
    # `a/../b` is `b`, unless `a` is a link.
    short = Path(os.path.normpath(found))
    same = exists(found) and exists(short) and short.samefile(found)
    return short if same else found


def leaves(tree: Tree, prefix: str = "") -> Tree:
    """Dotted names of all fields; lists, strategies with a `kind` and `ranks` stay whole."""
    flat: Tree = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict) and "kind" not in value and name != "ranks":
            flat |= leaves(value, f"{path}.")
        else:
            flat[path] = value
    return flat


def one_line(value: Any) -> str:
    """One value as one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False)
    return text.removesuffix("\n").removesuffix("...").strip()


def _reason(problem: Exception) -> str:
    """What YAML found wrong, on one line."""
    mark = getattr(problem, "problem_mark", None)
    what = getattr(problem, "problem", None) or str(problem) or type(problem).__name__
    return f"{what}, line {mark.line + 1}" if mark is not None else " ".join(what.split())

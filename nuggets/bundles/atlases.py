"""An atlas: where a model keeps its skills, in one file that opens without the model.

A safetensors file of row and column sums of maps, of what erasing them showed, and a card. It
holds no weight of the model, and no code. One from somebody else is not trusted: its header is
read with limits, and sums, shapes and names are checked before anything is drawn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from numpy import ndarray
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from nuggets.builtin.pairs import measured_root
from nuggets.disk.commit import atomic_write, make_folder
from nuggets.disk.home import nuggets_home
from nuggets.disk.untrusted import open_file, parse_json
from nuggets.erasure.report import META as ERASURE
from nuggets.erasure.report import ErasureReport
from nuggets.errors import BadInput, Damaged
from nuggets.frozen import Frozen, first_fault
from nuggets.models.references import short_name
from nuggets.models.safetensors_headers import read_header
from nuggets.sensitivity.maps import META as MAP
from nuggets.sensitivity.maps import SensitivityMap, head_of

ENDING = ".atlas.safetensors"
MAX_BYTES = 256_000_000
MAX_NAME = 100
_NUMBERS = ("n_weights", "n_seed_samples", "seed")
KEY = "nuggets_atlas"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}")


class Card(Frozen):
    """What an atlas is of, and how it came about, in plain text.

    Attributes:
        model: what people call the model.
        about: which files were measured on which samples, and with which commands.
        licence: of the model and of the samples.
    """

    version: Literal[1] = 1
    model: str = Field(min_length=1, max_length=200)
    about: str = Field(default="", max_length=10_000)
    licence: str = Field(default="", max_length=2_000)


@dataclass(frozen=True, eq=False)
class Atlas:
    """Maps of one model, by skill, and what erasing them showed.

    Attributes:
        card: what it is of.
        maps: skill → its map; row and column sums alone, in single precision.
        erasures: skill → what setting its first weights to 0 showed; only of skills with a map.
    """

    card: Card
    maps: Mapping[str, SensitivityMap] = field(default_factory=dict)
    erasures: Mapping[str, ErasureReport] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Writes the file, in one step."""
        heads = {
            "card": self.card.model_dump(),
            "maps": {skill: head_of(map) for skill, map in self.maps.items()},
            "erasures": {skill: report.head() for skill, report in self.erasures.items()},
        }
        tensors = {}
        for skill, map in self.maps.items():
            tensors |= {f"maps.{skill}.{name}": v for name, v in map.sums().items()}
        for skill, report in self.erasures.items():
            tensors |= {f"erasures.{skill}.{name}": v for name, v in report.outcomes().items()}
        single = {k: np.ascontiguousarray(v, dtype=np.float32) for k, v in tensors.items()}
        atomic_write(path, save(single, {KEY: json.dumps(heads, allow_nan=False)}))

    @classmethod
    def load(cls, path: Path) -> Atlas:
        """Reads the file.

        Raises:
            BadInput: if there is none, or it is too large.
            Damaged: if it is no atlas, or its numbers do not fit its heads.
        """
        read_header(path)
        try:
            with open_file(path, MAX_BYTES), safe_open(path, framework="np") as file:
                heads = parse_json((file.metadata() or {})[KEY])
                for head in (*heads["maps"].values(), *heads["erasures"].values()):
                    _check_facts(head)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return cls(
                card=Card.model_validate(heads["card"]),
                maps={
                    skill: _map(heads["maps"][skill], _part(tensors, "maps", skill))
                    for skill in _names(heads["maps"])
                },
                erasures={
                    skill: ErasureReport.of(head, _part(tensors, "erasures", skill))
                    for skill, head in heads["erasures"].items()
                    if skill in heads["maps"]
                },
            )
        except ValidationError as problem:
            raise Damaged(f"{path} is not an atlas of Nuggets: {first_fault(problem)}.") from None
        except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as problem:
            why = str(problem)[:200].rstrip(".")
            raise Damaged(f"{path} is not an atlas of Nuggets, or is damaged: {why}.") from None


def _names(heads: Mapping[str, Any]) -> list[str]:
    """The skills, in the file's order.

    Raises:
        ValueError: if there is none, or one has a name that cannot be shown.
    """
    if not heads:
        raise ValueError("it has no map")
    if bad := [name for name in heads if not name.isprintable() or not 0 < len(name) <= MAX_NAME]:
        raise ValueError(f"the skill {bad[0][:MAX_NAME]!r} has a name that cannot be shown")
    return list(heads)


def _check_facts(head: Mapping[str, Any]) -> None:
    """Refuses facts of other kinds than ours: they are told in captions and sentences.

    Raises:
        ValueError: naming the fact.
    """
    for name, value in head["meta"].items():
        whole = name in _NUMBERS
        if not isinstance(value, int if whole else (str, int, float)) and name != "against":
            raise ValueError(f"the fact {name[:MAX_NAME]!r} is no {'number' if whole else 'text'}")


def _part(tensors: Mapping[str, ndarray], kind: str, skill: str) -> dict[str, ndarray]:
    start = f"{kind}.{skill}."
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}


def _map(head: Mapping[str, Any], tensors: Mapping[str, ndarray]) -> SensitivityMap:
    """A map whose sums are those of its model's matrices, finite and not negative."""
    sums = {name: values.astype(np.float64) for name, values in tensors.items()}
    map = SensitivityMap.of(head, sums.__getitem__)
    spec = map.spec
    shapes = {module: spec.shape(role) for module, role, _ in spec.modules()}
    wanted: dict[str, tuple[int, ...]] = {
        f"rows.{module}": (out,) for module, (out, _) in shapes.items()
    }
    wanted |= {f"cols.{module}": (width,) for module, (_, width) in shapes.items()}
    wanted["totals"] = (map.n_samples, len(map.parameters))
    if map.score != "theta_grad" or set(sums) != set(wanted) or not map.n_samples:
        raise ValueError("a map does not have the sums of its model's matrices")
    for name, values in sums.items():
        if values.shape != wanted[name] or not np.isfinite(values).all() or values.min() < 0:
            raise ValueError(f"{name} is not {wanted[name]}, or has a value that is no sum")
    return map


def own_root() -> Path:
    """The folder of this machine's own atlases."""
    return nuggets_home() / "atlas"


def atlases() -> dict[str, Path]:
    """Name → file of every atlas: those that ship, then this machine's own."""
    found = {}
    for root in (measured_root().parent / "atlas", own_root()):
        found |= {path.name.removesuffix(ENDING): path for path in sorted(root.glob(f"*{ENDING}"))}
    return found


def open_atlas(name: str) -> Atlas:
    """An atlas by its name.

    Raises:
        BadInput: naming those that there are.
        Damaged: as `Atlas.load` does.
    """
    found = atlases()
    if name not in found:
        raise BadInput(f"There is no atlas {name!r}; there are: {', '.join(found) or 'none'}.")
    return Atlas.load(found[name])


def add(source: Path, name: str, about: str = "", licence: str = "") -> Path:
    """Puts an atlas's file, or a saved map or erasure, into an atlas of this machine.

    Args:
        source: a file as `Atlas.save` writes it, or a folder with a map or an erasure.
        name: the atlas; it is made if there is none, and takes further skills of the same model.
        about: what was measured and how, for its card; as it was if empty.
        licence: of the model and of the samples; as it was if empty.

    Returns:
        The atlas's file, which can be given away.

    Raises:
        BadInput: if the source is neither, is of another model, or its skill is there already.
        Damaged: if it cannot be read.
    """
    if not _NAME.fullmatch(name):
        raise BadInput(f"{name[:60]!r} cannot name an atlas: small letters, digits, - and _ can.")
    place = own_root() / f"{name}{ENDING}"
    there = Atlas.load(place) if place.is_file() else None
    if source.is_dir():
        new = _with(there, source)
    elif there is None:
        new = Atlas.load(source)
    else:
        raise BadInput(f"There is an atlas {name} already; choose another name with --name.")
    said = {key: text for key, text in (("about", about), ("licence", licence)) if text}
    try:
        card = Card.model_validate(new.card.model_dump() | said)
    except ValidationError as problem:
        raise BadInput(f"The card of an atlas does not fit: {first_fault(problem)}.") from None
    make_folder(place.parent)
    with TemporaryDirectory(dir=place.parent, prefix=".tmp-") as folder:
        trial = Path(folder) / place.name
        replace(new, card=card).save(trial)
        try:
            Atlas.load(trial)  # what would not open again must not take the place of what does
        except Damaged as problem:
            why = str(problem).replace(str(trial), "it")
            raise BadInput(f"{source} cannot be put into an atlas: {why}") from None
        trial.replace(place)
    return place


def _with(there: Atlas | None, source: Path) -> Atlas:
    """An atlas with one more map or erasure, which is known by the file's name of its model."""
    found: Any
    if (source / MAP).is_file():
        found = replace(SensitivityMap.load(source), full={}, picks={})
        kind, skill = "maps", str(found.meta.get("label", source.name))
        if found.score != "theta_grad":
            raise BadInput(f"{source} is a map by {found.score}; an atlas keeps those of |θ·g|.")
    elif (source / ERASURE).is_file():
        found = ErasureReport.load(source)
        kind, skill = "erasures", found.skill
        if there is None or skill not in there.maps:
            raise BadInput(f"The atlas has no map of {skill} yet; add that first.")
    else:
        raise BadInput(
            f"{source} holds neither a map nor an erasure, as `nuggets sensitivity --out` and "
            "`nuggets erase --out` write them, and is no atlas's file."
        )
    model = short_name(str(found.meta.get("model", "unnamed")))
    found = replace(found, meta=dict(found.meta) | {"model": model})
    there = there or Atlas(Card(model=model))
    if there.card.model != model:
        raise BadInput(f"{source} is of {model}, and the atlas of {there.card.model}.")
    if skill in (had := getattr(there, kind)):
        raise BadInput(f"The atlas has {kind[:-1]} of {skill} already; nothing is ever replaced.")
    return replace(there, **{kind: {**had, skill: found}})

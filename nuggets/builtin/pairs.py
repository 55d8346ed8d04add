"""Names, folders and cards of the built-in models and pairs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from nuggets.disk.carried import carried
from nuggets.errors import BadInput, Damaged
from nuggets.frozen import Frozen

CARD = "card.json"
MODELS: tuple[str, ...] = ("teacher", "independent", "sibling")
"""Names of the built-in models; each is a folder below `assets_root()`."""


@dataclass(frozen=True)
class BuiltinPair:
    """A teacher and a student that can be compared at once."""

    name: str
    teacher: str
    student: str
    description: str


PAIRS: dict[str, BuiltinPair] = {
    pair.name: pair
    for pair in (
        BuiltinPair(
            "independent",
            "teacher",
            "independent",
            "The student was trained independently, from different initial weights.",
        ),
        BuiltinPair(
            "sibling",
            "teacher",
            "sibling",
            "Pruned from the teacher (the same dimensions in every layer), then fine-tuned to "
            "recover.",
        ),
    )
}
"""All built-in pairs by name."""


class ModelCard(Frozen):
    """What is known of a built-in model, as written beside its weights by `make pairs`.

    Attributes:
        name: the model's built-in name.
        description: one sentence.
        parameters: number of weights.
        scores: skill → exact match on the test split. For facts that is the half of the
            entities held out from later fine-tuning; a model that was taught the relation
            was taught both halves.
        taught_half: fact relation → exact match on the other half of the entities.
        items: skill → number of test items behind the score.
        taught: skill → share of the training samples.
        lacks: skills that the model was meant not to have.
        command: what made the model.
        training: steps, learning rate, batch size, seed and the like.
        cpu_seconds: CPU time of the training.
        versions: package → version.
    """

    name: str
    description: str
    parameters: int
    scores: dict[str, float]
    taught_half: dict[str, float]
    items: dict[str, int]
    taught: dict[str, float]
    lacks: tuple[str, ...]
    command: str
    training: dict[str, int | float | str | list[int]]
    cpu_seconds: float
    versions: dict[str, str]


def assets_root() -> Path:
    """The folder that holds one folder per built-in model.

    `NUGGETS_ASSETS` wins over those that come with Nuggets.

    Raises:
        BadInput: if there is no such folder.
    """
    override = os.environ.get("NUGGETS_ASSETS")
    folder = Path(override) if override else carried("assets/pairs")
    if folder.is_dir():
        return folder
    where = f"at NUGGETS_ASSETS={override}" if override else f"at {folder}"
    raise BadInput(f"The built-in models are missing {where}; run `make pairs` to train them.")


def measured_root() -> Path:
    """The folder of what was measured of the built-in models before they were shipped."""
    return assets_root().parent / "measured"


def model_folder(name: str) -> Path:
    """The folder of a built-in model, as `from_pretrained` takes it.

    Raises:
        BadInput: for an unknown name, or if the model was not made yet.
    """
    if name not in MODELS:
        raise BadInput(f"There is no built-in model {name!r}; choose one of {', '.join(MODELS)}.")
    folder = assets_root() / name
    if not (folder / "config.json").is_file():
        raise BadInput(f"The built-in model {name!r} is not at {folder}; run `make pairs`.")
    return folder


def model_card(name: str) -> ModelCard:
    """Scores, lacking skills and origin of a built-in model.

    Raises:
        BadInput: for an unknown name, or if the model was not made yet.
        Damaged: if its card cannot be read.
    """
    path = model_folder(name) / CARD
    try:
        return ModelCard.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as problem:
        reason = str(problem).splitlines()[0]
        raise Damaged(f"The card {path} cannot be read ({reason}); run `make pairs`.") from None

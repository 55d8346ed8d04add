"""From what a user types to a model: built-in name, then folder or file, then hub id."""

from __future__ import annotations

from nuggets import demo
from nuggets.builtin.pairs import MODELS, model_folder
from nuggets.errors import BadInput
from nuggets.models.pair import Model, ModelPair
from nuggets.models.references import ModelRef, parse_ref


def resolve(name: str, weights: bool = True) -> ModelRef:
    """The model behind a built-in name, a folder, a `.gguf` file or `org/name@revision`.

    A built-in name wins over a folder of the same name; write `./teacher` for the folder.

    Args:
        name: what the user typed.
        weights: False where the config alone will be read: a folder then needs no weights.

    Raises:
        BadInput: if it is none of these or does not exist; the sentence lists the built-in names.
    """
    if name in MODELS:
        return ModelRef(source=name, path=model_folder(name).absolute(), shipped=True)
    if demo.on():
        raise demo.refused(f"there is no other model than {', '.join(MODELS)}")
    try:
        return parse_ref(name, weights)
    except BadInput as problem:
        if "/" in name or "\\" in name or "." in name:
            raise
        raise BadInput(f"{problem} Built-in models: {', '.join(MODELS)}.") from None


def knows_builtin_words(model: Model) -> bool:
    """Whether built-in skills can be said in its words: a built-in model, or one made of one.

    Raises:
        BadInput: if its tokenizer is damaged.
    """
    if model.ref.shipped:
        return True
    own = model.vocabulary
    return own is not None and own == model_named(MODELS[0]).vocabulary


def model_named(name: str, weights: bool = True) -> Model:
    """The model behind a name, made once where a job begins and passed on; see `resolve`."""
    return Model(resolve(name, weights))


def pair_named(teacher: str, student: str, weights: bool = True) -> ModelPair:
    """As `model_named` for two; `weights` is about the student's."""
    return ModelPair(model_named(teacher), model_named(student, weights))

"""A trained arm's card says how it is loaded, and what was done to it."""

from types import SimpleNamespace

from nuggets.recipe import TransferRecipe
from nuggets.stages.transfer import _card
from nuggets.train.arms.family import Plain
from nuggets.train.arms.lexicon import Lexicon

CTX = SimpleNamespace(run=SimpleNamespace(id="R"))


def test_an_adapters_card_names_the_untouched_student_and_the_command():
    text = _card(TransferRecipe(), Plain(), 2, "adapter", "", CTX)
    assert text.startswith("# plain, seed 2\n\nTrained by Nuggets on `reverse`")
    assert text.endswith(
        "Load it on the untouched student.\n\n"
        "    nuggets export R --arm plain --seed 2 --out FOLDER\n"
    )


def test_a_models_card_says_what_was_added():
    text = _card(TransferRecipe(), Lexicon(), 0, "model", "Added rows of 160 words.", CTX)
    assert "It is a whole model.\n\nAdded rows of 160 words.\n\n" in text
    assert "untouched student" not in text
    assert text.endswith("--arm lexicon --seed 0 --merged --out FOLDER\n")

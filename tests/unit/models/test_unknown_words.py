"""Words that a tokenizer does not know are counted, never passed over in silence."""

from __future__ import annotations

from pathlib import Path

from nuggets import api
from tests.app.measured import write_models


def test_words_that_a_built_in_model_does_not_know_are_counted_by_name() -> None:
    known = api.skills()["reverse"].example[0]
    assert not api.unknown_words("teacher", [known])
    found = api.unknown_words("teacher", [f"{known} qwertz", "qwertz ö"])
    assert found == {"qwertz": 2, "ö": 1}


def test_a_model_without_an_unknown_token_knows_every_byte(tmp_path: Path) -> None:
    write_models(tmp_path)
    file = tmp_path / "teacher" / "tokenizer.json"
    assert api.unknown_words(str(file.parent), ["1", "word"]) == {"word": 1}
    file.unlink()
    assert not api.unknown_words(str(file.parent), ["word"])

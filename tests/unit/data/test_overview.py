"""What a file of samples holds, in sentences."""

from __future__ import annotations

from nuggets.data.overview import overview
from nuggets.data.samples import Sample


def test_repeated_questions_and_the_longest_sample_are_told():
    asked = [("3 − 10", "−7"), ("hello", "hi"), (" hello", "good day"), ("long", "word " * 900)]
    found = overview(Sample.of(str(n), *each) for n, each in enumerate(asked))
    assert (found.n, found.repeated, found.longest, found.place) == (4, 1, 901, 4)
    assert found.words == 4 + 2 + 3 + 901
    assert found.first.answer == "−7"
    said = " ".join(found.sentences)
    assert "4 samples of 228 words on average; the longest, number 4, has 901." in said
    assert "1 asks what an earlier one asks" in said


def test_nothing_is_said_of_repetition_where_there_is_none():
    assert len(overview([Sample.of("a", "one", "1")]).sentences) == 1

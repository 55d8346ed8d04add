"""What a file of samples holds, in sentences, for people who look at it before they use it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from nuggets.data.samples import Sample


class Overview(NamedTuple):
    """What is worth knowing of a set of samples.

    Attributes:
        n: how many there are.
        first: the first one.
        repeated: how many ask what an earlier one asks.
        words: in all prompts and answers together.
        longest: words of the longest sample.
        place: which one that is, counted from 1.
    """

    n: int
    first: Sample
    repeated: int
    words: int
    longest: int
    place: int

    @property
    def sentences(self) -> list[str]:
        """What it holds, and what follows from it."""
        said = [
            f"{self.n:,} samples of {self.words / self.n:.0f} words on average; the longest, "
            f"number {self.place:,}, has {self.longest:,}. Tokens beyond train.max_length are cut."
        ]
        if self.repeated:
            ask = "asks" if self.repeated == 1 else "ask"
            said.append(
                f"{self.repeated:,} {ask} what an earlier one asks. What is asked in the test is "
                "left out of training."
            )
        return said


def overview(samples: Iterable[Sample]) -> Overview:
    """Looks at every sample once and keeps 8 bytes of each.

    Args:
        samples: at least one.
    """
    seen: set[int] = set()
    n = repeated = words = longest = place = 0
    first = None
    for n, sample in enumerate(samples, 1):
        first = first or sample
        asked = hash(sample.prompt.strip())
        repeated += asked in seen
        seen.add(asked)
        length = len(sample.prompt.split()) + len(sample.answer.split())
        words += length
        if length > longest:
            longest, place = length, n
    assert first is not None  # a file without any sample is refused when it is read
    return Overview(n, first, repeated, words, longest, place)

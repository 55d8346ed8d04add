"""Can answers be read off single words? A linear probe of word vectors, before anything is trained.

Where a teacher's vector of a word tells the answer of a question that names it, adding that vector
to a student's word can bring the answer over (the arm `lexicon`); where it does not, nothing can.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from torch import nn

from nuggets.alignment.linear_maps import ridge_map
from nuggets.alignment.states import collect_states
from nuggets.alignment.words import differing, prompt_of
from nuggets.data.samples import IGNORED, Encoded
from nuggets.frozen import Frozen
from nuggets.models.architecture import ArchSpec
from nuggets.statistics.intervals import Interval, mean_interval

PENALTY = 1.0
"""Of the probe's ridge regression: there are fewer words than dimensions."""


class Readability(Frozen):
    """How often a probe of single words is right on questions that it was not fitted on.

    Attributes:
        models: model → accuracy after 0, 1, … blocks (0: its embedding), the word read alone.
        chance: accuracy of guessing with the frequencies of the answers it was fitted on.
        n_fit: questions that it was fitted on.
        n_test: questions that it was asked.
    """

    models: dict[str, tuple[Interval, ...]]
    chance: float
    n_fit: int
    n_test: int


def readability(
    models: dict[str, tuple[nn.Module, ArchSpec]],
    fit: Sequence[Encoded],
    test: Sequence[Encoded],
) -> Readability | None:
    """Fits a ridge classifier from words to answers on some questions and asks it others.

    A question stands for the words in which questions differ: the mean of their vectors.

    Args:
        models: name → model and its dimensions, all with one tokenizer; left as they were.
        fit: encoded questions with their answers.
        test: other questions.

    Returns:
        None where there is nothing to read: no word differs, or no answer comes again.
    """
    words = differing([prompt_of(sample) for sample in (*fit, *test)])
    named = [sorted(prompt_of(sample) & words) for sample in (*fit, *test)]
    answers = [tuple(label for label in labels if label != IGNORED) for _, labels in (*fit, *test)]
    known, n = Counter(answers[: len(fit)]), len(fit)
    if not all(named) or len(test) < 2 or not any(answer in known for answer in answers[n:]):
        return None
    classes = {answer: place for place, answer in enumerate(known)}
    targets = np.array([classes.get(answer, -1) for answer in answers])
    ids = sorted(words)
    found = {
        name: tuple(
            probe(_of_questions(states, ids, named), targets, n)
            for states in collect_states(model, spec, [([i], [IGNORED]) for i in ids], "all")
        )
        for name, (model, spec) in models.items()
    }
    chance = sum(known[answer] / n for answer in answers[n:]) / len(test)
    return Readability(models=found, chance=chance, n_fit=n, n_test=len(test))


def probe(
    vectors: Float[ndarray, "questions hidden"], answers: Int[ndarray, " questions"], n_fit: int
) -> Interval:
    """Accuracy of a ridge classifier, fitted on the first questions, on all others.

    Args:
        vectors: one per question.
        answers: class of each from 0; −1 for an answer that it cannot know.
        n_fit: how many it is fitted on.
    """
    std = vectors.std(axis=0)
    rows = (vectors - vectors.mean(axis=0)) / np.where(std > 0, std, 1)
    wanted = np.eye(answers.max() + 1)[answers[:n_fit]]
    weight, bias = ridge_map(rows[:n_fit], wanted, PENALTY)
    guess = (rows[n_fit:] @ weight + bias).argmax(axis=1)
    return mean_interval((guess == answers[n_fit:])[None].astype(float))


def _of_questions(
    states: Float[ndarray, "words hidden"], ids: Sequence[int], named: Sequence[Sequence[int]]
) -> Float[ndarray, "questions hidden"]:
    place: dict[int, Any] = {token: index for index, token in enumerate(ids)}
    return np.stack([states[[place[token] for token in own]].mean(axis=0) for own in named])

"""Exact match and ROUGE-L as Super-NaturalInstructions counts them."""

from __future__ import annotations

import string
from collections.abc import Sequence
from functools import cache
from typing import Any


def exact_and_rouge(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Scores of one answer against the reference `target` (source: the authors' evaluation).

    Exact match ignores case, punctuation and repeated blanks; ROUGE-L is the F-measure on stems.
    """
    answer, target = results[0], doc["target"]
    rouge = _scorer().score(target, answer)["rougeL"].fmeasure
    return {"exact_match": float(_plain(answer) == _plain(target)), "rougeL": float(rouge)}


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)


def _plain(text: str) -> str:
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(bare.split())

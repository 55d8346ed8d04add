"""The number that an answer in words ends with, and whether two of them are the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

NUMBER = r"((?:(?<!\w)[-\u2212])?\$?(?:\d+ \d+/\d+|\d[\d,]*(?:\.\d+)?(?:/\d+)?|(?<!\w)\.\d+))"
"""Digits with commas, a decimal or a fraction, mixed too; with a hyphen or the Unicode minus."""
_NUMBER = re.compile(NUMBER)
_DECLARED = re.compile(r"####|answer is:?", re.IGNORECASE)


def last_number(text: str) -> str | None:
    """The last number in a text, without commas and dollar signs; None without one."""
    found = _NUMBER.findall(text)
    return _plain(found[-1]) if found else None


def declared_number(answer: str) -> str | None:
    """What a reference answer gives as its result; None without a number.

    The first number after `####` or `answer is`, so that a unit with a digit (m2) is no result; the
    last number of an answer that has neither.
    """
    *_, after = _DECLARED.split(answer)
    found = _NUMBER.search(after) if after != answer else None
    return last_number(answer) if found is None else _plain(found[0])


def same_number(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """lm-eval's `process_results`: whether a number has the value of the target."""
    answer, target = _value(results[0]), _value(doc["target"])
    return {"exact_match": float(answer is not None and answer == target)}


def _plain(number: str) -> str:
    bare = number.replace(",", "").replace("$", "").replace("\u2212", "-")
    return bare.removesuffix(".0")


def _value(text: str) -> Fraction | None:
    if not (found := _NUMBER.search(text)):
        return None
    bare = _plain(found[0])
    sign = -1 if bare.startswith("-") else 1
    try:
        parts = bare.removeprefix("-").split(" ")
        return sign * sum(map(Fraction, parts), Fraction())
    except ZeroDivisionError:
        return None

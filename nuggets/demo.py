"""A demo server: what visitors may do whom nobody knows. `nuggets app --demo` makes one.

They look at everything, ask the built-in models, and start runs of them, which are few, short, and
seen by all. Nothing is uploaded, named by a path or an id, kept under a name, stopped or deleted.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from nuggets.errors import BadInput

SWITCH = "NUGGETS_DEMO"
"""The environment variable that says so, to workers too."""
MINUTES = 5.0
"""A run that computes for longer is stopped."""
MOST_LIVE = 4
"""Runs that compute or wait at the same time."""
MOST_KEPT = 50
"""Runs that have ended; before another starts, the oldest beyond these are deleted."""

P = ParamSpec("P")
R = TypeVar("R")


def on() -> bool:
    """Whether this is a demo server."""
    return os.environ.get(SWITCH) == "1"


def sentence(why: str) -> str:
    """What a visitor reads where a demo does not offer something."""
    return f"On this demo server {why}. Nuggets on your own machine does."


def refused(why: str) -> BadInput:
    """The error that says the same."""
    return BadInput(sentence(why))


def refuses(why: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorates what a demo does not do: it raises `BadInput` there."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            if on():
                raise refused(why)
            return function(*args, **kwargs)

        return guarded

    return decorate

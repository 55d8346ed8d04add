"""One family of errors; every message is a sentence a user can act on."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\b(hf|api_org)_[A-Za-z0-9]{8,}")


def hide_tokens(text: str) -> str:
    """A text without the access tokens of the hub that may stand in it."""
    return _TOKEN.sub(r"\1_…", text)


class NuggetsError(Exception):
    """Something went wrong; the message says what, with the values, and what to do."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(hide_tokens(message))


class BadInput(NuggetsError):
    """The request cannot work: a wrong path, shape, file or value. Nothing was written."""

    exit_code = 2


class Damaged(BadInput):
    """A file is incomplete, altered or not what it claims to be."""


class Unsupported(BadInput):
    """The model or option is not supported; the message names it."""


class NonFinite(NuggetsError):
    """A loss, gradient, weight or score is NaN or infinite."""


class OutOfMemory(NuggetsError):
    """The device or the machine has not enough memory for what was asked."""


class Cancelled(NuggetsError):
    """The user asked the run to stop."""


class RunBusy(NuggetsError):
    """Another process owns the run."""

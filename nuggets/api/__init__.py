"""The façade: everything that pages, the command line and notebooks call.

Importing this module is light: `__init__.pyi` beside it, which editors and type checkers read, is
the list of its names, and each is imported when it is first asked for (PEP 562; lazy-loader reads
stubs likewise, but only of names that live inside the package). None of them imports torch.
Functions that compute with models either run in a worker process (`start`, `resume`) or say that
they import torch and run here.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
_HOMES = {
    name.asname or name.name: (statement.module or "", name.name)
    for statement in _STUB.body
    if isinstance(statement, ast.ImportFrom)
    for name in statement.names
}
"""Name here → module that it lives in, and its name there."""


def __getattr__(name: str) -> Any:
    """Imports a name of the façade when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, there = _HOMES[name]
    found = getattr(__import__(module, fromlist=[there]), there)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(_HOMES)

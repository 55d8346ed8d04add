"""One reading of a GGUF file, where transformers asks for several."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock

_AT_ONCE = Lock()
_REPEATED = ("GGUFReader", "get_tensor_name_map")
"""What transformers takes from `gguf` whenever it needs it: for the config and again for the
weights, and for every tensor. On a small model that is most of the time of loading."""


@contextmanager
def read_once() -> Iterator[None]:
    """Within it a GGUF file's header is read once, and its table of names derived once."""
    import gguf

    with _AT_ONCE:
        own = {name: getattr(gguf, name) for name in _REPEATED}
        try:
            for name, made in own.items():
                setattr(gguf, name, cache(made))
            yield
        finally:
            for name, made in own.items():
                setattr(gguf, name, made)

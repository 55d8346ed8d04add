"""Answers that need not be asked for again after a kill."""

from __future__ import annotations

from typing import Any, Protocol


class Kept(Protocol):
    """Answers that survive a kill. Keys name requests by content; one store per model."""

    def get(self, key: str) -> Any | None:
        """What was kept under this key, or None."""
        ...

    def put(self, key: str, value: Any) -> None:
        """Keeps a JSON value for good."""
        ...


class KeptInMemory:
    """Keeps nothing beyond this process. Implements `Kept`."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def get(self, key: str) -> Any | None:
        """What was kept under this key, or None."""
        return self._values.get(key)

    def put(self, key: str, value: Any) -> None:
        """Keeps a value."""
        self._values[key] = value

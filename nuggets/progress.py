"""How long computations report progress and notice a cancel, without knowing about runs."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from nuggets.errors import Cancelled


@runtime_checkable
class Progress(Protocol):
    """What core, training and evaluation code may say while it works."""

    def check_cancelled(self) -> None:
        """Raises `Cancelled` once somebody asked to stop; call it at least once a second."""
        ...

    def progress(self, done: float, total: float, message: str = "", **data: Any) -> None:
        """Reports that `done` of `total` units of the current stage are finished."""
        ...

    def metric(self, **data: Any) -> None:
        """Reports measured values, such as `step=10, loss=0.3` (JSON values only)."""
        ...

    def log(self, text: str) -> None:
        """Reports one sentence for people."""
        ...


class InMemoryProgress:
    """Progress of a direct call: kept in lists, nothing on disk. Implements `Progress`."""

    def __init__(self) -> None:
        self.fraction: float | None = None
        self.metrics: list[dict[str, Any]] = []
        self.messages: list[str] = []
        self._cancelled = False

    def cancel(self) -> None:
        """Makes the next `check_cancelled` raise."""
        self._cancelled = True

    def check_cancelled(self) -> None:
        """Raises `Cancelled` after `cancel()`."""
        if self._cancelled:
            raise Cancelled("The computation was cancelled on request.")

    def progress(self, done: float, total: float, message: str = "", **data: Any) -> None:
        """Keeps the fraction done and the message, if there is one."""
        self.fraction = done / total if total > 0 else None
        if message:
            self.messages.append(message)

    def metric(self, **data: Any) -> None:
        """Keeps the values in `metrics`."""
        self.metrics.append(data)

    def log(self, text: str) -> None:
        """Keeps the sentence in `messages`."""
        self.messages.append(text)


def with_metrics(progress: Progress | None, wanted: bool) -> Progress | None:
    """The same receiver; without metrics where they would mix with those of another training."""
    return progress if wanted or progress is None else _WithoutMetrics(progress)


class _WithoutMetrics:
    def __init__(self, progress: Progress) -> None:
        self.check_cancelled, self.progress = progress.check_cancelled, progress.progress
        self.log = progress.log

    def metric(self, **data: Any) -> None:
        """Keeps them to itself."""

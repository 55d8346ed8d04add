"""Models that several runs of one process load once. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from nuggets.compute.device import free_memory
from nuggets.models.pair import Model
from nuggets.models.references import ModelRef
from nuggets.planning.cache import digest_model
from nuggets.progress import Progress
from nuggets.stages.measuring import ROOMY, Loaded
from nuggets.train.untouched import Untouched

Held = dict[tuple[ModelRef, str, str], tuple[str, Loaded]]
_held: ContextVar[Held | None] = ContextVar("held", default=None)


@contextmanager
def models_shared() -> Iterator[Held]:
    """Runs in the block that name the same models on the same device load them once.

    For runs that leave models as they find them, as transfers without benchmarks do.

    Yields:
        What is held, to be cleared where a run ended badly.
    """
    held: Held = {}
    token = _held.set(held)
    try:
        yield held
    finally:
        _held.reset(token)


def load_shared(
    source: Model, device: str, dtype: str = "float32", progress: Progress | None = None
) -> Loaded:
    """A model: the one that an earlier run loaded from the same bytes, or a new one.

    Nothing is held where memory is scarce: what one run alone would not load might stay from
    another.
    """
    held = _held.get()
    if held is None:
        return Loaded(source, device, dtype, progress)
    digest, key = digest_model(source), (source.ref, device, dtype)
    known, found = held.pop(key, ("", None))
    if found is None or known != digest:
        found = Loaded(source, device, dtype, progress)
    if ROOMY * 4 * found.parameters < free_memory(device):
        held[key] = digest, found
    return found


def untouched_of(student: Loaded) -> Untouched:
    """The student that arms start from: copied if it is held, else lent where memory is scarce."""
    held = _held.get() or {}
    if any(student is each for _, each in held.values()):
        return Untouched(student.model)
    return Untouched(load=student.load)

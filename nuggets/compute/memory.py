"""Memory: giving freed gradients back to the system at once, and saying when there is none."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from nuggets.errors import NuggetsError, OutOfMemory

_M_MMAP_THRESHOLD = -3
_LARGE = 2**20
# torch has a class for CUDA only; its other allocators raise RuntimeError with these words.
_ALLOCATORS = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")


def return_freed_memory() -> None:
    """Makes glibc map every block of a megabyte or more by itself, so that freeing it frees it.

    By default glibc raises that threshold to 32 MB as it goes; gradients of single matrices then
    stay in a fragmented heap, and the peak grows from sample to sample (three times the row and
    column sums' own peak on a Llama of 138 M parameters). Elsewhere this does nothing.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)


def trim_heap() -> None:
    """Gives pages of freed small blocks back as well; elsewhere than with glibc nothing."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out: Python's, CUDA's or the CPU allocator's.

    An allocator may have failed below an error of transformers or PEFT, so causes are looked at.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError | OutOfMemory):
            return True
        if type(seen).__name__ == "OutOfMemoryError":
            return True
        if isinstance(seen, RuntimeError) and any(w in str(seen).lower() for w in _ALLOCATORS):
            return True
        seen = seen.__cause__
    return False


@contextmanager
def memory_reported(what: str, advice: str) -> Iterator[None]:
    """Turns an allocator's error into one sentence.

    Args:
        what: what was being done, such as `Loading the model x`.
        advice: what to do, such as `use bfloat16`.

    Raises:
        OutOfMemory: instead of the allocator's error.
    """
    try:
        yield
    except NuggetsError:
        raise
    except BaseException as problem:
        if not is_out_of_memory(problem):
            raise
        detail = " ".join(str(problem).split())[:160]
        words = f" ({detail.rstrip('.')})" if detail else ""
        raise OutOfMemory(f"{what} ran out of memory{words}; {advice}.") from problem

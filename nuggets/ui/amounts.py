"""Numbers as people read them: bytes, counts, operations, seconds."""

from __future__ import annotations

from nuggets.ui import live

_UNITS = ("", "k", "M", "G", "T", "P", "E")
"""Powers of 1,000."""


def size(n_bytes: float) -> str:
    """Bytes by powers of 1,000, as disks and preflights count them: `5.1 MB`, `26 GB`."""
    return _scaled(n_bytes, "B")


def operations(flops: float) -> str:
    """Floating-point operations: `5.03 TFLOP`."""
    return _scaled(flops, "FLOP", digits=3)


def count(number: float) -> str:
    """A large number of things: `1.28 M`, `6.74 G`."""
    return _scaled(number, "", digits=3).strip()


def seconds(value: float | None) -> str:
    """A time, with what is too short to count said so."""
    return "under 1 s" if value is not None and value < 1 else live.duration(value)


def _scaled(value: float, unit: str, digits: int = 2) -> str:
    place = 0
    while abs(value) >= 999.5 and place < len(_UNITS) - 1:
        value, place = value / 1000, place + 1
    if place == 0:
        return f"{value:.0f} {unit}"
    shown = f"{value:.{digits}g}" if abs(value) < 100 else f"{value:.0f}"
    return f"{shown} {_UNITS[place]}{unit}"

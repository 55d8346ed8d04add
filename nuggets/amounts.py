"""Numbers and names as people read them: amounts by powers of 1,000, times by the clock.

The app, the command line and all messages write them by these functions and no others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_UNITS = ("", "k", "M", "G", "T", "P", "E")
"""Powers of 1,000."""


def size(n_bytes: float, digits: int = 2) -> str:
    """Bytes of memory or disk, GB = 10⁹: `512 B`, `5.1 MB`, `26 GB`, `131 GB`.

    Three digits where two sizes that may be close are set against each other.
    """
    return _scaled(n_bytes, "B", digits)


def operations(flops: float) -> str:
    """Floating-point operations: `5.03 TFLOP`."""
    return _scaled(flops, "FLOP", digits=3)


def count(number: float) -> str:
    """A large number of things: `1.28 M`, `6.74 G`."""
    return _scaled(number, "", digits=3).strip()


def duration(seconds: float | None) -> str:
    """A time: `0.4 s`, `42 s`, `3 min 05 s`, `2 h 10 min`; `–` where it is not known."""
    if seconds is None:
        return "–"
    if seconds < 0.05:
        return "under 0.1 s" if seconds > 0 else "0 s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if (whole := round(seconds)) < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def duration_between(low: float, high: float) -> str:
    """A time known to lie in a range, in few characters: `29 to 36 s`, `50 s to 2 min`.

    From a minute on the range is widened to whole minutes, from an hour on to tenths of an hour.
    """
    first, last = duration(low), duration(high)
    if first == last:
        return f"about {first}"
    if high < 59.5:
        return f"{first.removesuffix(' s')} to {last}"
    unit, seconds, digits = ("min", 60, 0) if high <= 3600 else ("h", 3600, 1)
    step = seconds / 10**digits
    last = f"{math.ceil(high / step) * step / seconds:.{digits}f} {unit}"
    if low < 59.5:
        return f"{first} to {last}"
    if low < seconds:
        return f"{max(1, low // 60):.0f} min to {last}"
    return f"{math.floor(low / step) * step / seconds:.{digits}f} to {last}"


def setting(value: object) -> str:
    """The value of a recipe's field, where samplers draw sixteen digits: `0.00022`, `16`, `sum`."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _scaled(value: float, unit: str, digits: int) -> str:
    """A number with so many significant digits, or as many as stand before its point."""
    place = 0
    while abs(value) >= 999.5 and place < len(_UNITS) - 1:
        value, place = value / 1000, place + 1
    decimals = digits - 1 if place else 0
    while decimals and len(f"{abs(value):.{decimals}f}") > digits + 1:
        decimals -= 1  # rounding may have made a digit more: 9.96 is 10, not 10.0
    return f"{value:z.{decimals}f} {_UNITS[place]}{unit}"


def plain_name(name: str) -> str:
    """The name of an arm, a selector or a metric as people read it."""
    return name.replace("_", " ")


def extent(chosen: Sequence[int] | None) -> str:
    """Indices in few words: a contiguous range, or how many between which; None is no whole row."""
    if chosen is None:
        return "single entries"
    first, last = chosen[0], chosen[-1]
    whole = last - first + 1 == len(chosen)
    return f"{first}–{last}" if whole else f"{len(chosen)} of {first}–{last}"

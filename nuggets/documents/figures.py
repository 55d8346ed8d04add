"""Static figures as SVG text: marks, axes, and the one interval plot. No script, no network."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

from nuggets.documents.colours import BLUE, LIGHT, Look

FONT = "'Source Sans 3', 'Segoe UI', Helvetica, Arial, sans-serif"
CHARACTER = 8.0
"""Pixels of a character at most, on average over a word; there is no font to measure."""
ACROSS = 3
"""Panels beside each other; more would be too small to read on a page."""
ROW, AXIS, GAP = 42, 62, 26
"""Pixels of a row, of an axis with its title, and between panels."""
BELOW = 13
"""Pixels from an interval down to its single values."""
SHAPES = ("M-6 0a6 6 0 1 0 12 0a6 6 0 1 0 -12 0", "M-6 -6h12v12h-12z", "M-8 0l8 -8l8 8l-8 8z",
          "M0 -8l8 14h-16z")  # fmt: skip
CIRCLE, _, DIAMOND, _ = SHAPES


class Row(NamedTuple):
    """A mean with its interval; single values as dots below it; a text at the plot's right.

    A value without an interval is a diamond below its number; a row without a value is a name.
    """

    name: str
    mean: float | None
    interval: tuple[float, float] | None = None
    dots: Sequence[float] = ()
    colour: str = BLUE
    text: str = ""


class Rows(NamedTuple):
    """Rows on one axis; `zero` marks 0, which the axis then always shows."""

    title: str
    axis: str
    rows: Sequence[Row]
    zero: bool = False


def mark(tag: str, words: str = "", **attributes: object) -> str:
    """One element: numbers to a tenth of a pixel, `_` in names as `-`, all text escaped."""
    written = "".join(
        f' {name.replace("_", "-")}="{_value(value)}"' for name, value in attributes.items()
    )
    return f"<{tag}{written}>{html.escape(words)}</{tag}>" if words else f"<{tag}{written}/>"


def point(shape: str, x: float, y: float, colour: str) -> str:
    """One of `SHAPES` at a place."""
    return mark("path", d=shape, transform=f"translate({x:.1f} {y:.1f})", fill=colour)


def _value(value: object) -> str:
    text = f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
    return html.escape(text, quote=True)


def picture(width: float, height: float, parts: Iterable[str], look: Look) -> str:
    """The whole SVG around its marks."""
    w, h = math.ceil(width), math.ceil(height)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" '
        f'role="img" font-family="{FONT}" font-size="15" fill="{look.ink}">\n'
        + "\n".join([mark("rect", width=w, height=h, fill=look.paper), *parts])
        + "\n</svg>\n"
    )


def ticks(low: float, high: float, most: int = 5) -> dict[float, str]:
    """Round numbers between two bounds, in about `most` steps or fewer, each as it is written."""
    least = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(least))
    step = next(each * unit for each in (1, 2, 2.5, 5, 10) if each * unit >= 0.85 * least)
    places = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    digits = len(f"{step:.12f}".rstrip("0").partition(".")[2])
    return {place * step: minus(f"{place * step:.{digits}f}") for place in places}


def minus(text: str) -> str:
    """Numbers with a minus sign in place of the hyphen."""
    return text.replace("-", "−")


def interval_text(mean: float, low: float, high: float, signed: bool = False) -> str:
    """A mean with its interval."""
    sign = "+z" if signed else "z"  # no −0.000
    return minus(f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]")


def scale(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    """Values to pixels, with a little room at both ends."""
    low, high = bounds(values)
    return lambda value: start + (value - low) / (high - low) * (end - start)


def bounds(values: Sequence[float]) -> tuple[float, float]:
    """The least and the largest value, set apart by 4 % of their distance."""
    low, high = min(values), max(values)
    room = 0.04 * (high - low) or 0.5
    return low - room, high + room


def forest(panels: Sequence[Rows], look: Look = LIGHT) -> str:
    """Panels of intervals; names stand once per line where all panels have the same rows.

    Panels that measure the same have the same scale, and a line is as high as its longest panel.
    """
    names = [[row.name for row in panel.rows] for panel in panels]
    alike = all(each == names[0] for each in names)
    lines = math.ceil(len(panels) / (ACROSS if alike else ACROSS - 1))
    columns = math.ceil(len(panels) / lines)
    left = CHARACTER * max(len(name) for each in names for name in each) + 20
    right = CHARACTER * max(len(row.text) for panel in panels for row in panel.rows)
    plot = {1: 620.0, 2: 400.0}.get(columns, 270.0)
    top = 36 if any(panel.title for panel in panels) else 8
    across = plot + right + GAP + (0 if alike else left)
    own = (names[start : start + columns] for start in range(0, len(names), columns))
    tall = [max(map(len, each)) for each in own]
    downs = [0.0, *accumulate(top + ROW * rows + AXIS for rows in tall)]
    measured: dict[str, list[float]] = {}
    for panel in panels:
        measured.setdefault(panel.axis, []).extend(_values(panel))
    parts: list[str] = []
    for place, panel in enumerate(panels):
        line, column = divmod(place, columns)
        x, y = left + column * across, downs[line] + top
        values = measured[panel.axis]
        parts += _axis(panel, values, x, y, plot, look)
        for row_place, row in enumerate(panel.rows):
            middle = y + ROW * (row_place + 0.45)
            if not alike or column == 0:
                parts.append(mark("text", row.name, x=x - 12, y=middle + 5, text_anchor="end"))
            end = x + plot + right + GAP / 2
            if row.text:
                parts.append(mark("text", row.text, x=end, y=middle + 5, text_anchor="end"))
            parts += _row(row, scale(values, x, x + plot), middle, look)
    width = columns * across + (left if alike else 0)
    return picture(width, downs[-1], parts, look)


def _values(panel: Rows) -> list[float]:
    found = [0.0] if panel.zero else []
    for row in panel.rows:
        found += [*row.dots, *(row.interval or ()), *([] if row.mean is None else [row.mean])]
    return found or [0.0]


def _axis(
    panel: Rows, values: Sequence[float], left: float, top: float, plot: float, look: Look
) -> list[str]:
    bottom, x = top + ROW * len(panel.rows), scale(values, left, left + plot)
    middle = left + plot / 2
    parts = [mark("text", panel.title, x=middle, y=top - 16, text_anchor="middle", font_size=17)]
    for value, words in ticks(*bounds(values)).items():
        at = x(value)
        stroke = look.muted if panel.zero and value == 0 else look.grid
        parts.append(mark("line", x1=at, x2=at, y1=top, y2=bottom, stroke=stroke))
        parts.append(mark("text", words, x=at, y=bottom + 20, text_anchor="middle"))
    parts.append(mark("line", x1=left, x2=left + plot, y1=bottom, y2=bottom, stroke=look.muted))
    parts.append(mark("text", panel.axis, x=middle, y=bottom + 42, text_anchor="middle",
                      fill=look.muted))  # fmt: skip
    return parts


def _row(row: Row, x: Callable[[float], float], y: float, look: Look) -> list[str]:
    if row.mean is None:
        return []
    at = x(row.mean)
    if row.interval is None:
        number = mark("text", minus(f"{row.mean:.2f}"), x=at, y=y - 12, text_anchor="middle")
        return [point(DIAMOND, at, y, look.ink), number]
    low, high = map(x, row.interval)
    return [
        *(mark("circle", cx=x(dot), cy=y + BELOW, r=3, fill="none", stroke=look.muted)
          for dot in row.dots),
        mark("path", d=f"M{low:.1f} {y - 6:.1f}v12m0 -6H{high:.1f}m0 -6v12", fill="none",
             stroke=row.colour, stroke_width=3),
        point(CIRCLE, at, y, row.colour),
    ]  # fmt: skip

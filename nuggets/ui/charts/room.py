"""Room around a plot for its labels, known before it is drawn.

Plotly measures labels once they stand and, if the margins do not hold them, draws the whole figure
again. Margins that are large enough from the start save that; where a guess here is too small,
Plotly still makes room by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

CHARACTER = 7.3
"""Mean width of a character at 15 pixels."""
NUMBER = 4
"""Characters of a number on an axis, such as `0.25`, `100%` or `1500`."""
TITLE = 30
"""An axis' title, with its distance."""
LEGEND = 49
SCALE = 74
"""A colour scale below the plot, with its numbers and title."""


def margins(layout: Mapping[str, Any], traces: Iterable[Any]) -> dict[str, int]:
    """Pixels to the left, right, top and bottom that labels, colour scale and legend need."""
    traces = list(traces)
    room = {"l": 8, "r": 8, "t": 32, "b": 8}
    for name, axis in layout.items():
        if name.startswith("yaxis") and axis.get("showticklabels", True) and not _inner(axis):
            longest = max(map(len, _labels(axis, name, traces)), default=NUMBER)
            room["l"] = max(room["l"], round(CHARACTER * longest) + 18 + _title(axis))
        if name.startswith("xaxis") and axis.get("side") != "top":
            ticks = 30 if axis.get("showticklabels", True) else 8
            room["b"] = max(room["b"], ticks + _title(axis))
    scale = layout.get("coloraxis")
    if scale is not None and scale.get("showscale", True):
        bar = scale.get("colorbar", {})
        if bar.get("orientation") == "h":
            room["b"] += SCALE
        else:
            room["r"] = _colour_bar(bar)
    if layout.get("showlegend", True) and any(_in_legend(trace, traces) for trace in traces):
        room["t"] = LEGEND
    return room


def _inner(axis: Mapping[str, Any]) -> bool:
    """Whether an axis belongs to a plot that has another one to its left."""
    return bool(axis.get("matches")) or axis.get("side") == "right"


def _labels(axis: Mapping[str, Any], name: str, traces: list[Any]) -> list[str]:
    """Texts along a y axis; none where they are numbers, which are not known yet."""
    if "ticktext" in axis:
        return [str(text) for text in axis["ticktext"]]
    ours = f"y{name.removeprefix('yaxis')}"
    values = [trace.y for trace in traces if (trace.yaxis or "y") == ours]
    return [text for each in values if each is not None for text in each if isinstance(text, str)]


def _title(axis: Mapping[str, Any]) -> int:
    return TITLE if axis.get("title", {}).get("text") else 0


def _colour_bar(bar: Mapping[str, Any]) -> int:
    longest = max((len(str(text)) for text in bar.get("ticktext", ())), default=NUMBER)
    return 54 + round(CHARACTER * longest) + _title(bar)


def _in_legend(trace: Any, traces: list[Any]) -> bool:
    if "showlegend" not in trace:  # parallel coordinates
        return False
    if trace.showlegend is not None or trace.type == "heatmap":
        return bool(trace.showlegend)
    return len(traces) > 1

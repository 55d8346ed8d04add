"""Looks, colours and small parts shared by all figures: data in, Plotly figure out, nothing else.

Figures carry their own template and colours, so that an exported file looks like the screen, in
light and in dark. Colours: Viridis for magnitudes, RdBu centred on 0 for signed values, Okabe-Ito
for categories.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from numpy import ndarray

from nuggets.amounts import plain_name
from nuggets.documents.colours import CATEGORIES, ROLE_COLOURS, Look
from nuggets.documents.page import FONT
from nuggets.statistics.verdict import ArmRole
from nuggets.ui.charts import room

MAGNITUDE = "Viridis"
SIGNED = "RdBu_r"
"""Red is more, blue is less, white is none."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "x", "star")


def finish(fig: go.Figure, look: Look, height: int, **layout: Any) -> go.Figure:
    """Gives a figure its look, so that it is drawn once.

    Nothing is left to defaults that Streamlit may have replaced. Streamlit hands every figure to
    Plotly twice; Plotly draws it twice if it has a template or a flat typed array, both of which
    it cannot compare, or if `datarevision` does not say that the data are the same.
    """
    fig.update_layout(height=height, datarevision=1, **layout)
    asked = fig.layout.to_plotly_json()
    asked.pop("template", None)
    for trace in fig.data:
        _flatten(trace)
        if "xaxis" in trace and "yaxis" in trace:
            for name in (trace.xaxis or "x", trace.yaxis or "y"):
                asked.setdefault(f"{name[0]}axis{name[1:]}", {})
    whole = {"margin": room.margins(asked, fig.data)} | _whole(look)
    axes = {name: _axis(look) for name in asked if re.fullmatch(r"[xy]axis\d*", name)}
    fig.layout = _under(whole | axes, asked)
    fig.layout["template"] = None  # a new layout has Plotly's own
    return fig


def _flatten(trace: Any) -> None:
    """Makes arrays of one dimension lists."""
    for name in {"x", "y", "text", "customdata"} & set(trace):
        values = trace[name]
        if isinstance(values, ndarray) and values.ndim == 1:
            trace[name] = None  # else Plotly keeps the array, which equals the list
            trace[name] = values.tolist()


def _under(defaults: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """What is asked for, with defaults where nothing is."""
    both = {
        name: _under(default, asked[name])
        for name, default in defaults.items()
        if isinstance(default, dict) and isinstance(asked.get(name), dict)
    }
    return defaults | asked | both


def _axis(look: Look) -> dict[str, Any]:
    return {
        "automargin": True,
        "gridcolor": look.grid,
        "showline": False,
        "zerolinecolor": look.muted,
        "zeroline": False,
        "ticks": "",
        "ticklabelstandoff": 6,
        "title": {"standoff": 8, "font": {"size": 14, "color": look.muted}},
    }


def _whole(look: Look) -> dict[str, Any]:
    return {
        "paper_bgcolor": look.paper,
        "plot_bgcolor": look.paper,
        "font": {"family": FONT, "size": 15, "color": look.ink},
        "colorway": list(CATEGORIES),
        "hoverlabel": {"font": {"family": FONT, "size": 14}, "align": "left"},
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.01, "x": 0, "xanchor": "left"},
        "dragmode": False,
        "bargap": 0.3,
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": look.muted, "activecolor": look.ink},
    }


def arm_styles(roles: Mapping[str, ArmRole]) -> dict[str, tuple[str, str, str]]:
    """Arm → colour, dash and symbol, on every page alike: the registry of how arms look.

    Colours tell roles; dashes and symbols tell arms of one role, in the recipe's order.
    """
    seen: dict[str, int] = {}
    styles = {}
    for name, role in roles.items():
        place = seen.get(role, 0)
        seen[role] = place + 1
        dash, symbol = DASHES[place % len(DASHES)], SYMBOLS[place % len(SYMBOLS)]
        styles[name] = ROLE_COLOURS[role], dash, symbol
    return styles


def fade(colour: str, alpha: float) -> str:
    """A colour such as #0072B2 made transparent."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def errors(frame: pd.DataFrame, mean: str, look: Look, width: int = 5) -> dict[str, Any]:
    """Plotly's error bars from a frame's `low` and `high`; unknown ones are not drawn."""
    return {
        "type": "data",
        "symmetric": False,
        "array": (frame["high"] - frame[mean]).fillna(0).tolist(),
        "arrayminus": (frame[mean] - frame["low"]).fillna(0).tolist(),
        "color": look.ink,
        "thickness": 1.8,
        "width": width,
    }


def add_line(
    fig: go.Figure, frame: pd.DataFrame, mean: str, name: str, colour: str, **drawn: Any
) -> None:
    """Adds a line of a column over `step`, with a band from `low` to `high` behind it."""
    if np.any(frame["low"] < frame["high"]):
        fig.add_scatter(
            x=[*frame["step"], *frame["step"][::-1]],
            y=[*frame["high"], *frame["low"][::-1]],
            mode="lines",
            fill="toself",
            fillcolor=fade(colour, 0.15),
            line={"width": 0},
            hoverinfo="skip",
            legendgroup=name,
            showlegend=False,
        )
    line = {"color": colour, "width": 2.5, "dash": drawn.pop("dash", "solid")}
    fig.add_scatter(x=frame["step"], y=frame[mean], name=name, legendgroup=name, line=line, **drawn)


def pivot(
    frame: pd.DataFrame, down: str, across: str, *values: str, order: Sequence[str] | None = None
) -> list[pd.DataFrame]:
    """Each of some columns as a matrix, NaN where there is no row for a cell."""
    places = {
        "index": frame[down].unique(),
        "columns": frame[across].unique() if order is None else order,
    }
    return [frame.pivot(index=down, columns=across, values=v).reindex(**places) for v in values]


def with_bounds(frame: pd.DataFrame, mean: str) -> list[str]:
    """A mean above its interval, row by row, for cells."""
    rows = zip(frame[mean], frame["low"], frame["high"], strict=True)
    return [f"{value:.2f}<br>[{low:.2f}, {high:.2f}]" for value, low, high in rows]


def colour_axis(
    values: Sequence[ndarray] | ndarray,
    signed: bool,
    title: str,
    *,
    log: bool = False,
    percent: bool = False,
    least: float = 0.0,
    below: bool = False,
) -> dict[str, Any]:
    """One colour scale for all the values given: from 0, by decades, or centred on 0.

    Args:
        values: everything that is drawn with the scale; with `log` their logarithms.
        signed: centre the scale on 0.
        title: what the values are.
        log: label the logarithms with the values they stand for.
        percent: label shares in percent.
        least: smallest half-width of a signed scale, lest noise look like a finding.
        below: lay the scale below the plot, which then has the whole width.
    """
    finite = np.concatenate([np.ravel(part) for part in values]) if len(values) else np.zeros(0)
    finite = finite[np.isfinite(finite)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if signed:
        high = max(abs(low), abs(high), least) or 1.0
        low = -high
    elif not log:
        low, high = min(low, 0.0), high if high > low else low + 1.0
    elif high == low:
        low, high = low - 1, high + 1
    bar: dict[str, Any] = {"title": {"text": title, "side": "right"}, "thickness": 14, "len": 1.0}
    if below:
        bar |= {
            "orientation": "h",
            "thickness": 10,
            "yref": "container",
            "yanchor": "bottom",
            "y": 0,
        }
        bar["title"] |= {"side": "bottom", "font": {"size": 14}}
    if log:
        decades = np.arange(np.ceil(low), np.floor(high) + 1)
        whole = len(decades) > 1  # a scale of less than two has no other round numbers
        ticks = (decades[:: -(-len(decades) // 5)] if whole else np.linspace(low, high, 3)).tolist()
        labels = [f"{100 * 10**t:.2g} %" if percent else f"{10**t:.2g}" for t in ticks]
        labels = [label.replace("e-0", "e−") for label in labels]
        bar |= {"tickvals": ticks, "ticktext": labels}
    elif percent:
        bar["tickformat"] = "+.2~%" if signed else ".2~%"
    scale = SIGNED if signed else MAGNITUDE
    return {"cmin": low, "cmax": high, "colorscale": scale, "colorbar": bar}


def logarithm(values: Float[ndarray, "*n"]) -> Float[ndarray, "*n"]:
    """log10, with NaN (drawn as nothing) where there is no logarithm."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(values > 0, np.log10(values), np.nan)


def short_module(module: str) -> str:
    """`L3.up` for `model.layers.3.mlp.up_proj`; the last part of what is in no layer."""
    parts = module.split(".")
    layer = next((f"L{part}." for part in parts if part.isdigit()), "")
    return shorten(layer + parts[-1].removesuffix("_proj"))


def shorten(text: str, most: int = 28) -> str:
    """A long name with its middle left out, safe as Plotly text, which reads some HTML."""
    if len(text) > most:
        half = (most - 1) // 2
        text = f"{text[:half]}…{text[-half:]}"
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def labels(names: Iterable[str], most: int = 28) -> dict[str, str]:
    """Short labels by name; numbered where two names look the same once shortened."""
    found: dict[str, str] = {}
    for name in names:
        label = shorten(plain_name(name), most)
        twins = sum(other == label or other.startswith(f"{label} (") for other in found.values())
        found[name] = f"{label} ({twins + 1})" if twins else label
    return found

"""The one frame around every figure: chart, caption, and all ways to take it away."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from nuggets.documents.colours import DARK, LIGHT, Look
from nuggets.documents.page import html_page
from nuggets.ui.frame import export

MODE_BAR_LESS = [
    "zoom2d",
    "pan2d",
    "lasso2d",
    "zoomIn2d",
    "zoomOut2d",
    "autoScale2d",
    "resetScale2d",
]
"""Buttons that would move the axes behind the page's back; it has controls of its own."""
OnSelect = Callable[..., None] | Literal["rerun"]


def look() -> Look:
    """The colours of the viewer's theme."""
    return DARK if st.context.theme.type == "dark" else LIGHT


def figure(
    fig: go.Figure,
    data: pd.DataFrame,
    key: str,
    caption: str,
    command: str | None,
    python: str | None,
    alt: str,
    on_select: OnSelect | None = None,
    selection_mode: tuple[str, ...] = ("points", "box"),
) -> Any:
    """Draws a figure with its caption and its exports.

    Args:
        fig: the figure, with its own template and colours (see `charts.finish`).
        data: exactly what is plotted, for the CSV.
        key: unique on the page; also the name of exported files.
        caption: one line below the figure: what, which run, how many samples.
        command: the command line that gives the same numbers; None if there is none.
        python: the same in Python.
        alt: what the figure shows, for those who do not see it.
        on_select: `rerun` or a callback, where clicks on the figure matter.
        selection_mode: what can be selected then.

    Returns:
        The selection if `on_select` is given, else nothing of use.
    """
    if on_select:
        _select_at_once(fig)
    with st.container(gap="xxsmall", key=_frame(key)):
        drawn = st.plotly_chart(
            fig,
            width="stretch",
            theme=None,  # the figure brings its look, so that exports are what is seen
            key=key,
            alt=alt,
            config=image_config(key),
            on_select=on_select or "ignore",  # type: ignore[arg-type]
            selection_mode=selection_mode,  # type: ignore[arg-type]
        )
        _foot(fig, data, key, caption, command, python)
    return drawn


def _select_at_once(fig: go.Figure) -> None:
    """Sets what Streamlit would set after the first drawing, and have it drawn again."""
    box = fig.layout["dragmode"] == "select"
    fig.update_layout(
        hovermode="closest",
        dragmode="select" if box else "pan",
        clickmode="event" if box else "event+select",
    )


def table(
    data: pd.DataFrame,
    key: str,
    caption: str,
    command: str | None = None,
    python: str | None = None,
    shown: pd.DataFrame | None = None,
    **options: Any,
) -> Any:
    """Draws a table with the same foot as a figure; `options` go to `st.dataframe`.

    `shown` is the same table written for people; the CSV keeps the numbers of `data`.
    """
    with st.container(gap="xxsmall"):
        drawn = st.dataframe(
            data if shown is None else shown, key=key, hide_index=True, width="stretch", **options
        )
        _foot(None, data, key, caption, command, python)
    return drawn


def image_config(key: str) -> dict[str, Any]:
    """Plotly's mode bar; its camera saves an SVG, as do the buttons of the foot."""
    image = {"format": "svg", "filename": _slug(key)}
    return {
        "displaylogo": False,
        "toImageButtonOptions": image,
        "scrollZoom": False,
        "modeBarButtonsToRemove": MODE_BAR_LESS,
    }


def self_contained_html(
    fig: go.Figure, caption: str, command: str | None = None, python: str | None = None
) -> str:
    """One HTML file that shows the figure without a network, with its caption and origin."""
    blocks = "".join(f"<pre>{html.escape(text)}</pre>" for text in (command, python) if text)
    drawn = fig.to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False})
    layout: Any = fig.layout
    look = DARK if layout.paper_bgcolor == DARK.paper else LIGHT
    return html_page(caption, f"{drawn}<p>{html.escape(caption)}</p>{blocks}", look)


def _foot(
    fig: go.Figure | None,
    data: pd.DataFrame,
    key: str,
    caption: str,
    command: str | None,
    python: str | None,
) -> None:
    name = _slug(key)
    files: list[tuple[str, str, Callable[[], str]]] = [("Data (CSV)", "csv", partial(_csv, data))]
    if fig is not None:
        page = partial(self_contained_html, fig, caption, command, python)
        files.append(("Page (HTML)", "html", page))
    row = st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="right")
    with row:
        with st.container(width="stretch"):
            st.text(caption)  # never Markdown: captions name runs, models and tasks
        with st.popover("Export", help="Data, image, page, command, Python", key=f"{key}-share"):
            export.buttons(name, f"{key}-buttons", None if fig is None else _frame(key))
            with st.container(horizontal=True):
                for label, kind, make in files:
                    st.download_button(label, make, f"{name}.{kind}", f"text/{kind}",
                                       key=f"{key}-{kind}", on_click="ignore")  # fmt: skip
            _code("As command", command, "bash")
            _code("As Python", python, "python")


def _frame(key: str) -> str:
    """Key of the container around a figure, by which its buttons find it."""
    return f"figure-{_slug(key)}"


def _csv(data: pd.DataFrame) -> str:
    """The data as CSV; text that a spreadsheet would run as a formula is disarmed."""
    return data.map(_harmless).to_csv(index=False)


def _harmless(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value


def _code(title: str, text: str | None, language: str) -> None:
    if text:
        st.caption(title)
        st.code(text, language=language, wrap_lines=True)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower() or "figure"

"""The one frame around every figure: chart, caption, and all ways to take it away."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from nuggets import api
from nuggets.documents.colours import DARK, LIGHT, Look
from nuggets.documents.page import html_page
from nuggets.ui.frame import export, projector

MODE_BAR_LESS = [
    f"{each}2d" for each in ("zoom", "pan", "lasso", "zoomIn", "zoomOut", "autoScale", "resetScale")
]
"""Buttons that would move the axes behind the page's back; it has controls of its own."""
OnSelect = Callable[..., None] | Literal["rerun"]


def look() -> Look:
    """The colours of the viewer's theme."""
    return DARK if st.context.theme.type == "dark" else LIGHT


NEEDS = """plan = api.preflight(
    job.teacher, job.student, job.extraction.roles, device=job.device, recipe=job
)
print(plan)"""


class Origin(NamedTuple):
    """What gives the same numbers again: a command line and Python; None where there is none."""

    command: str | None = None
    python: str | None = None

    @classmethod
    def of(cls, job: Any, then: str = "", verb: str = "run") -> Origin:
        """The origin of what a job gives; `then` is Python that ends in what is shown."""
        return cls(api.as_command(job, verb) or None, api.as_python(job, then))

    @classmethod
    def of_plan(cls, recipe: Any, then: str = "print(plan)") -> Origin:
        """The origin of what a recipe would extract; `then` goes on with `plan`."""
        return cls.of(recipe, f"plan = api.measured_plan(job)\n{then}", "plan")

    @classmethod
    def of_needs(cls, recipe: Any, command: str | None = None) -> Origin:
        """The origin of what a recipe needs: dimensions, memory, disk and time."""
        return cls(command, api.as_python(recipe, NEEDS))


class Picture(NamedTuple):
    """A figure with all that stands around it.

    Attributes:
        figure: with its own template and colours (see `charts.finish`).
        data: exactly what is plotted, for the CSV.
        key: unique on the page; also the name of exported files.
        caption: one line below the figure: what, which run, how many samples.
        origin: what gives the same numbers again.
        alt: what the figure shows, for those who do not see it.
    """

    figure: go.Figure
    data: pd.DataFrame
    key: str
    caption: str
    origin: Origin
    alt: str

    def draw(
        self,
        on_select: OnSelect | None = None,
        selection_mode: tuple[str, ...] = ("points", "box"),
    ) -> None:
        """Draws the figure with its caption and its exports."""
        figure = projector.enlarged(self.figure)
        if on_select:
            _select_at_once(figure)
        with st.container(gap="xxsmall", key=_frame(self.key)):
            st.plotly_chart(
                figure,
                width="stretch",
                theme=None,  # the figure brings its look, so that exports are what is seen
                key=self.key,
                alt=self.alt,
                config={
                    "displaylogo": False,
                    "toImageButtonOptions": {"format": "svg", "filename": _slug(self.key)},
                    "scrollZoom": False,
                    "modeBarButtonsToRemove": MODE_BAR_LESS,
                },
                on_select=on_select or "ignore",  # type: ignore[arg-type]
                selection_mode=selection_mode,  # type: ignore[arg-type]
            )
            _foot(self.data, self.key, self.caption, self.origin, self)


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
    origin: Origin,
    shown: pd.DataFrame | None = None,
    **options: Any,
) -> None:
    """Draws a table with the same foot as a figure; `options` go to `st.dataframe`.

    `shown` is the same table written for people; the CSV keeps the numbers of `data`.
    """
    with st.container(gap="xxsmall"):
        st.dataframe(  # what is not there is a dash, never "None"
            data if shown is None else shown,
            key=key,
            hide_index=True,
            width="stretch",
            placeholder="–",
            **options,
        )
        _foot(data, key, caption, origin)


def self_contained_html(picture: Picture) -> str:
    """One HTML file that shows the figure without a network, with its caption and origin."""
    fig, caption = picture.figure, html.escape(picture.caption)
    blocks = "".join(f"<pre>{html.escape(text)}</pre>" for text in picture.origin if text)
    drawn = fig.to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False})
    layout: Any = fig.layout
    look = DARK if layout.paper_bgcolor == DARK.paper else LIGHT
    return html_page(picture.caption, f"{drawn}<p>{caption}</p>{blocks}", look)


def _foot(
    data: pd.DataFrame, key: str, caption: str, origin: Origin, picture: Picture | None = None
) -> None:
    name = _slug(key)
    files: list[tuple[str, str, Callable[[], str]]] = [("Data (CSV)", "csv", partial(_csv, data))]
    if picture is not None:
        files.append(("Page (HTML)", "html", partial(self_contained_html, picture)))
    row = st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="right")
    with row:
        with st.container(width="stretch"):
            st.text(caption)  # never Markdown: captions name runs, models and tasks
        with st.popover("Export", help="Data, image, page, command, Python", key=f"{key}-share"):
            export.buttons(name, f"{key}-buttons", None if picture is None else _frame(key))
            with st.container(horizontal=True):
                for label, kind, make in files:
                    st.download_button(label, make, f"{name}.{kind}", f"text/{kind}",
                                       key=f"{key}-{kind}", on_click="ignore")  # fmt: skip
            titles = (("As command", "bash"), ("As Python", "python"))
            for (title, language), text in zip(titles, origin, strict=True):
                if text:
                    st.caption(title)
                    st.code(text, language=language, wrap_lines=True)


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


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower() or "figure"

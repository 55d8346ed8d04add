"""An experiment's figure as SVG, light or dark. Nothing is drawn without its interval."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from nuggets.studies.documents import paper_number
from nuggets.studies.report import Panel, StudyReport

# Okabe & Ito: told apart by every kind of colour vision.
COLOURS = {
    "treatment": "#E69F00",
    "baseline": "#0072B2",
    "control": "#8C8C8C",
    "comparator": "#009E73",
    "reference": "#CC79A7",
}
LINES = ("#0072B2", "#E69F00", "#8C8C8C", "#009E73", "#CC79A7", "#56B4E9")
MARKERS = ("o", "s", "D", "^", "v", "P")
ACROSS = 4
"""Panels beside each other; more would be too small to read on a page."""
BELOW = 0.27
"""How far under an arm's interval its seeds are drawn, in rows."""
INKS = {False: ("#ffffff", "#1f2430", "#d5d9e0"), True: ("#0e1117", "#f1f3f7", "#3a404c")}


def study_figure(report: StudyReport, dark: bool = False) -> str:
    """The figure of a report as SVG text.

    Args:
        report: what was found.
        dark: light ink on dark paper.
    """
    paper, ink, grid = INKS[dark]
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": report.study.name,  # the same report gives the same file
        "font.family": "sans-serif",
        "font.size": 12,
        "text.color": ink,
        "axes.edgecolor": grid,
        "axes.labelcolor": ink,
        "axes.facecolor": paper,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.facecolor": paper,
        "grid.color": grid,
        "xtick.color": ink,
        "ytick.color": ink,
    }
    draw = {"levels": _levels, "matrix": _matrix}.get(report.study.layout, _forest)
    with mpl.rc_context(style):
        figure = draw(report, ink)
        target = io.StringIO()
        figure.savefig(target, format="svg", metadata={"Date": None})
    return target.getvalue()


def _forest(report: StudyReport, ink: str) -> Figure:
    """A panel per run, a row per arm, every seed as a dot; the paper's numbers come last."""
    named = [list(panel.report.arms) for panel in report.panels]
    paper = [paper_number(report, report.panels[0], arm) for arm in named[0]]
    if any(value is not None for value in paper):
        named.append(named[0])
    alike = all(arms == named[0] for arms in named)  # then one list of names serves a whole row
    columns = min(len(named), ACROSS if alike else ACROSS - 1)
    lines = math.ceil(len(named) / columns)
    width = (2.2 if alike else 1.2) + (3.1 if alike else 4.1) * columns
    height = lines * (1.3 + 0.46 * max(map(len, named)))
    figure = Figure(figsize=(max(7.0, width), height))
    figure.set_layout_engine("constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for place, (axis, arms) in enumerate(zip(axes, named, strict=False)):
        shown = arms if not alike or place % columns == 0 else [""] * len(arms)
        axis.set_yticks(range(len(arms)), [arm.replace("_", " ") for arm in shown])
        axis.set_ylim(len(arms) - 0.4, -0.75)
        axis.tick_params(axis="y", length=0)
        if place < len(report.panels):
            _rows(axis, report.panels[place], arms, ink, titled=len(report.panels) > 1)
        else:
            _paper_dots(axis, paper, ink)
    for axis in axes[len(named) :]:
        axis.set_axis_off()
    return figure


def _rows(axis: Any, panel: Panel, arms: Sequence[str], ink: str, *, titled: bool) -> None:
    axis.set_xlabel(f"{panel.report.metric.replace('_', ' ')} on {panel.task}")
    if titled:
        axis.set_title(panel.name)
    for place, name in enumerate(arms):
        arm = panel.report.arms[name]
        colour = COLOURS[arm.role]
        low, high = arm.interval
        below = [place + BELOW] * len(arm.per_seed)
        axis.plot(arm.per_seed, below, "o", ms=4, mfc="none", mec=ink, alpha=0.45)
        axis.errorbar(
            arm.value, place, xerr=[[arm.value - low], [high - arm.value]], fmt="o", ms=9,
            color=colour, ecolor=colour, elinewidth=3, capsize=5,
        )  # fmt: skip
    axis.grid(axis="x")


def _paper_dots(axis: Any, values: Sequence[float | None], ink: str) -> None:
    known = [(value, place) for place, value in enumerate(values) if value is not None]
    axis.plot([v for v, _ in known], [p for _, p in known], "D", ms=8, color=ink)
    for value, place in known:
        axis.annotate(
            f"{value:.2f}", (value, place), (0, 9), textcoords="offset points", ha="center"
        )
    axis.margins(x=0.3)
    axis.set_title("the paper (no intervals given)")
    axis.set_xlabel("average score")
    axis.grid(axis="x")


def _levels(report: StudyReport, ink: str) -> Figure:
    """A line per arm over the levels, with bands."""
    figure = Figure(figsize=(8.5, 4.6))
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    xs = [panel.x if panel.x is not None else place for place, panel in enumerate(report.panels)]
    arms = list(dict.fromkeys(arm for panel in report.panels for arm in panel.report.arms))
    for place, name in enumerate(arms):
        found = [
            (x, p.report.arms[name])
            for x, p in zip(xs, report.panels, strict=True)
            if name in p.report.arms
        ]
        x = [each for each, _ in found]
        colour, marker = LINES[place % len(LINES)], MARKERS[place % len(MARKERS)]
        axis.plot(
            x,
            [arm.value for _, arm in found],
            marker=marker,
            ms=7,
            lw=2,
            color=colour,
            label=name.replace("_", " "),
        )
        axis.fill_between(
            x, [arm.interval[0] for _, arm in found], [arm.interval[1] for _, arm in found],
            color=colour, alpha=0.15, lw=0,
        )  # fmt: skip
    if min(xs) > 0:
        axis.set_xscale("log", base=2)
    axis.set_xticks(xs, [panel.name for panel in report.panels])
    axis.minorticks_off()
    axis.set_xlabel(report.study.axis)
    first = report.panels[0]
    axis.set_ylabel(f"{first.report.metric.replace('_', ' ')} on {first.task}")
    axis.grid()
    axis.legend(frameon=False, ncols=2, labelcolor=ink)
    return figure


def _matrix(report: StudyReport, ink: str) -> Figure:
    """Target tasks down, the tasks whose samples located the parameters across."""
    arms = [a.name for a in report.panels[0].report.arms.values() if a.role != "reference"]
    values = np.array([[panel.report.arms[arm].value for arm in arms] for panel in report.panels])
    top = max(float(values.max()), 0.1)
    figure = Figure(figsize=(2.6 + 1.7 * len(arms), 1.6 + 0.85 * len(report.panels)))
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    image = axis.imshow(values, cmap="cividis", vmin=0, vmax=top, aspect="auto")
    for row, panel in enumerate(report.panels):
        for column, arm in enumerate(arms):
            found = panel.report.arms[arm]
            shade = "white" if values[row, column] < 0.6 * top else "black"
            text = f"{found.value:.2f}\n[{found.interval[0]:.2f}, {found.interval[1]:.2f}]"
            weight = "bold" if arm == panel.name else "normal"
            axis.text(column, row, text, ha="center", va="center", color=shade, fontweight=weight)
    axis.set_xticks(range(len(arms)), [arm.replace("_", " ") for arm in arms])
    axis.set_yticks(range(len(report.panels)), [panel.name for panel in report.panels])
    axis.set_xlabel(report.study.axis)
    axis.set_ylabel("fine-tuned and tested on")
    bar = figure.colorbar(image, label=report.panels[0].report.metric.replace("_", " "))
    bar.outline.set_visible(False)  # type: ignore[operator]
    return figure

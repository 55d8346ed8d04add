"""An experiment's figure as SVG, light or dark. Nothing is drawn without its interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from nuggets.amounts import plain_name
from nuggets.documents import figures
from nuggets.documents.colours import DARK, LIGHT, ROLE_COLOURS, Look
from nuggets.documents.figures import CHARACTER, SHAPES, Row, Rows, mark, point, scale
from nuggets.statistics.report import ArmReport, BenchmarkReport
from nuggets.studies.report import StudyReport, paper_number


def study_svg(report: StudyReport, dark: bool = False) -> str:
    """The figure of a report as SVG text."""
    draw = _levels if report.study.layout == "levels" else _forest
    return draw(report, DARK if dark else LIGHT)


def _forest(report: StudyReport, look: Look) -> str:
    """A panel per run, a row per arm, every seed as a dot; the paper's numbers come last."""
    across = report.study.layout == "matrix"  # there runs and starts are named after tasks alike
    panels = []
    for panel in report.panels:
        title = f"fine-tuned on {panel.name}" if across else panel.name
        rows = [
            Row(f"from {arm.name}" if across and arm.role == "treatment" else plain_name(arm.name),
                arm.value, arm.interval, arm.per_seed, ROLE_COLOURS[arm.role])
            for arm in panel.report.arms.values()
        ]  # fmt: skip
        metric = f"{_measure(panel.report)} on {panel.task}"
        panels.append(Rows(title if len(report.panels) > 1 else "", metric, rows))
    first = report.panels[0]
    numbers = {arm: paper_number(report, first, arm) for arm in first.report.arms}
    if any(number is not None for number in numbers.values()):
        rows = [Row(plain_name(arm), number) for arm, number in numbers.items()]
        panels.append(Rows("the paper (no intervals given)", "average score", rows))
    return figures.forest(panels, look)


def _levels(report: StudyReport, look: Look) -> str:
    """A line per arm over the levels; arms stand beside each other, so that intervals do too."""
    left, right, top, bottom = 64.0, 800.0, 72.0, 400.0
    panels, first = report.panels, report.panels[0]
    levels = [panel.x if panel.x is not None else i for i, panel in enumerate(panels)]
    places = [math.log2(level) for level in levels] if min(levels) > 0 else levels
    found = [arm for panel in panels for arm in panel.report.arms.values()]
    values = [value for arm in found for value in (arm.value, *arm.interval)]
    x, y = scale(places, left + 20, right - 20), scale(values, bottom, top)
    title = f"{_measure(first.report)} on {first.task}, 95 % intervals"
    middle = {"y": bottom + 54, "text_anchor": "middle", "fill": look.muted}
    parts = [mark("text", title, x=left, y=16, fill=look.muted),
             mark("text", report.study.axis, x=(left + right) / 2, **middle)]  # fmt: skip
    for value, words in figures.ticks(*figures.bounds(values), most=6).items():
        parts.append(mark("line", x1=left, x2=right, y1=y(value), y2=y(value), stroke=look.grid))
        parts.append(mark("text", words, x=left - 10, y=y(value) + 5, text_anchor="end"))
    for panel, place in zip(panels, places, strict=True):
        parts.append(mark("text", panel.name, x=x(place), y=bottom + 24, text_anchor="middle"))
    names = list(dict.fromkeys(arm.name for arm in found))
    legend = left
    for i, name in enumerate(names):
        beside = 14 * (i - (len(names) - 1) / 2)
        points = [(x(place) + beside, panel.report.arms[name])
                  for panel, place in zip(panels, places, strict=True)
                  if name in panel.report.arms]  # fmt: skip
        parts += _line(points, y, SHAPES[i % len(SHAPES)])
        colour = ROLE_COLOURS[points[0][1].role]
        parts.append(point(SHAPES[i % len(SHAPES)], legend + 8, 42.0, colour))
        parts.append(mark("text", plain_name(name), x=legend + 22, y=47))
        legend += 50 + CHARACTER * len(name)
    return figures.picture(right + 12, bottom + 66, parts, look)


def _line(
    points: Sequence[tuple[float, ArmReport]], y: Callable[[float], float], shape: str
) -> list[str]:
    colour = ROLE_COLOURS[points[0][1].role]
    line = " ".join(f"{x:.1f},{y(arm.value):.1f}" for x, arm in points)
    whiskers = "".join(
        f"M{x - 5:.1f} {y(arm.interval[0]):.1f}h10m-5 0V{y(arm.interval[1]):.1f}m-5 0h10"
        for x, arm in points
    )
    return [
        mark("polyline", points=line, fill="none", stroke=colour, stroke_width=2, opacity=0.6),
        mark("path", d=whiskers, fill="none", stroke=colour, stroke_width=2.5),
        *(point(shape, x, y(arm.value), colour) for x, arm in points),
    ]


def _measure(report: BenchmarkReport) -> str:
    return plain_name(report.metric) + ("" if report.higher_is_better else " (lower is better)")

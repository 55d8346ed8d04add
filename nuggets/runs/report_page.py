"""A report as one HTML page with drawings, for people without Nuggets: no script, no network."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple

from nuggets.bench.report import BenchmarkReport
from nuggets.runs.schema import RunRecord

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color:#1f2430;background:#fff}h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}
pre{overflow:auto;border:1px solid #dcd8cf;padding:1rem;font-size:.85rem}
table{border-collapse:collapse}td,th{border:1px solid #dcd8cf;padding:.2rem .6rem;text-align:left}
svg{width:100%;height:auto}@media print{body{margin:0}pre{white-space:pre-wrap}}
"""
_LEFT, _WIDTH, _ROW = 220, 900, 30
COLOURS = {
    "treatment": "#E69F00",
    "baseline": "#0072B2",
    "control": "#8C8C8C",
    "comparator": "#009E73",
    "reference": "#CC79A7",
}


class _Line(NamedTuple):
    """One row of a drawing: a mean with its interval, and single values as dots."""

    name: str
    mean: float
    low: float
    high: float
    dots: Sequence[float] = ()
    colour: str = "#0072B2"


def report_page(record: RunRecord, report: BenchmarkReport, recipe: str) -> str:
    """Verdict, arms with intervals and seeds, paired differences, versions and recipe.

    Args:
        record: of the run.
        report: its report.
        recipe: as YAML.
    """
    arms = [
        _Line(a.name, a.value, *a.interval, a.per_seed, COLOURS[a.role])
        for a in report.arms.values()
    ]
    pairs = [
        _Line(f"{d.arm} − {d.versus}", d.interval.mean, d.interval.low, d.interval.high)
        for d in report.differences
    ]
    metric = f"{report.metric} on {report.task}, {report.n_items} items"
    facts = {**record.provenance.versions, "device": record.provenance.device}
    facts |= {f"sha256 of {name}": value for name, value in record.provenance.digests.items()}
    rows = "".join(f"<tr><td>{_text(k)}</td><td>{_text(v)}</td></tr>" for k, v in facts.items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{_text(record.id)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{_text(report.verdict.sentence)}</h1>"
        f"<p>Run {_text(record.id)}, {_text(record.status)}.</p>"
        f"<h2>Arms: {_text(metric)}, 95 % intervals, a dot per seed</h2>{_drawing(arms)}"
        f"<h2>Paired differences, 95 % intervals; positive is better</h2>{_drawing(pairs)}"
        f"<h2>Rules of the verdict</h2><pre>{_text(report.rules)}</pre>"
        f"<h2>Versions and digests</h2><table>{rows}</table>"
        f"<h2>Recipe</h2><pre>{_text(recipe)}</pre></body></html>\n"
    )


def _drawing(lines: Sequence[_Line]) -> str:
    """Intervals below each other on one axis that always shows 0."""
    values = [0.0, *(v for line in lines for v in (line.low, line.high, *line.dots))]
    low, high = min(values), max(values)
    span = (high - low) or 1.0

    def x(value: float) -> float:
        return _LEFT + (value - low) / span * (_WIDTH - _LEFT - 130)

    height = _ROW * (len(lines) + 1)
    parts = [f'<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="0" y2="{height}" stroke="#8C8C8C"/>']
    for place, line in enumerate(lines):
        y = _ROW * (place + 0.7)
        parts.append(f'<text x="0" y="{y + 5:.1f}">{_text(line.name)}</text>')
        parts.append(
            f'<line x1="{x(line.low):.1f}" x2="{x(line.high):.1f}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="{line.colour}" stroke-width="3"/>'
        )
        parts += [
            f'<circle cx="{x(dot):.1f}" cy="{y:.1f}" r="4" fill="none" stroke="#1f2430"/>'
            for dot in line.dots
        ]
        parts.append(
            f'<rect x="{x(line.mean) - 4:.1f}" y="{y - 7:.1f}" width="8" height="14" '
            f'fill="{line.colour}"/>'
        )
        parts.append(
            f'<text x="{_WIDTH}" y="{y + 5:.1f}" text-anchor="end">'
            f"{line.mean:.3f} [{line.low:.3f}, {line.high:.3f}]</text>"
        )
    body = "".join(parts)
    return f'<svg viewBox="0 0 {_WIDTH} {height}" font-size="14" role="img">{body}</svg>'


def _text(value: object) -> str:
    return html.escape(str(value))

"""A report as one HTML page with drawings, for people without Nuggets: no script, no network."""

from __future__ import annotations

import html
from typing import Any

from nuggets.amounts import plain_name
from nuggets.documents.colours import ROLE_COLOURS
from nuggets.documents.figures import Row, Rows, forest, interval_text
from nuggets.documents.page import html_page
from nuggets.runs.schema import RunRecord
from nuggets.statistics.report import BenchmarkReport


def report_page(record: RunRecord, report: BenchmarkReport, recipe: str) -> str:
    """Verdict, arms with intervals and seeds, paired differences, versions and recipe."""
    metric = f"{plain_name(report.metric)} on {report.task}, {report.n_items} items"
    metric += "" if report.higher_is_better else ", lower is better"
    arms = [
        _row(a.name, a.value, a.interval, a.per_seed, ROLE_COLOURS[a.role])
        for a in report.arms.values()
    ]
    pairs = [
        _row(f"{d.arm} − {d.versus}", d.interval.mean, (d.interval.low, d.interval.high))
        for d in report.differences
    ]
    facts = {**record.provenance.versions, "device": record.provenance.device}
    facts |= {f"sha256 of {name}": value for name, value in record.provenance.digests.items()}
    rows = "".join(f"<tr><td>{_text(k)}</td><td>{_text(v)}</td></tr>" for k, v in facts.items())
    return html_page(
        record.id,
        f"<h1>{_text(report.verdict.sentence)}</h1>"
        f"<p>Run {_text(record.id)}, {_text(record.status)}.</p>"
        f"<h2>Arms: {_text(metric)}, 95 % intervals, a dot per seed</h2>"
        f"{_figure(arms, metric)}"
        f"<p>{_text(report.rates_chosen)}</p>"
        f"<h2>Paired differences, 95 % intervals; positive is better</h2>"
        f"{_figure(pairs, 'paired difference')}"
        f"<h2>Rules of the verdict</h2><pre>{_text(report.rules)}</pre>"
        f"<h2>Versions and digests</h2><table>{rows}</table>"
        f"<h2>Recipe</h2><pre>{_text(recipe)}</pre>",
    )


def _row(name: str, mean: float, interval: tuple[float, float], *drawn: Any) -> Row:
    return Row(plain_name(name), mean, interval, *drawn, text=interval_text(mean, *interval))


def _figure(rows: list[Row], axis: str) -> str:
    return forest([Rows("", axis, rows, zero=True)]) if rows else "<p>None.</p>"


def _text(value: object) -> str:
    return html.escape(str(value))

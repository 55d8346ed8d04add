"""Benchmarks from lm-eval on the Results page: a table with intervals for each."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from nuggets import amounts, api
from nuggets.ui.benchmarks import evaluate as evaluate_part
from nuggets.ui.benchmarks.arms import paired_shown, with_intervals
from nuggets.ui.charts import base as charts
from nuggets.ui.charts import benchmarks as benchmarks_charts
from nuggets.ui.frame import safe, share, shell

MOST_RUNS = 6
"""Evaluations of models by themselves that are shown, newest first."""


def section(run: api.Run | None, choice: shell.Choice) -> None:
    """Benchmarks of a transfer's arms and of models by themselves, and the form to measure more."""
    own = api.benchmark_tables(run) if run is not None else []
    others = _evaluations() if run is None else []
    st.subheader("Public benchmarks", anchor=False)
    evaluate_part.progress()
    nothing = not own and not others
    with st.expander("Measure models or arms on benchmarks", expanded=nothing, key="evaluate"):
        if nothing:
            st.text("No results on GSM8K, MMLU or other public benchmarks yet.")
        evaluate_part.form(run, choice)
    if run is not None:
        _tables(run, own)
    for other in others:
        tables = api.benchmark_tables(other)
        title = safe.label(
            f"{', '.join(table.benchmark for table in tables)} · {api.about(other).title}", 100
        )
        with st.expander(title, expanded=run is None and other is others[0]):
            _tables(other, tables)


def frame_of(table: api.BenchmarkTable) -> pd.DataFrame:
    """One line per model or arm and metric; a positive difference is better than the base."""
    lines = []
    for row in table.rows:
        for metric, found in row.metrics.items():
            other = row.differences.get(metric)
            lines.append(
                {
                    "model": row.name,
                    "metric": metric,
                    "mean": found.mean,
                    "low": found.low,
                    "high": found.high,
                    "difference": other.interval.mean if other else None,
                    "difference low": other.interval.low if other else None,
                    "difference high": other.interval.high if other else None,
                    "seeds": len(row.seeds),
                    "truncated prompts": row.truncated_prompts,
                    "unfinished": row.unfinished_answers,
                    "seconds": row.seconds,
                }
            )
    frame = pd.DataFrame(lines)
    alone = len(table.rows) == 1
    return frame.drop(columns=[c for c in frame if alone and c.startswith("difference")])


def shown_of(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame_of` for people: intervals beside their means, times in words."""
    shown = frame[["model"]].assign(metric=frame["metric"].map(charts.plain_name))
    shown["mean, 95 %"] = with_intervals(frame, "mean", "low", "high")
    if "difference" in frame:
        columns = ("difference", "difference low", "difference high")
        shown["difference, 95 %"] = with_intervals(frame, *columns, signed=True)
    rest = frame[["seeds", "truncated prompts", "unfinished"]]
    return shown.join(rest).assign(time=frame["seconds"].map(amounts.duration))


def _evaluations() -> list[api.Run]:
    done = (r for r in api.runs() if r.status() == "done" and r.record().kind == "evaluate")
    return [run for run, _ in zip(done, range(MOST_RUNS), strict=False)]


_PRINTED = """for table in api.benchmark_tables(run):
    for row in table.rows:
        print(table.benchmark, row.name, row.metrics, row.differences)"""


def _tables(run: api.Run, tables: list[api.BenchmarkTable]) -> None:
    origin, title = share.Origin.of(api.job_of(run), _PRINTED), api.about(run).title
    for table in tables:
        beside = (
            f", positive differences are better than {table.base}" if len(table.rows) > 1 else ""
        )
        caption = f"{table.benchmark}: 95 % intervals over {table.n_items} items{beside} · {title}"
        name = f"benchmark-{run.id}-{table.benchmark}"
        frame = frame_of(table)
        share.table(frame, name, caption, origin, shown=shown_of(frame))
        if table.verdict is not None:
            st.text(f"{table.benchmark}: {table.verdict.sentence}")
        if table.comparisons:
            compared = benchmarks_charts.differences_frame(table.comparisons)
            share.table(
                compared,
                f"compared-{run.id}-{table.benchmark}",
                f"{table.benchmark}, {table.metric}: paired differences with 95 % intervals and "
                f"p-values adjusted by Holm · {title}",
                origin,
                shown=paired_shown(compared),
            )

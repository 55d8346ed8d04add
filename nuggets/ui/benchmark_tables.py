"""Benchmarks from lm-eval on the Benchmarks page: a table with intervals for each."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from nuggets import api
from nuggets.ui import safe, share

MOST_RUNS = 6
"""Evaluations of models by themselves that are shown, newest first."""
_EMPTY = "nuggets evaluate MODEL --benchmark gsm8k --data FILE.jsonl"


def section(run: api.Run | None) -> None:
    """The benchmarks that a transfer's arms were measured on, and those of models by themselves."""
    own = api.benchmark_tables(run) if run is not None else []
    others = _evaluations()
    st.subheader("On public benchmarks", anchor=False)
    if not own and not others:
        with st.container(border=True, key="benchmarks-none"):
            st.text("Nothing was measured on GSM8K, MMLU or others yet. From the command line:")
            st.code(_EMPTY, language="bash")
        return
    if run is not None:
        _tables(run, own)
    for other in others:
        tables = api.benchmark_tables(other)
        title = safe.label(f"{', '.join(table.benchmark for table in tables)} · {other.id}", 100)
        with st.expander(title, expanded=run is None and other is others[0]):
            _tables(other, tables)


def frame_of(table: api.BenchmarkTable) -> pd.DataFrame:
    """One line per model or arm and metric; differences are to the table's base."""
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
                    "cut prompts": row.truncated_prompts,
                    "unfinished": row.unfinished_answers,
                    "seconds": row.seconds,
                }
            )
    frame = pd.DataFrame(lines)
    alone = len(table.rows) == 1
    return frame.drop(columns=[c for c in frame if alone and c.startswith("difference")])


def comparisons_frame(table: api.BenchmarkTable) -> pd.DataFrame:
    """One line per paired comparison of the first metric."""
    return pd.DataFrame(
        {
            "arm": each.arm,
            "versus": each.versus,
            "difference": each.interval.mean,
            "low": each.interval.low,
            "high": each.interval.high,
            "p, Holm": each.p_holm,
            "detectable": each.minimum_detectable,
        }
        for each in table.comparisons
    )


def _evaluations() -> list[api.Run]:
    done = (r for r in api.runs() if r.status() == "done" and r.record().kind == "evaluate")
    return [run for run, _ in zip(done, range(MOST_RUNS), strict=False)]


def _tables(run: api.Run, tables: list[api.BenchmarkTable]) -> None:
    job = api.job_of(run)
    for table in tables:
        beside = f", differences to {table.base}" if len(table.rows) > 1 else ""
        caption = (
            f"{table.benchmark}: 95 % intervals over {table.n_items} items{beside} · run {run.id}"
        )
        share.table(
            frame_of(table),
            f"benchmark-{run.id}-{table.benchmark}",
            caption,
            api.as_command(job) or None,
            api.as_python(job),
            column_config={
                name: st.column_config.NumberColumn(format="%.3f")
                for name in ("mean", "low", "high", "difference", "difference low",
                             "difference high")
            }
            | {"seconds": st.column_config.NumberColumn(format="%.0f")},
        )  # fmt: skip
        if table.verdict is not None:
            st.text(f"{table.benchmark}: {table.verdict.sentence}")
        if table.comparisons:
            share.table(
                comparisons_frame(table),
                f"compared-{run.id}-{table.benchmark}",
                f"{table.benchmark}, {table.metric}: paired differences with 95 % intervals and "
                f"p-values adjusted by Holm · run {run.id}",
                api.as_command(job) or None,
                api.as_python(job),
                column_config={
                    name: st.column_config.NumberColumn(format="%.3f")
                    for name in ("difference", "low", "high", "p, Holm", "detectable")
                },
            )

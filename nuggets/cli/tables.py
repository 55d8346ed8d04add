"""Benchmarks as tables on the terminal."""

from __future__ import annotations

from nuggets import api
from nuggets.amounts import duration
from nuggets.cli.output import interval, say, table


def show_tables(run: api.Run) -> None:
    """Draws every benchmark of a run: means, intervals, differences, and what they say."""
    for made in api.benchmark_tables(run):
        rows = []
        for row in made.rows:
            for metric, found in row.metrics.items():
                other = row.differences.get(metric)
                beside = () if other is None else (other.interval.low, other.interval.high)
                rows.append(
                    (
                        row.name,
                        metric,
                        f"{found.mean:.3f}",
                        interval(found.low, found.high),
                        f"{other.interval.mean:+z.3f} {interval(*beside)}" if other else "",
                        len(row.seeds),
                        f"{row.truncated_prompts} / {row.unfinished_answers}",
                        duration(row.seconds),
                    )
                )
        headers = (
            "model",
            "metric",
            "mean",
            "95 %",
            f"better than {made.base} by",
            "seeds",
            "cut",
            "time",
        )
        table(headers, rows, f"{made.benchmark}, {made.n_items} items")
        if made.comparisons:
            lines = [
                (
                    each.arm,
                    each.versus,
                    f"{each.interval.mean:+z.3f} {interval(each.interval.low, each.interval.high)}",
                    f"{each.p_holm:.3f}",
                )
                for each in made.comparisons
            ]
            table(("arm", "versus", "difference, 95 %", "p, Holm"), lines, f"{made.metric}, paired")
        if made.verdict is not None:
            say(f"{made.benchmark}: {made.verdict.sentence}")

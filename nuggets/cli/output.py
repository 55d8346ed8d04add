"""What the command line prints: words on stderr, results on stdout, JSON on request."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from nuggets import api
from nuggets.amounts import duration

words = Console(stderr=True, highlight=False)
out = Console(highlight=False)

_LINE = 24
"""Characters of a cell that are kept on one line; longer cells are prose."""
_FRAME = 3
"""What a column's border and padding take."""


def quiet_bars() -> None:
    """Keeps other libraries' bars off what is no terminal; all draw with tqdm, which reads this."""
    if not words.is_terminal:
        os.environ.setdefault("TQDM_DISABLE", "1")


def print_json(document: Any) -> None:
    """Writes one JSON document to stdout; what is not a number becomes null."""
    json.dump(_plain(document), sys.stdout, indent=1, allow_nan=False)
    sys.stdout.write("\n")


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):  # pydantic's, which is not imported for plain lists
        return _plain(value.model_dump(mode="json"))
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)


def say(text: str) -> None:
    """Writes words to stderr, never as markup, a sentence per line."""
    words.print(Text(_written(text)), soft_wrap=True)


def _written(text: str) -> str:
    """Text that any terminal takes: bytes of an argument that are no UTF-8 are spelled out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def tell_run(run: api.Run, sentence: str, json: bool) -> None:
    """Writes where a run stands: one sentence, or its id and status as JSON."""
    if json:
        return print_json({"run": run.id, "status": run.status()})
    return say(sentence)


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """Writes a table to stdout; cells are text, never markup.

    Names and numbers are never cut or broken: where the terminal is too narrow for all columns,
    they come in blocks that repeat the first. Only what is longer than `_LINE` runs over lines.
    """
    cells = [[Text(_written(str(cell))) for cell in row] for row in (headers, *rows)]
    natural = [max(cell.cell_len for cell in column) for column in zip(*cells, strict=True)]
    least = [
        min(width, max(_LINE, len(name))) for width, name in zip(natural, headers, strict=True)
    ]
    least[0] = natural[0]
    for block in _blocks(least, out.width - 1):
        room = out.width - 1 - sum(least[i] + _FRAME for i in block)
        prose = [i for i in block if natural[i] > least[i]]
        drawn = Table(title=title or None, title_justify="left")
        for i in block:
            width = min(natural[i], least[i] + room // len(prose)) if i in prose else natural[i]
            side = "left" if i == 0 or i in prose else "right"
            drawn.add_column(cells[0][i], justify=side, width=width, overflow="fold")
        for row in cells[1:]:
            drawn.add_row(*(row[i] for i in block))
        out.print(drawn)
        title = ""


def _blocks(widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Columns that fit beside the first, in their order; at least one of them, however wide."""
    block = [0]
    for i in range(1, len(widths)):
        if len(block) > 1 and sum(widths[j] + _FRAME for j in (*block, i)) > room:
            yield block
            block = [0]
        block.append(i)
    yield block


def interval(low: float, high: float) -> str:
    """An interval as people write it."""
    return f"[{low:z.3f}, {high:z.3f}]"


def show_tables(run: api.Run) -> None:
    """Draws every benchmark of a run: means, intervals, differences, and what they say."""
    for made in api.benchmark_tables(run):
        rows = []
        # One model has nobody beside it.
        beside = [f"better than {made.base} by"] if any(r.differences for r in made.rows) else []
        for row in made.rows:
            for metric, found in row.metrics.items():
                other = row.differences.get(metric)
                between = () if other is None else (other.interval.low, other.interval.high)
                better = f"{other.interval.mean:+z.3f} {interval(*between)}" if other else ""
                rows.append(
                    (
                        row.name,
                        metric,
                        f"{found.mean:.3f}",
                        interval(found.low, found.high),
                        *([better] if beside else []),
                        len(row.seeds),
                        f"{row.truncated_prompts} / {row.unfinished_answers}",
                        duration(row.seconds),
                    )
                )
        headers = ("model", "metric", "mean", "95 %", *beside, "seeds", "cut", "time")
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


class Bars:
    """Progress of a computation as one bar; implements `nuggets.progress.Progress`."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task: TaskID = bars.add_task("starting", total=None)

    def check_cancelled(self) -> None:
        """Nothing is asked here: Ctrl-C interrupts a command by itself."""

    def progress(self, done: float, total: float, message: str = "", **data: Any) -> None:
        """Moves the bar."""
        label = message or str(data.get("label", ""))
        self._bars.update(self._task, completed=done, total=total or None)
        if label:
            self._bars.update(self._task, description=label)

    def metric(self, **data: Any) -> None:
        """Measured values are not printed."""

    def log(self, text: str) -> None:
        """Prints one sentence above the bar."""
        say(text)

    def show(self, event: api.RunEvent) -> None:
        """Draws one event of a run."""
        data: Any = event.data
        if event.type == "stage":
            self._bars.update(self._task, description=event.message, completed=0, total=None)
        elif event.type == "progress":
            self.progress(data["done"], data["total"], event.message or event.stage)
        elif event.type == "log" or "holder" in data:  # who has the device that this run awaits
            self.log(event.message)


@contextmanager
def bars() -> Iterator[Bars]:
    """Progress bars on stderr while the block runs; only words where nobody watches."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    shown = words.is_terminal
    with Progress(*columns, console=words, transient=True, disable=not shown) as drawn:
        yield Bars(drawn)

"""Tables of arms and their answers, in numbers for the CSV and in words for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from nuggets import amounts
from nuggets.documents.figures import interval_text
from nuggets.statistics.report import BenchmarkReport
from nuggets.ui.charts import base as charts
from nuggets.ui.charts.benchmarks import ROLE_TITLES


def budget_frame(report: BenchmarkReport) -> pd.DataFrame:
    """What every arm was given and what it took."""
    return pd.DataFrame(
        [
            {
                "arm": arm.name,
                "role": ROLE_TITLES[arm.role],
                "samples": arm.samples,
                "steps": arm.steps,
                "learning_rate": arm.rate_words or None,
                "learned": None if arm.learned is None else arm.learned.exact_match,
                "trainable_parameters": arm.trainable_parameters,
                "flops": arm.flops,
                "seconds_per_seed": arm.seconds,
                "seconds_all_rates": arm.all_seconds,
                "seeds": len(arm.seeds),
            }
            for arm in report.arms.values()
        ]
    )


BUDGET = (
    "learned: share of training items right; parameters: trainable ones; operations and time: per "
    "seed, and the time at all learning rates"
)
"""What the short headings of `budget_shown` stand for."""


def budget_shown(frame: pd.DataFrame) -> pd.DataFrame:
    """`budget_frame` for people; zero stands for nothing trained or nothing counted."""
    some = {
        "arm": frame["arm"].map(charts.plain_name),
        "learning_rate": frame["learning_rate"].fillna("–"),
        "learned": frame["learned"].map(lambda v: "–" if pd.isna(v) else f"{v:.2f}"),
        "trainable_parameters": frame["trainable_parameters"].map(_or_dash(amounts.count)),
        "flops": frame["flops"].map(_or_dash(amounts.operations)),
        "seconds_per_seed": frame["seconds_per_seed"].map(_or_dash(amounts.duration)),
        "seconds_all_rates": frame["seconds_all_rates"].map(_or_dash(amounts.duration)),
    }
    return frame.assign(**some).rename(
        columns={
            "learning_rate": "rate",
            "trainable_parameters": "parameters",
            "flops": "operations",
            "seconds_per_seed": "time",
            "seconds_all_rates": "all rates",
        }
    )


def with_intervals(
    frame: pd.DataFrame, mean: str, low: str, high: str, signed: bool = False
) -> list[str]:
    """Three columns as one text per row; a dash where nothing was compared."""
    return [
        "–" if pd.isna(row[0]) else interval_text(*row, signed=signed)
        for row in zip(frame[mean], frame[low], frame[high], strict=True)
    ]


def paired_shown(frame: pd.DataFrame) -> pd.DataFrame:
    """Paired differences for people; see `judged_shown` for its last two columns."""
    first, second = (frame[name].map(charts.plain_name) for name in ("arm", "versus"))
    shown = pd.DataFrame({"paired": first + " − " + second})
    shown["difference, 95 %"] = with_intervals(frame, "difference", "low", "high", signed=True)
    return shown.join(judged_shown(frame))


def judged_shown(frame: pd.DataFrame) -> pd.DataFrame:
    """Holm's p and the smallest difference to be seen, with its family; a dash for none."""
    titles = {"p_holm": "p (Holm)", "smallest_detectable": "detectable difference"}
    shown = pd.DataFrame(
        {
            title: ["–" if pd.isna(value) else f"{value:.2g}" for value in frame[name]]
            for name, title in titles.items()
        }
    )
    families = [f" ({family})" if family else "" for family in frame["family"]]
    return shown.assign(**{"detectable difference": shown["detectable difference"] + families})


def _or_dash(write: Any) -> Any:
    return lambda value: write(value) if value else "–"


def items_frame(
    names: tuple[str, str],
    answers: tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]],
    outcomes: tuple[Sequence[float], Sequence[float]],
    items: Sequence[str],
    higher_is_better: bool = True,
) -> pd.DataFrame:
    """One row per item: question, expected answer, both arms' answers, and what flipped.

    Args:
        names: the two arms.
        answers: what each wrote, as `api.answers` gives it; empty if it was not kept.
        outcomes: 0/1 or a loss per item.
        items: item ids, in the order of the outcomes.
        higher_is_better: False for losses.
    """
    first, second = ({row["id"]: row for row in rows} for rows in answers)
    rows = []
    for item, a, b in zip(items, *outcomes, strict=True):
        known = first.get(item) or second.get(item) or {}
        rows.append(
            {
                "item": item,
                "question": known.get("question", ""),
                "expected": known.get("expected", ""),
                names[0]: first.get(item, {}).get("answer", ""),
                names[1]: second.get(item, {}).get("answer", ""),
                f"{names[0]} outcome": a,
                f"{names[1]} outcome": b,
                "change": "same" if a == b else "gained" if (b > a) == higher_is_better else "lost",
            }
        )
    return pd.DataFrame(rows)


def items_shown(frame: pd.DataFrame, names: tuple[str, str]) -> pd.DataFrame:
    """`items_frame` for people: 0/1 outcomes as wrong and right."""
    words = {0.0: "wrong", 1.0: "right"}
    outcomes = [f"{name} outcome" for name in names]
    if not frame[outcomes].isin(list(words)).to_numpy().all():
        return frame.drop(columns="item")
    return frame.drop(columns="item").replace(dict.fromkeys(outcomes, words))

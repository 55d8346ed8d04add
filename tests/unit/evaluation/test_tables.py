"""Tables of benchmarks: which rows are compared, with Holm, and what the rules say of them."""

from __future__ import annotations

import json
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nuggets.evaluation.tables import BenchmarkOutcome, BenchmarkTable, build_tables
from nuggets.runs.results import TABLES, TABLES_FOLDER
from nuggets.stages.evaluating import Subject, write_tables
from nuggets.statistics.arms import arm_report
from nuggets.statistics.cells import CellOutcome, Learned
from nuggets.statistics.intervals import holm, paired_difference

RATES = {"vanilla": 0.1, "plain": 0.3, "paper": 0.95, "gaussian": 0.3, "shuffled": 0.3}
ROLES = {
    "vanilla": "reference",
    "plain": "baseline",
    "paper": "treatment",
    "gaussian": "content_control",
    "shuffled": "content_control",
}


def outcome(arm, seed, values, role=None, benchmark="mmlu-0shot"):
    return BenchmarkOutcome(
        benchmark=benchmark,
        model=f"{arm}, seed {seed}",
        metric="acc",
        items=[str(i) for i in range(len(values))],
        outcomes={"acc": list(values)},
        shots=0,
        format="paper",
        truncated_prompts=0,
        unfinished_answers=0,
        seconds=1.0,
        peak_memory=1,
        arm=arm,
        seed=seed,
        role=role,
    )


def drawn(prefix="", rates=RATES, benchmark="mmlu-0shot"):
    generator = np.random.default_rng(0)
    return [
        outcome(prefix + arm, seed, generator.random(100) < rate, ROLES[arm], benchmark)
        for arm, rate in rates.items()
        for seed in range(3)
    ]


def test_arms_of_a_transfer_are_judged_by_the_rules_of_its_report():
    outcomes = drawn()
    (table,) = build_tables(outcomes, base="plain")
    pairs = [(each.arm, each.versus) for each in table.comparisons]
    assert pairs == [
        ("paper", "plain"),
        ("paper", "gaussian"),
        ("paper", "shuffled"),
        ("vanilla", "plain"),
        ("gaussian", "plain"),
        ("shuffled", "plain"),
    ]
    values = {arm: [o.outcomes["acc"] for o in outcomes if o.arm == arm] for arm in RATES}
    expected = [paired_difference(values[arm], values[versus]) for arm, versus in pairs[:3]]
    adjusted = holm([each.p for each in expected])
    for found, difference, p in zip(table.comparisons, expected, adjusted, strict=False):
        assert found.interval == difference.interval
        assert found.p_holm == pytest.approx(p)
    assert table.verdict is not None
    assert table.verdict.kind == "helps"
    assert BenchmarkTable.model_validate(table.model_dump(mode="json")) == table


@pytest.mark.parametrize(
    ("rate", "loss", "kind", "said"),
    [
        (1e-3, 3.0, "not_measurable", "so nothing was learned"),
        (1e-2, 1.0, "not_proven", "trained at different learning rates"),
        (1e-3, 1.0, "helps", "At learning rate 0.001, the same for all."),
    ],
)
def test_a_benchmark_claims_no_more_than_the_report_of_its_transfer_may(rate, loss, kind, said):
    learned = Learned(exact_match=0.0, loss=loss, guessing=2.0, n=80)

    def trained(arm, lr):
        cell = CellOutcome(
            arm=arm, role=ROLES[arm], seed=0, items=["a", "b"], outcomes={"acc": [0.0, 1.0]},
            learning_rate=lr, learned=learned,
        )  # fmt: skip
        return arm_report({0: cell}, "acc")

    arms = {arm: trained(arm, rate if arm == "paper" else 1e-3) for arm in RATES}
    (table,) = build_tables(drawn(), "plain", arms)
    assert table.verdict is not None
    assert table.verdict.kind == kind
    assert said in table.verdict.sentence


def test_one_arm_of_each_of_two_runs_is_no_transfer(tmp_path):
    """Plain LoRA of one run and the treatment of another were trained on other samples."""
    subjects, place = [], tmp_path / "benchmarks" / "mmlu"
    for found in drawn(
        rates={arm: RATES[arm] for arm in ("plain", "paper", "gaussian", "shuffled")}
    ):
        run: Any = SimpleNamespace(id="a" if found.arm == "plain" else "b")
        folder = f"{found.arm}-{found.seed}"
        (place / folder).mkdir(parents=True)
        (place / folder / "outcome.json").write_text(found.model_dump_json())
        subjects.append(Subject(folder, folder, lambda: None, run, found.arm, found.seed))

    @contextmanager
    def commit(name):
        (tmp_path / name).mkdir()
        yield tmp_path / name

    ctx: Any = SimpleNamespace(artifacts=tmp_path, done=lambda name: False, commit=commit)
    write_tables(subjects, [SimpleNamespace(name="mmlu")], ctx)  # type: ignore[list-item]
    [table] = json.loads((tmp_path / TABLES_FOLDER / TABLES).read_text())
    assert table["verdict"] is None
    first = table["comparisons"][0]
    assert (first["arm"], first["versus"]) == ("paper", "plain")


def test_a_control_as_good_as_the_treatment_stops_the_claim():
    (table,) = build_tables(drawn(rates=RATES | {"gaussian": 0.95}))
    assert table.verdict is not None
    assert table.verdict.kind == "same_as_controls"


def test_several_benchmarks_of_one_run_are_one_family():
    both = [*drawn(), *drawn(rates=RATES | {"paper": 0.35}, benchmark="gsm8k-0shot")]
    tables = build_tables(both, base="plain")
    first = [each for table in tables for each in table.comparisons if each.arm == "paper"]
    assert len(first) == 6
    assert [each.p_holm for each in first] == pytest.approx(holm([each.p for each in first]))
    assert [table.benchmark for table in tables] == ["mmlu-0shot", "gsm8k-0shot"]
    assert [table.verdict.kind for table in tables] == ["helps", "no_difference"]


def test_the_table_of_another_version_opens_and_says_by_which_rules_it_was_judged():
    (table,) = build_tables(drawn())
    old = table.model_dump(mode="json")
    del old["verdict"]["edition"], old["verdict"]["location"]
    verdict = BenchmarkTable.model_validate(old).verdict
    assert verdict is not None
    assert verdict.sentence.startswith("Judged by the rules of 0.1: ")
    stored = drawn()[-1].model_dump(mode="json") | {"role": "control"}
    assert BenchmarkOutcome.model_validate(stored).role == "content_control"


def test_models_and_arms_of_several_transfers_are_compared_with_the_base_alone():
    both = [*drawn("a: ", {"plain": 0.3, "paper": 0.9}), *drawn("b: ", {"plain": 0.3})]
    (table,) = build_tables(both)
    assert [(each.arm, each.versus) for each in table.comparisons] == [
        ("a: paper", "a: plain"),
        ("b: plain", "a: plain"),
    ]
    assert table.verdict is None


@pytest.mark.parametrize("metric", ["loss", "unreadable_verdicts"])
def test_what_should_be_small_counts_as_better_where_it_is_smaller(metric):
    few, many = [0.0, 0.5], [1.0, 0.5]
    both = [outcome("few", 0, [1.0, 0.0]), outcome("many", 0, [1.0, 0.0])]
    both = [
        each.model_copy(update={"outcomes": each.outcomes | {metric: own}})
        for each, own in zip(both, (few, many), strict=True)
    ]
    (table,) = build_tables(both, base="many")
    assert table.rows[0].differences[metric].interval.mean == 0.5


def test_one_model_alone_is_compared_with_nothing():
    (table,) = build_tables([outcome("teacher", 0, [1.0, 0.0])])
    assert (table.comparisons, table.verdict) == ((), None)


def with_losses(arm, role, mean):
    generator = np.random.default_rng([*arm.encode()])
    return [
        outcome(arm, seed, [0.0] * 50, role).model_copy(
            update={
                "metric": "loss",
                "outcomes": {"loss": [*(mean + generator.normal(0, 0.1, 50))]},
            }
        )
        for seed in range(3)
    ]


def test_a_smaller_loss_is_better_in_every_difference_and_for_the_verdict():
    arms = {"plain": 1.0, "paper": 0.2, "gaussian": 1.5}
    outcomes = [o for arm, mean in arms.items() for o in with_losses(arm, ROLES[arm], mean)]
    (table,) = build_tables(outcomes, base="plain")
    gains = {row.name: row.differences["loss"].interval for row in table.rows if row.differences}
    assert gains["paper"].low > 0 > gains["gaussian"].high
    by_pair = {(each.arm, each.versus): each for each in table.comparisons}
    assert by_pair["paper", "plain"].better
    assert by_pair["paper", "gaussian"].better
    assert by_pair["gaussian", "plain"].worse
    assert table.verdict is not None
    assert table.verdict.kind == "helps"


def test_tables_written_before_losses_were_turned_are_turned_when_read():
    both = [
        o.model_copy(
            update={"outcomes": {"acc": [1.0 - x for x in o.outcomes["loss"]]} | o.outcomes}
        )
        for arm, mean in (("plain", 1.0), ("paper", 0.2))
        for o in with_losses(arm, ROLES[arm], mean)
    ]
    (table,) = build_tables(both, base="plain")
    old = table.model_dump(mode="json")
    del old["version"]
    (row,) = [row for row in old["rows"] if row["name"] == "paper"]
    assert row["differences"]["loss"]["interval"]["mean"] > 0
    i = row["differences"]["loss"]["interval"]
    i["mean"], i["low"], i["high"] = -i["mean"], -i["high"], -i["low"]
    assert BenchmarkTable.model_validate(old) == table

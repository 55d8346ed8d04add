"""From cells to a report: pairing, direction, families of tests, refusals, JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nuggets.errors import BadInput
from nuggets.statistics.cells import CellOutcome
from nuggets.statistics.comparisons import families
from nuggets.statistics.intervals import holm, mean_interval, paired_difference
from nuggets.statistics.power import minimum_detectable_effect
from nuggets.statistics.report import BenchmarkReport, build_report
from nuggets.statistics.verdict import Part

N_ITEMS = 60
ITEMS = [f"item-{i}" for i in range(N_ITEMS)]
ROLES = {
    "lora": "baseline",
    "paper": "treatment",
    "permuted": "content_control",
    "gaussian": "content_control",
    "random_window": "location_control",
    "labels": "comparator",
    "vanilla": "reference",
}
RATES = {"paper": 0.7, "labels": 0.97, "vanilla": 0.1}


def cell(name, number, **changes):
    rng = np.random.default_rng([number, *name.encode()])
    right = (rng.random(N_ITEMS) < RATES.get(name, 0.3)).astype(float)
    fields = {
        "arm": name,
        "role": ROLES[name],
        "seed": number,
        "items": ITEMS,
        "outcomes": {"exact_match": right.tolist(), "loss": (1.5 - right).tolist()},
        "old_skills": {"copy": [1.0] * 20, "sort": [1.0, 0.0] * 10},
        "curve": [(0, 0.1), (5, 0.2), (10, float(right.mean()))],
        "seconds": 2.0 + number,
        "trainable_parameters": 1000,
        "learning_rate": 3e-3,
        "samples": 64,
        "steps": 10,
    }
    return CellOutcome(**(fields | changes))


def report_of(cells, metric="exact_match", **options):
    return build_report(cells, task="reverse", metric=metric, **options)


def all_cells(seeds=(0, 1, 2, 3, 4)):
    return [cell(arm, seed) for arm in ROLES for seed in seeds]


def matrix(cells, arm, metric="exact_match"):
    return np.array([c.outcomes[metric] for c in cells if c.arm == arm])


def test_a_report_survives_json_in_the_shape_others_rely_on():
    report = report_of(all_cells())
    plain = json.loads(report.model_dump_json())
    assert set(plain["arms"]) == set(ROLES)
    paper = plain["arms"]["paper"]
    assert paper["seeds"] == [0, 1, 2, 3, 4]
    assert paper["n"] == N_ITEMS
    assert paper["interval"][0] < paper["value"] < paper["interval"][1]
    assert plain["verdict"]["kind"] == "helps"
    assert plain["verdict"]["comparator"] == "labels"
    assert BenchmarkReport.model_validate(plain) == report


def test_an_arm_holds_the_statistics_of_its_matrix():
    cells = all_cells()
    arm = report_of(cells).arms["paper"]
    data = matrix(cells, "paper")
    interval = mean_interval(data)
    assert arm.value == data.mean()
    assert arm.interval == (interval.low, interval.high)
    assert arm.per_seed == pytest.approx(data.mean(axis=1))
    assert arm.metrics["loss"].mean == pytest.approx(1.5 - arm.value)
    assert arm.old_skills["sort"].mean == 0.5
    assert arm.old_skills["copy"].low < 1.0
    assert arm.seconds == 4.0


def test_differences_are_paired_and_adjusted_within_the_treatments_family():
    cells = all_cells()
    report = report_of(cells)
    family = [d for d in report.differences if d.arm == "paper"]
    expected = [
        paired_difference(matrix(cells, "paper"), matrix(cells, versus))
        for versus in ("lora", "permuted", "gaussian")
    ]
    assert [d.versus for d in family] == ["lora", "permuted", "gaussian", "random_window"]
    assert [d.interval for d in family[:3]] == [e.interval for e in expected]
    assert [d.p_holm for d in family[:3]] == holm([e.p for e in expected])
    assert family[3].p_holm == family[3].p
    delta = matrix(cells, "paper") - matrix(cells, "lora")
    alone = minimum_detectable_effect(delta, level=1 - 0.05 / 3)
    assert family[0].minimum_detectable == pytest.approx(alone)
    assert alone > minimum_detectable_effect(delta)
    assert [d.n_comparisons for d in family] == [3, 3, 3, 1]
    assert [d.family for d in family[2:]] == ["one of 3 comparisons", "alone"]
    assert {d.n_comparisons for d in report.area_differences if d.arm == "paper"} == {3, 1}


def test_each_family_compares_what_the_rules_say():
    assert families({name: Part(role) for name, role in ROLES.items()}) == [
        [("paper", "lora"), ("paper", "permuted"), ("paper", "gaussian")],
        [("paper", "random_window")],
        [("labels", "paper")],
        [(name, "lora") for name in ROLES if name not in ("lora", "paper")],
    ]


def test_for_losses_positive_still_means_better():
    cells = all_cells()
    up = report_of(cells)
    down = report_of(cells, "loss", higher_is_better=False)
    assert down.verdict.kind == "helps"
    for rate, loss in zip(up.differences, down.differences, strict=True):
        assert loss.interval.mean == pytest.approx(rate.interval.mean)
    assert down.arms["paper"].value < down.arms["lora"].value


@pytest.mark.parametrize(("short", "whole"), [("lora", "paper"), ("paper", "lora")])
def test_pairing_uses_only_the_seeds_that_both_arms_finished(short, whole):
    cells = [c for c in all_cells() if not (c.arm == short and c.seed in (1, 4))]
    report = report_of(cells)
    first = next(d for d in report.differences if (d.arm, d.versus) == ("paper", "lora"))
    assert first.interval.n_seeds == 3
    gap = abs(matrix(cells, whole)[[0, 2, 3]].mean() - matrix(cells, short).mean())
    assert first.interval.mean == pytest.approx(gap)
    assert report.arms[short].seeds == [0, 2, 3]
    assert report.arms[whole].seeds == [0, 1, 2, 3, 4]


def test_the_order_in_which_cells_arrive_changes_nothing_but_the_order_of_arms():
    cells = all_cells()
    shuffled = [cells[i] for i in np.random.default_rng(0).permutation(len(cells))]
    assert report_of(shuffled).arms == report_of(cells).arms


def test_a_single_seed_is_reported_over_items_and_proves_nothing():
    report = report_of(all_cells(seeds=(7,)))
    assert report.arms["paper"].metrics["exact_match"].n_seeds == 1
    assert report.verdict.kind == "not_proven"
    assert "a single seed" in report.verdict.sentence


def test_what_was_planned_counts_the_comparisons_of_the_first_question():
    planned = report_of(all_cells()).planned
    assert planned is not None
    assert planned.n_comparisons == 3


def test_a_band_ends_where_the_bar_is_for_every_metric_and_number_of_seeds():
    for metric in ("exact_match", "loss"):
        for seeds in ((0,), (0, 1, 2)):
            cells = [cell("lora", seed) for seed in seeds]
            ends = {c.seed: float(np.mean(c.outcomes[metric])) for c in cells}
            grown = [c.model_copy(update={"curve": [(0, 0.1), (10, ends[c.seed])]}) for c in cells]
            arm = report_of(grown, metric).arms["lora"]
            assert arm.curve[-1] == pytest.approx((10, arm.value, *arm.interval))


def test_each_treatment_has_its_verdict_and_the_named_one_leads():
    cells = all_cells()
    own = {"role": "treatment", "treatment": "graft"}
    second = [cell("permuted", seed, arm="graft", **own) for seed in range(5)]
    report = report_of([*cells, *second], treatment="graft")
    assert report.verdict == report.verdicts["graft"]
    assert report.verdicts["paper"].words == "helps, located"
    assert report.verdict.kind == "no_difference"
    assert {d.versus for d in report.differences if d.arm == "graft"} == {"lora"}
    assert report.planned is not None
    assert report.planned.n_comparisons == 1


def test_arms_with_identical_losses_show_no_detectable_difference():
    cells = [cell("lora", s) for s in (0, 1)]
    cells += [c.model_copy(update={"arm": "paper", "role": "treatment"}) for c in cells]
    report = report_of(cells, "loss", higher_is_better=False)
    assert report.verdict.kind == "no_difference"
    assert report.verdict.minimum_detectable is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"items": ITEMS[::-1]}, "arm 'lora', seed 1 are not those of arm 'lora', seed 0"),
        ({"seed": 0}, "'lora' has seed 0 twice"),
        ({"outcomes": {"loss": [1.0] * N_ITEMS}}, "no metric 'exact_match' in arm 'lora', seed 1"),
        ({"outcomes": {"exact_match": [1.0]}}, "has 1 values for 60 items"),
        ({"steps": 11}, "differ in steps: 10 and 11"),
        ({"role": "content_control"}, "differ in role"),
        ({"treatment": "graft"}, "differ in treatment"),
        ({"old_skills": {}}, "measured different old_skills"),
    ],
)
def test_cells_that_cannot_be_compared_are_refused(changes, words):
    with pytest.raises(BadInput, match=words):
        report_of([cell("lora", 0), cell("lora", 1, **changes)])


def test_an_empty_benchmark_and_an_unknown_treatment_are_refused():
    with pytest.raises(BadInput, match="No arm has finished"):
        report_of([])
    with pytest.raises(BadInput, match="treatment 'lora' is not among"):
        report_of(all_cells(), treatment="lora")

"""What is optimised, by hand; the winner, the front, and how much a search flatters itself."""

from __future__ import annotations

import numpy as np
import pytest

from nuggets.recipe import load_recipe
from nuggets.statistics.cells import CellOutcome
from nuggets.statistics.intervals import Interval
from nuggets.sweeps.confirming import summarise
from nuggets.sweeps.objectives import front, optimism, score, winner
from nuggets.sweeps.recipe import SweepRecipe, parse_sweep
from nuggets.sweeps.sentences import sentences
from nuggets.sweeps.trials import SweepState, SweepTrial


def sweep(**fields) -> SweepRecipe:
    tree = {"base": load_recipe("quick"), "space": {"lora.r": {"values": [4, 8]}}}
    return parse_sweep(tree | fields)


def cells(arm: str, rows, metric: str = "exact_match", old=None) -> list[CellOutcome]:
    role = {"plain": "baseline", "paper": "treatment", "permuted": "content_control"}[arm]
    return [
        CellOutcome(arm=arm, role=role, treatment="paper" * (role == "content_control"), seed=seed,
                    items=[str(i) for i in range(len(row))], outcomes={metric: list(row)},
                    old_skills=old or {}, learning_rate=1e-3)
        for seed, row in enumerate(rows)
    ]  # fmt: skip


def interval(mean: float) -> Interval:
    return Interval(mean=mean, low=mean - 0.1, high=mean + 0.1, level=0.95, n_seeds=2, n_items=60)


def trial(number: int, *means: float) -> SweepTrial:
    scores = tuple(map(interval, means))
    return SweepTrial(number=number, values={"lora.r": number}, status="done", scores=scores)


def test_each_objective_by_hand():
    run = [
        *cells("plain", [[1, 0, 0, 0], [0, 0, 0, 1]]),  # .25
        *cells("paper", [[1, 1, 1, 0], [1, 0, 0, 1]], old={"b": [1, 1, 0], "a": [1, 0, 0]}),
    ]
    wanted = {"value": 5 / 8, "difference": 3 / 8, "retention": 1 / 2}
    for name, mean in wanted.items():
        (found,) = score(sweep(objective=name), run)
        assert found.mean == pytest.approx(mean)
        assert found.low < mean < found.high
    both = score(sweep(objective=["retention", "value"]), run)
    assert [each.mean for each in both] == pytest.approx([1 / 2, 5 / 8])


def test_a_smaller_loss_is_better():
    base = load_recipe("quick", ["data.metric=loss"])
    run = [*cells("plain", [[2.0, 3.0]] * 2, "loss"), *cells("paper", [[1.0, 2.5]] * 2, "loss")]
    (gap,) = score(sweep(base=base), run)
    assert gap.mean == pytest.approx(0.75)
    lowest = winner(sweep(base=base, objective="value"), [trial(0, 0.9), trial(1, 0.2)])
    assert lowest is not None
    assert lowest.number == 1


def test_ties_go_to_the_first_trial_and_failed_ones_do_not_win():
    found = [SweepTrial(number=0, values={}, status="failed"), trial(1, 0.5), trial(2, 0.5)]
    best = winner(sweep(), found)
    assert best is not None
    assert best.number == 1
    assert winner(sweep(), found[:1]) is None


def test_the_front_holds_what_nothing_beats_in_both_objectives():
    two = sweep(objective=["value", "retention"])
    found = [trial(0, 0.5, 0.9), trial(1, 0.7, 0.4), trial(2, 0.4, 0.8), trial(3, 0.6, 0.6),
             trial(4, 0.7, 0.3)]  # fmt: skip
    assert [t.number for t in front(two, found)] == [1, 3, 0]


def test_optimism_is_selected_minus_confirmed_and_its_errors_add_up():
    searched, confirmed = cells("paper", [[1, 1, 1, 0]] * 2), cells("paper", [[1, 0, 0, 0]] * 3)
    (found,) = optimism(sweep(objective="value"), searched, confirmed)
    assert found.mean == pytest.approx(0.5)
    # Seeds agree, so items are the only spread: sd .5 over 4 items on either side.
    error = np.sqrt(0.25 / 4 + 0.25 / 4)
    assert found.high - found.mean == pytest.approx(2.447 * error, rel=1e-3)  # Welch: df 6


def test_identical_trials_look_better_than_they_are_and_are_not_confirmed_to_help():
    """An A/A sweep of 9 trials, 30 times: all arms of all trials are right as often."""
    rng, helps, gaps = np.random.default_rng(0), 0, []
    found = sweep(objective="difference", space={"lora.r": {"values": list(range(1, 10))}})

    def run(n_seeds: int, n_items: int) -> list[CellOutcome]:
        return [
            cell
            for arm in ("plain", "paper", "permuted")
            for cell in cells(
                arm,
                (rng.random((n_seeds, n_items)) < 0.5 + rng.normal(0, 0.05, (n_seeds, 1))) * 1.0,
            )
        ]

    for _ in range(30):
        runs = [run(2, 60) for _ in range(9)]
        trials = [SweepTrial(number=i, values={"lora.r": i + 1}, status="done",
                             scores=score(found, each)) for i, each in enumerate(runs)]  # fmt: skip
        best = winner(found, trials)
        assert best is not None
        confirmed = summarise(found, best, runs[best.number], run(4, 80), run(4, 80))
        helps += confirmed.verdict.kind == "helps"
        gaps.append(confirmed.optimism[0].mean)
    assert helps <= 3  # 5 % of 30 is 1.5; 4 or more have a probability below .07 at that rate
    assert np.mean(gaps) > 0.05  # the best of nine looks a tenth better than it is


def test_what_a_search_for_retention_gained_says_in_which_metric_and_items():
    """The winner was chosen for old skills; that it is better on the task is another matter."""
    rng = np.random.default_rng(0)
    runs = [
        [*cells("plain", base), *cells("paper", own, old={"copy": [1.0, 0.0, 1.0]})]
        for base, own in ((rng.random((2, 4, 80)) < rate) * 1.0 for rate in (0.1, 0.9))
    ]
    found = sweep(objective="retention")
    best = trial(0, 0.7)
    searching = sentences(found, SweepState(trials=(best,)))
    assert searching[0].startswith("Best so far on items of old skills: trial")
    state = SweepState(trials=(best,), confirmed=summarise(found, best, runs[1], runs[1], runs[0]))
    said = sentences(found, state)
    assert said[0].startswith("Confirmed on 4 fresh seeds and 3 items of old skills that no trial")
    assert "paper (winner) is better than paper (default) in exact match: +0." in " ".join(said)

"""Sweeps: starting one by mouse, what its trials show, the confirmation, promoting a trial."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nuggets import api
from nuggets.statistics.intervals import Interval
from nuggets.sweeps.confirming import summarise
from nuggets.sweeps.trials import SweepState, SweepTrial, write_state
from tests.app.conftest import HOSTILE, rendered, shown
from tests.app.measured import write_benchmark
from tests.app.test_page_transfer import recipe_shown

SETTINGS = ["lora.r=4,8,16", "extraction.ratio=0.25..1", "train.lr=1e-4..1e-2:log"]


def scored(value: float) -> Interval:
    return Interval(
        mean=value, low=value - 0.1, high=value + 0.1, level=0.95, n_seeds=2, n_items=60
    )


def write_sweep(n: int = 30, confirmed: bool = False, **fields) -> api.Run:
    """A sweep's folder as a worker leaves it, with scores drawn and one trial that failed."""
    recipe = api.load_sweep("quick", SETTINGS, **{"sampler": "random", "trials": n} | fields)
    made = api.sweeping.create(recipe)
    rng = np.random.default_rng(0)
    trials = []
    for number in range(n):
        values = {"lora.r": int(rng.choice([4, 8, 16])), "extraction.ratio": rng.uniform(0.25, 1),
                  "train.lr": float(10 ** rng.uniform(-4, -2))}  # fmt: skip
        scores = tuple(scored(float(rng.normal(0.1, 0.1))) for _ in recipe.objective)
        trials.append(SweepTrial(number=number, values=values, status="done", run=f"run-{number}",
                                 scores=scores, seconds=3.0))  # fmt: skip
    trials[1] = SweepTrial(number=1, values=trials[1].values, status="failed", reason=HOSTILE)
    importance = tuple({"lora.r": 0.7, "extraction.ratio": 0.3} for _ in recipe.objective)
    state = SweepState(trials=tuple(trials), importance=importance)
    if confirmed:
        run = write_benchmark(api.load_recipe("quick", ["seeds=[3,4,5,6]", "device=cpu"]))
        cells = api.cells(run)
        best = max(state.done, key=lambda trial: trial.scores[0].mean)
        found = summarise(recipe, best, cells, cells, list(cells))
        state = state.model_copy(update={"confirmed": found.model_copy(
            update={"run": run.id, "default_run": run.id})})  # fmt: skip
    write_state(made.folder, state)
    made.record_path.write_text(made.record().changed(status="done").model_dump_json())
    return made


def chart(at, title: str) -> dict:
    """What was sent to Plotly for the only figure on the page."""
    (drawn,) = at.get("plotly_chart")
    return json.loads(drawn.proto.spec)


def test_a_sweep_starts_by_mouse_alone(open_page):
    at = open_page("sweeps")
    assert at.multiselect(key="fields").value == ["lora.r", "extraction.ratio"]
    assert at.text_input(key="space-lora.r").value == "8,16,32"
    metrics = {part.label: part.value for part in at.metric}
    assert metrics["Trials"] == "9"
    assert float(metrics["Confirmation detects"]) > 0
    at.button("start-sweep").click().run()
    assert not at.exception
    (made,) = api.sweeping.sweeps()
    assert at.session_state["sweep"] == made.id
    sweep = api.sweeping.recipe_of(made)
    assert (sweep.n_trials, sweep.sampler, sweep.objective) == (9, "grid", ("difference",))
    api.sweeping.cancel(made.id, wait=60)


def test_two_seeds_that_can_show_nothing_can_be_swept(open_page, monkeypatch):
    """Trials of two seeds may have no interval that is narrow enough."""
    from nuggets.planning import checks

    real = checks.detectable_effect

    def wider(n_seeds, n_items, *more):
        return real(n_seeds, n_items, *more) if n_seeds > 2 else real(2, n_items, 8)

    monkeypatch.setattr(checks, "detectable_effect", wider)
    at = open_page("sweeps", seeds="2")
    assert "one trial alone detects: none." in shown(at)
    assert float({part.label: part.value for part in at.metric}["Confirmation detects"]) > 0
    assert not at.button("start-sweep").disabled


def test_a_link_says_what_is_searched(open_page):
    at = open_page("sweeps", fields="train.lr", sampler="tpe", trials="7",
                   **{"space-train.lr": "1e-4..1e-2:log"})  # fmt: skip
    text = next(part.value for part in at.code if "job: sweep" in str(part.value))
    from nuggets.sweeps.recipe import parse_sweep_text

    sweep = parse_sweep_text(text)
    assert list(sweep.space) == ["train.lr"]
    assert sweep.space["train.lr"].log
    assert (sweep.sampler, sweep.n_trials) == ("tpe", 7)


def test_what_a_link_cannot_have_is_said_and_blocks_no_other_page(open_page):
    at = open_page("sweeps", sampler="annealing", r="many")
    assert "The link sets sampler='annealing'" in shown(at)
    assert at.button("start-sweep").disabled
    at.switch_page("../../pages/transfer.py").run()
    assert "The link sets r=" in shown(at)
    assert "sampler" not in "".join(part.value for part in at.text if "The link" in part.value)
    at.button("as-shown").click().run()
    assert not at.button("start").disabled
    at.switch_page("../../pages/sweeps.py").run()
    assert not at.button("start-sweep").disabled


def test_what_the_confirmation_sends_is_asked_before_a_sweep_starts(open_page, tmp_path, jsonl):
    url, data = "https://judge.example/v1", jsonl(tmp_path / "asked.jsonl", {"1": "2", "3": "4"})
    judge = {"kind": "endpoint", "url": url, "model": "j"}
    asked = [{"kind": "dialogue", "data": str(data), "judge": judge}]
    api.permits.allow(url)
    api.save_recipe(api.load_recipe("quick", [f"benchmarks={json.dumps(asked)}"]), "judged")
    at = open_page("sweeps", recipe="judged")
    assert f"sends the benchmark's questions and all answers to judge.example ({url})" in shown(at)
    assert at.button("start-sweep").disabled
    [box] = [box for box in at.checkbox if url in str(box.key)]
    box.check().run()
    assert not at.button("start-sweep").disabled


@pytest.mark.parametrize(
    ("said", "sentence"),
    [("8", "give at least two values"), ("8..4", "low must be below high"),
     (f"{HOSTILE},b", "lora.r"), ("4..8:0", "greater than 0")],
)  # fmt: skip
def test_a_space_that_cannot_be_is_one_sentence(open_page, said, sentence):
    at = open_page("sweeps", fields="lora.r", **{"space-lora.r": said})
    assert sentence in shown(at)
    assert HOSTILE not in rendered(at)
    assert api.sweeping.sweeps() == []


def test_trials_are_a_table_and_a_chosen_one_becomes_a_recipe(open_page):
    made = write_sweep()
    run = write_benchmark(api.load_recipe("quick", ["device=cpu"]))
    state = api.sweeping.state_of(made)
    linked = state.trials[3].model_copy(update={"run": run.id})
    write_state(made.folder, state.with_trial(linked))
    at = open_page("sweeps", sweep=made.id, run=run.id)
    frame = next(part.value for part in at.dataframe if "trial" in part.value.columns)
    assert len(frame) == 30
    assert frame["lora.r"].tolist()[3] == linked.values["lora.r"]
    assert "Trial 3" in shown(at)
    assert HOSTILE not in rendered(at)
    assert "Best so far on validation items" in shown(at)
    at.text_input(key="promote-name-trial-3").set_value("tuned").run()
    at.button("promote-now-trial-3").click().run()
    assert not at.exception
    assert api.load_recipe("tuned").lora.r == linked.values["lora.r"]
    assert at.title[0].value == "Plan a transfer"
    assert recipe_shown(at) == api.load_recipe("tuned")


def test_the_confirmation_is_told_with_its_verdict_and_the_optimism(open_page):
    made = write_sweep(confirmed=True)
    found = api.sweeping.state_of(made).confirmed
    assert found is not None
    at = open_page("sweeps", sweep=made.id)
    assert found.verdict.sentence in shown(at)
    assert any("selected − confirmed" in list(p.value.get("as", [])) for p in at.dataframe)
    assert f"{found.scores[0].n_items} test items, 95 %" in shown(at)
    at.button("open-Open the winner's results").click().run()
    assert not at.exception
    assert at.title[0].value == "Results"
    assert at.session_state["run"] == found.run


def test_a_sweep_for_retention_says_of_which_items(open_page):
    made = write_sweep(3, confirmed=True, objective=["value", "retention"])
    value, kept = api.sweeping.state_of(made).confirmed.scores
    said = f"{value.n_items} test items and {kept.n_items} items of old skills, 95 % intervals"
    assert said in shown(open_page("sweeps", sweep=made.id))


def test_every_figure_is_that_of_its_data(open_page):
    made = write_sweep(objective=["difference", "retention"])
    state = api.sweeping.state_of(made)
    recipe = api.sweeping.recipe_of(made)
    first = [trial.scores[0].mean for trial in state.done]

    at = open_page("sweeps", sweep=made.id, view="Parallel")
    axes = chart(at, "parallel")["data"][0]["dimensions"]
    assert [axis["label"] for axis in axes] == ["r", "ratio", "lr", "difference", "retention"]
    assert axes[3]["values"] == pytest.approx(first)

    at = open_page("sweeps", sweep=made.id, view="Importance")
    assert chart(at, "importance")["data"][0]["x"] == [0.3, 0.7]

    at = open_page("sweeps", sweep=made.id, view="Best so far")
    assert chart(at, "best")["data"][1]["y"] == pytest.approx(np.maximum.accumulate(first))

    at = open_page("sweeps", sweep=made.id, view="Surface", surface_y="train.lr")
    surface = api.sweep_views.surface(recipe, state.done, "lora.r", "train.lr")
    assert surface.n.sum() == len(state.done)
    own = [t.scores[0].mean for t in state.done if t.values["lora.r"] == 4]
    column = np.nansum(surface.mean[:, 0] * surface.n[:, 0]) / surface.n[:, 0].sum()
    assert column == pytest.approx(np.mean(own))
    assert "the mean over the trials of a cell" in shown(at)

    at = open_page("sweeps", sweep=made.id, view="Pareto front")
    front = api.sweeping.front(recipe, state.done)
    assert sorted(chart(at, "front")["data"][1]["x"]) == sorted(t.scores[0].mean for t in front)


def test_a_small_rate_is_not_shown_as_0(open_page):
    made = write_sweep()
    (table,) = open_page("sweeps", sweep=made.id, view="Trials").dataframe
    assert 0 < table.value["train.lr"].min() < 5e-4
    assert json.loads(table.proto.columns)["train.lr"]["type_config"]["format"] == "%.3g"


def test_the_page_of_500_trials_is_drawn(open_page):
    made = write_sweep(n=500)
    for view in ("Trials", "Parallel", "Surface"):
        at = open_page("sweeps", sweep=made.id, view=view)
        assert not at.exception


def test_an_unknown_sweep_in_the_address_is_ignored(open_page):
    at = open_page("sweeps", sweep=HOSTILE)
    assert HOSTILE not in rendered(at)
    assert at.button("start-sweep")

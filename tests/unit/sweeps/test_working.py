"""A sweep from its first trial to its confirmation, with trainings that are only drawn."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from nuggets import api
from nuggets.cli.sweeps import _row
from nuggets.errors import BadInput, Cancelled
from nuggets.runs import results
from nuggets.statistics.intervals import Interval
from nuggets.sweeps import control, working
from nuggets.sweeps.search import Search
from nuggets.sweeps.trials import SweepState, SweepTrial, read_state, write_state
from nuggets.worker import run_in_foreground

RANKS = ["lora.r=8,20", "extraction.ratio=0.5,1", "seeds=[0,1]", "device=cpu"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Workers draw what they would train."""
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NUGGETS_PIPELINE", "sweep_pipeline:execute")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The home of a sweep that is at its end; tests that only look use it."""
    with pytest.MonkeyPatch.context() as patched:
        folder = tmp_path_factory.mktemp("finished")
        patched.setenv("NUGGETS_HOME", str(folder))
        patched.setenv("NUGGETS_PIPELINE", "sweep_pipeline:execute")
        patched.syspath_prepend(str(Path(__file__).parent))
        control.run(grid())
    return folder


@pytest.fixture
def made(finished, monkeypatch):
    """The finished sweep."""
    monkeypatch.setenv("NUGGETS_HOME", str(finished))
    return control.sweeps()[0]


def grid(**fields):
    return api.load_sweep("quick", RANKS, **{"sampler": "grid", "confirm": {"seeds": 3}} | fields)


def cells_of(trial):
    return api.cells(api.open_run(trial.run))


def test_the_winner_is_best_on_validation_items_and_no_trial_asks_a_test_item(made):
    state = control.state_of(made)
    assert [t.values for t in state.trials] == [
        {"lora.r": r, "extraction.ratio": ratio} for r in (8, 20) for ratio in (0.5, 1)
    ]
    # .3 + .02 · r · ratio minus .5, on 60 validation items
    wanted = [-0.12, -0.04, 0.0, 0.2]
    assert [t.scores[0].mean for t in state.trials] == pytest.approx(wanted, abs=0.01)
    asked = {item for trial in state.trials for cell in cells_of(trial) for item in cell.items}
    assert asked == {f"validation-{i}" for i in range(60)}
    assert {cell.arm for cell in cells_of(state.trials[0])} == {"plain", "paper"}
    found = state.confirmed
    assert found is not None
    assert found.trial == 3
    confirmed = api.cells(api.open_run(found.run))
    assert {item for cell in confirmed for item in cell.items} == {f"test-{i}" for i in range(80)}
    assert {cell.seed for cell in confirmed} == {2, 3, 4}
    assert {cell.arm for cell in confirmed} == {arm.name for arm in grid().base.arms}
    report = api.report(api.open_run(found.run))
    assert report is not None
    assert found.verdict == report.verdict
    assert found.selected == state.trials[3].scores
    assert found.optimism[0].mean == pytest.approx(
        found.selected[0].mean - found.scores[0].mean, abs=1e-9
    )
    assert [(gain.arm, gain.versus) for gain in found.gains] == [
        ("paper (winner)", "paper (default)"), ("paper (winner)", "plain (default)")]  # fmt: skip


def test_what_is_told_has_no_verdict_before_the_confirmation(made):
    sweep, state = grid(), control.state_of(made)
    before = control.sentences(sweep, state.model_copy(update={"confirmed": None}))
    assert before[0].startswith("Best so far on validation items: trial 3 (lora.r = 20")
    assert "not confirmed yet" in before[0]
    drawn = state.trials[3].model_copy(update={"values": {"train.lr": 0.00022014787858400686}})
    lost = state.trials[0].model_copy(update={"status": "failed", "reason": "No memory."})
    found = SweepState(trials=(lost, drawn))
    assert control.sentences(sweep, found)[0] == "One trial failed: No memory."
    assert "trial 3 (train.lr = 0.00022) with" in control.sentences(sweep, found)[1]
    after = control.sentences(sweep, state)
    assert after[0].startswith("Confirmed on 3 fresh seeds and 80 test items that no trial saw")
    assert state.confirmed is not None
    assert after[-1] == state.confirmed.verdict.sentence


def test_a_score_that_rounds_to_0_has_no_minus_sign():
    mean = Interval(mean=-0.0001, low=-0.0002, high=0.0, level=0.95, n_seeds=2, n_items=60)
    trial = SweepTrial(number=1, values={"lora.r": 8}, status="done", scores=(mean,))
    assert _row(grid(), trial)[-1] == "+0.000 [0.000, 0.000]"


@pytest.mark.parametrize("where", ["r-8-ratio-1", "confirmed"])
def test_a_killed_sweep_goes_on_with_no_trial_lost_and_none_made_twice(
    where, made, tmp_path, monkeypatch
):
    whole = control.state_of(made)
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    dies = tmp_path / "dies"
    dies.write_text(where)
    monkeypatch.setenv("SWEEP_DIES_IN", str(dies))
    again = control.create(grid())
    with pytest.raises(Cancelled):
        run_in_foreground(again, lambda event: None)
    assert again.status() == "cancelled"
    before = control.state_of(again)
    run_in_foreground(again, lambda event: None)
    after = control.state_of(again)
    assert [(t.values, t.scores) for t in after.trials] == [
        (t.values, t.scores) for t in whole.trials
    ]
    kept = {t.number: t.run for t in before.trials if t.run}
    assert kept
    assert {number: after.trials[number].run for number in kept} == kept
    assert len(api.runs()) == 4 + 2
    assert again.status() == "done"


@pytest.mark.parametrize("where", ["r-8-ratio-1", "confirmed"])
def test_a_sweep_whose_samples_changed_does_not_go_on(where, tmp_path, monkeypatch, jsonl):
    file = jsonl(tmp_path / "mine.jsonl", {f"{i} + 1 =": f"{i + 1}" for i in range(200)})
    own = [*RANKS, f"data.file={file}", "data.n_test=8", "train.lr_grid=[]"]
    dies = tmp_path / "dies"
    dies.write_text(where)
    monkeypatch.setenv("SWEEP_DIES_IN", str(dies))
    sweep = api.load_sweep("quick", own, sampler="grid", confirm={"seeds": 3})
    again = control.create(sweep)
    with pytest.raises(Cancelled):
        run_in_foreground(again, lambda event: None)
    file.write_text(file.read_text().replace("200", "201"))
    with pytest.raises(BadInput, match=r"its input changed: data\.file was"):
        run_in_foreground(again, lambda event: None)


def test_a_sweep_goes_on_on_the_device_that_it_began_on_or_not_at_all(monkeypatch):
    store, asked = control.store(), []
    sweep = api.load_sweep("quick", ["lora.r=8,20"])
    here = SimpleNamespace(devices=[SimpleNamespace(name=name) for name in ("cuda:0", "cpu")])
    monkeypatch.setattr("nuggets.planning.machine.diagnose", lambda: here)
    monkeypatch.setattr(working, "_work", lambda sweep, *others: asked.append(sweep))
    for device in ("cpu", "cuda:0"):
        made = store.create("sweep", control.dump_sweep(sweep), "sweep", device=f"sweep_{device}")
        run_in_foreground(made, lambda event: None)
        assert asked[-1].trial_recipe({"lora.r": 8}).device == device
        assert asked[-1].confirming_recipe({}, "default").device == device
    gone = store.create("sweep", control.dump_sweep(sweep), "sweep", device="sweep_cuda:7")
    with pytest.raises(BadInput, match=r"no device 'cuda:7'; it has cuda:0, cpu\."):
        run_in_foreground(gone, lambda event: None)


def test_a_kill_between_writing_a_trial_down_and_telling_optuna_costs_nothing(monkeypatch):
    tell = Search.tell
    told = []

    def dies(self, trial):
        told.append(trial.number)
        if len(told) == 3:
            raise KeyboardInterrupt
        tell(self, trial)

    monkeypatch.setattr(Search, "tell", dies)
    made = control.create(grid())
    with pytest.raises(Cancelled):
        run_in_foreground(made, lambda event: None)
    monkeypatch.setattr(Search, "tell", tell)
    run_in_foreground(made, lambda event: None)
    assert [t.number for t in control.state_of(made).trials] == list(range(4))
    assert len(api.runs()) == 4 + 2


WIDE = ["lora.r=2..16", "extraction.ratio=0.25..1", "train.lr=1e-4..1e-2:log"]


def proposed(sweep, folder, n, cut_at=None):
    """What a search proposes if trials are better at larger ranks; cut off once, if told so."""
    folder.mkdir(exist_ok=True)
    search, found = Search(sweep, folder), []
    for turn in range(n):
        number, values = search.ask()
        if turn == cut_at:  # by a kill that tore the journal's last line and left its lock
            with (folder / "journal.log").open("ab") as journal:
                journal.write(b'{"op_code":6,"wor')
            (folder / "journal.log.lock").symlink_to(folder / "journal.log")
            search = Search(sweep, folder)
            assert search.ask() == (number, values)
        mean = values.get("lora.r", 0) / 16
        gap = Interval(mean=mean, low=mean, high=mean, level=0.95, n_seeds=2, n_items=60)
        search.tell(SweepTrial(number=number, values=values, status="done", scores=(gap,)))
        found.append(values)
    return found, search


@pytest.mark.parametrize("sampler", ["random", "sobol", "tpe", "gp"])
def test_every_sampler_goes_on_after_a_kill_as_if_nothing_had_happened(sampler, tmp_path):
    sweep = api.load_sweep("quick", WIDE, sampler=sampler, trials=12)
    whole, _ = proposed(sweep, tmp_path / "whole", 12)
    cut, _ = proposed(sweep, tmp_path / "cut", 12, cut_at=11)
    assert cut == whole
    assert len({json.dumps(values) for values in whole}) == 12
    for values in whole:
        sweep.trial_recipe(values)


def test_importance_names_the_field_that_matters(tmp_path):
    sweep = api.load_sweep("quick", WIDE, sampler="random", trials=25)
    _, search = proposed(sweep, tmp_path, 25)
    (found,) = search.importance()
    assert found["lora.r"] > 3 * found["train.lr"]


def test_equal_trials_are_one_run_and_a_base_that_wins_is_confirmed_once():
    settings = ["lora.r=8,16", "seeds=[0,1]", "device=cpu"]
    sweep = api.load_sweep("quick", settings, sampler="random", trials=6)
    state = control.state_of(control.run(sweep))
    assert len(state.done) == 6
    assert {t.values["lora.r"] for t in state.trials} == {8, 16}
    assert len({t.run for t in state.trials}) == 2
    assert sum(t.seconds == 0 for t in state.trials) == 4
    found = state.confirmed
    assert found is not None
    assert found.run == found.default_run
    assert found.gains == ()
    assert len(api.runs()) == 2 + 1


def test_a_trial_that_diverges_is_told_and_the_others_go_on(monkeypatch):
    monkeypatch.setenv("SWEEP_DIVERGES", "8")
    sweep = grid()
    state = control.state_of(control.run(sweep))
    assert [t.status for t in state.trials] == ["failed", "failed", "done", "done"]
    assert state.trials[0].reason == "The training diverged at step 3."
    assert any("2 trials failed" in said for said in control.sentences(sweep, state))


def test_a_sweep_whose_trials_all_fail_says_why(monkeypatch):
    monkeypatch.setenv("SWEEP_DIVERGES", "4")
    settings = ["extraction.ratio=.5,1", "lora.r=4", "device=cpu"]
    sweep = api.load_sweep("quick", settings, sampler="grid")
    with pytest.raises(BadInput, match=r"All 2 trials failed\. The first one: The training d"):
        control.run(sweep)


def test_hours_end_the_search_and_never_the_confirmation():
    sweep = grid(max_hours=1e-9)
    state = control.state_of(control.run(sweep))
    assert len(state.trials) == 1
    assert "ended after 1 trials" in state.stopped
    assert state.confirmed is not None


def test_max_trials_caps_a_search():
    assert api.load_sweep("quick", RANKS, sampler="random", trials=9, max_trials=2).n_trials == 2
    assert api.load_sweep("quick", RANKS).n_trials == 24


def test_a_sweep_from_elsewhere_does_not_run(tmp_path):
    made = control.create(grid())
    made.folder.joinpath("recipe.yaml").write_text(made.recipe_text().replace("quick", "slow"))
    with pytest.raises(BadInput, match="was not made here"):
        run_in_foreground(made, lambda event: None)


def test_the_winner_becomes_a_recipe_with_everything_of_the_base(made):
    control.promote(made, "tuned")
    found = api.load_recipe("tuned")
    assert (found.lora.r, found.extraction.ratio) == (20, 1.0)
    assert found.arms == grid().base.arms
    assert found.data.items == "test"


@pytest.mark.parametrize(
    ("name", "content"), [("sweep.json", "{"), ("sweep.jsonl", "{\n"), ("sweep.jsonl", "[]\n")]
)
def test_a_damaged_state_is_one_sentence(name, content):
    made = control.create(grid())
    (made.folder / name).write_text(content)
    with pytest.raises(BadInput, match="Its trials are ordinary runs"):
        read_state(made.folder)


def test_a_step_adds_one_line_of_what_changed_to_what_earlier_versions_wrote(tmp_path):
    trials = tuple(SweepTrial(number=n, values={"lora.r": n}) for n in range(300))
    old = SweepState(trials=trials[:299], seconds=1.0)
    (tmp_path / "sweep.json").write_text(old.model_dump_json())
    assert read_state(tmp_path) == old
    done = trials[7].model_copy(update={"status": "done", "run": "a"})
    state = old.with_trial(trials[299]).with_trial(done).model_copy(update={"seconds": 2.0})
    write_state(tmp_path, state, [trials[299], done])
    assert read_state(tmp_path) == state
    assert [t.number for t in state.trials] == list(range(300))
    before = (tmp_path / "sweep.jsonl").stat().st_size
    state = state.model_copy(update={"stopped": "Enough."})
    write_state(tmp_path, state, ())
    assert (tmp_path / "sweep.jsonl").stat().st_size - before < 200
    assert read_state(tmp_path) == state


def test_a_line_that_is_torn_or_being_written_costs_that_step_alone(tmp_path):
    first, second = (SweepTrial(number=n, values={}) for n in range(2))
    write_state(tmp_path, SweepState(trials=(first,)))
    with (tmp_path / "sweep.jsonl").open("ab") as journal:
        journal.write(b'{"trials":[{"number":1,"val')
    assert read_state(tmp_path).trials == (first,)
    state = SweepState(trials=(first, second))
    write_state(tmp_path, state, [second])
    assert read_state(tmp_path) == state


def test_without_optuna_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"pip install 'nuggets\[sweep\]'"):
        control.create(grid())
    assert "pip install 'nuggets[sweep]'" in api.plan_sweep(grid()).refusals[0]


def test_the_outlook_adds_up_trials_and_confirmation():
    found = api.plan_sweep(grid())
    assert found.refusals == ()
    assert (found.n_trials, found.n_trainings) == (4, 4 * 2 * 2)
    assert found.seen_in_search is not None
    assert found.seen_in_confirmation is not None
    assert found.seen_in_confirmation.value != found.seen_in_search.value
    refused = api.plan_sweep(api.load_sweep("quick", ["lora.r=4,4096"], sampler="grid"))
    assert "Rank 4096 is too large" in refused.refusals[0]


def test_results_of_a_trial_open_as_those_of_any_run(made):
    state = control.state_of(made)
    report = results.report(api.open_run(state.trials[0].run))
    assert report is not None
    assert report.verdict.kind == "not_proven"

"""An experiment of one's own: `nuggets paper ./mine.yaml` works like a shipped one, or says why."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest
import yaml

from nuggets import api
from nuggets.disk.home import nuggets_home
from nuggets.errors import BadInput, NuggetsError
from nuggets.runs import fan_out
from nuggets.studies import making
from nuggets.studies.documents import save_study, study_html, study_markdown
from nuggets.studies.shipped import study_recipes
from tests.unit.runs.test_fan_out import Threads
from tests.unit.studies.test_studies import finish

RECIPE = {
    "teacher": "teacher",
    "student": "independent",
    "data": {"task": "reverse", "n_train": 32, "n_test": 40, "old_skills": ["add"]},
    "arms": [{"kind": "plain"}, {"kind": "paper"}, {"kind": "permuted"}],
    "seeds": [0, 1, 2],
    "device": "cpu",
}
RUNS = [{"name": "4", "x": 4, "set": ["lora.r=4"]}, {"name": "8", "x": 8, "set": ["lora.r=8"]}]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))


@pytest.fixture
def mine(tmp_path):
    """`mine(name="x", runs=…)`: the file of an experiment with these fields."""

    def write(**fields):
        tree = {"name": "mine", "title": "Two ranks", "question": "Which rank?", "recipe": RECIPE,
                "runs": RUNS, "layout": "levels", "axis": "rank r"} | fields  # fmt: skip
        path = tmp_path / "files" / "mine.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump({k: v for k, v in tree.items() if v is not None}))
        return path

    return write


def with_recipe(**fields):
    return {"recipe": {**RECIPE, **fields}}


def report_of(path, changes=()):
    for recipe in study_recipes(api.open_study(path), changes).values():
        finish(api.create(recipe), {"paper": 0.9})
    report = api.study_report(path, changes)
    assert report is not None
    return report


@pytest.mark.parametrize("layout", ["levels", "retention"])
def test_a_file_gives_what_a_shipped_experiment_gives(layout, mine, tmp_path):
    path = mine(layout=layout)
    report = report_of(path)
    assert [panel.name for panel in report.panels] == ["4", "8"]
    assert report.command == f"nuggets paper {path}"
    assert str(tmp_path) not in report.study.model_dump_json()
    files = {file.name for file in save_study(report, tmp_path / "out")}
    assert files == {"mine.md", "mine.svg", "mine.json", "README.md"}
    index = (tmp_path / "out" / "README.md").read_text()
    assert "[mine](mine.md)" in index
    assert "paper" not in index.splitlines()[2]
    assert "data:image/svg+xml" in study_html(report)


def test_a_file_runs_whole_and_a_second_time_computes_nothing(mine, nuggets, tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_PIPELINE", "sweep_pipeline:execute")  # draws what it would train
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "sweeps"))
    path = mine()
    found = nuggets("paper", path, "--out", tmp_path / "out", "--json").json
    assert [panel["name"] for panel in found["panels"]] == ["4", "8"]
    assert found["missing"] == []
    made = {run.id for run in api.runs()}
    again = nuggets("paper", path, "--out", tmp_path / "out")
    assert again.code == 0
    assert "Two ranks" in again.out
    assert {run.id for run in api.runs()} == made


def test_runs_spread_over_an_engine_that_takes_several(mine, monkeypatch):
    monkeypatch.setenv("NUGGETS_PIPELINE", "sweep_pipeline:execute")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "sweeps"))
    alone = api.run_study(mine())
    for run in api.runs():
        run.delete()
    monkeypatch.setattr(fan_out, "chosen", Threads)
    monkeypatch.setattr(fan_out, "POLL_S", 0.01)
    told = []
    spread = api.run_study(mine(), on_run=lambda *place: told.append(place))
    assert told == [("4", 0, 2), ("8", 1, 2), ("", 2, 2)]
    assert [p.report for p in spread.panels] == [p.report for p in alone.panels]
    made = {run.id for run in api.runs()}
    assert len(made) == 2
    pools = api.calibration_runs(2)
    assert [run.status() for run in pools] == ["done"] * 4
    assert {run.id for run in api.calibration_runs(2)} == {run.id for run in pools}


def test_a_run_that_fails_on_an_engine_is_named_with_its_reason(mine, monkeypatch):
    monkeypatch.setenv("NUGGETS_PIPELINE", "sweep_pipeline:execute")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "sweeps"))
    monkeypatch.setenv("SWEEP_DIVERGES", "8")
    monkeypatch.setattr(fan_out, "chosen", Threads)
    monkeypatch.setattr(fan_out, "POLL_S", 0.01)
    with pytest.raises(NuggetsError, match="ended as failed: The training diverged at step 3"):
        api.run_study(mine())


def test_a_copy_of_every_shipped_file_works_under_another_name(tmp_path):
    folder = resources.files("nuggets") / "recipes" / "paper"
    path = tmp_path / "copy.yaml"
    for file in folder.iterdir():
        path.write_text(file.read_text())
        with pytest.raises(BadInput, match="comes with Nuggets; give it another name"):
            api.open_study(path)
        shipped = yaml.safe_load(file.read_text())
        path.write_text(yaml.safe_dump(shipped | {"name": "copy"}))
        ours, theirs = (study_recipes(api.open_study(name)) for name in (path, shipped["name"]))
        assert [r.model_copy(update={"name": ""}) for r in ours.values()] == [
            r.model_copy(update={"name": ""}) for r in theirs.values()
        ]


def test_the_documented_example_opens(tmp_path, jsonl):
    text = (Path(__file__).parents[3] / "docs" / "command-line.md").read_text()
    (tmp_path / "mine.yaml").write_text(re.search(r"```yaml\n(name: .*?)```", text, re.S)[1])
    jsonl(tmp_path / "samples.jsonl", {f"{i} + 1": f"{i + 1}" for i in range(40)})
    recipes = study_recipes(api.open_study(tmp_path / "mine.yaml"))
    assert {run: recipe.lora.r for run, recipe in recipes.items()} == {"4": 4, "16": 16}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"recipe": None}, "it has no field recipe"),
        ({"runs": []}, "runs: Tuple should have at least 1 item"),
        ({"runs": [RUNS[0], RUNS[0]]}, "two runs of the experiment have the same name"),
        ({"name": "../../x"}, "name: String should match pattern"),
        ({"name": "README"}, "cannot be called README, which means something else"),
        ({"models": {"../x": {"teacher": "teacher", "sizes": {}}}}, "models.../x"),
        ({"layout": "pie"}, "layout: Input should be"),
        ({"title": "a\x07b"}, "title: the text is too long, or cannot be printed"),
        ({"colour": "red"}, "there is no field colour"),
        ({"focus": "gaussian"}, "has focus: gaussian, but its run '4' has the arms plain, paper"),
        ({"versus": "random"}, "has versus: random, but its run '4' has the arms"),
        ({"layout": "matrix"}, "has focus: 4, but"),
        (with_recipe(seeds="many"), "The run '4' of the experiment mine: The recipe is not"),
        (with_recipe(teacher="{small}"), "no model {small} is made by the experiment; none is"),
        (
            {"layout": "retention", **with_recipe(data={"task": "sub", "old_skills": []})},
            "measures no old skill; name some in data.old_skills",
        ),
        (
            {"runs": [*RUNS, {"name": "l", "set": ["data.metric=loss"]}]},
            "judged by different metrics (exact_match, loss)",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence_and_starts_nothing(fields, said, mine, nuggets):
    ended = nuggets("paper", mine(**fields))
    assert ended.code == 2
    assert said in " ".join(ended.err.split())
    assert "Traceback" not in ended.err
    assert api.runs() == []


def test_a_run_that_cannot_work_is_refused_before_the_first_one_is_made(mine):
    wide = {"name": "wide", "x": 9999, "set": ["lora.r=9999"]}
    with pytest.raises(BadInput, match="Rank 9999 is too large"):
        api.run_study(mine(runs=[*RUNS, wide]))
    assert api.runs() == []


def test_paths_in_a_file_are_seen_from_its_folder_and_changes_from_here(
    mine, jsonl, tmp_path, monkeypatch
):
    sums = {f"{i} + 1": f"{i + 1}" for i in range(40)}
    path = mine(runs=[{"name": "own", "set": ["data.file=own.jsonl"]}], layout="arms")
    own = jsonl(path.parent / "own.jsonl", sums)
    (recipe,) = study_recipes(api.open_study(path)).values()
    assert recipe.data.file == str(own)
    here = jsonl(tmp_path / "here.jsonl", sums)
    monkeypatch.chdir(tmp_path)
    (recipe,) = study_recipes(api.open_study(path), ["data.file=here.jsonl"]).values()
    assert recipe.data.file == str(here)


def test_a_strangers_file_uses_nothing_that_nobody_allowed(mine, jsonl, tmp_path, nuggets):
    bank = jsonl(tmp_path / "bank.jsonl", {f"{i} + 1": f"{i + 1}" for i in range(40)})
    models = {"small": {"teacher": "org/secret", "sizes": {"n_layers": 2}}}
    runs = [
        {"name": "data", "set": [f"data.file={bank}"]},
        {"name": "model", "set": ["teacher='{small}'"]},
    ]
    path = mine(runs=runs, models=models, layout="arms")
    ended = nuggets("paper", path)
    assert ended.code == 2
    assert f"wants to read {bank}" in ended.err
    assert f"nuggets allow {path} {bank} org/secret" in ended.err
    with pytest.raises(BadInput, match="org/secret"):
        api.study_report(mine(runs=runs[1:], models=models))
    path = mine(runs=runs, models=models, layout="arms")
    wanted = {want.name for want in api.strangers.wanted_by(str(path))}
    assert wanted == {str(bank), "org/secret"}
    assert nuggets("allow", path, bank, "org/secret").code == 0
    assert api.open_study(path).runs[0].name == "data"
    assert not (nuggets_home() / "models").exists()


def test_models_that_no_run_uses_are_not_made(mine, monkeypatch):
    models = {"small": {"teacher": "teacher", "sizes": {"n_layers": 2}}}
    made = []
    monkeypatch.setattr(making, "_make_model", lambda study, name: made.append(name))
    monkeypatch.setattr(making, "check_can_work", lambda job: "cpu")
    monkeypatch.setattr(making, "_finished_here", lambda recipe, heard: finish(api.create(recipe)))
    api.run_study(mine(models=models))
    assert made == []


def test_words_of_a_strangers_file_fetch_nothing_and_stay_text(mine):
    hostile = (
        "<img src=x onerror=alert(1)> ![a](http://evil.example/b.png) [c](http://evil.example)"
    )
    report = report_of(mine(question=hostile, notes=[hostile], axis=hostile))
    page = study_html(report)
    assert "<img src=x" not in page
    assert 'src="http' not in page
    assert "<a " not in page
    assert page.count("<img") == 1
    assert "onerror" in study_markdown(report)

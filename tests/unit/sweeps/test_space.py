"""Spaces: what is read, what is searched, and every kind of bad input as one sentence."""

from __future__ import annotations

import pytest

from nuggets.errors import BadInput
from nuggets.recipe import load_recipe
from nuggets.sweeps.recipe import dump_sweep, load_sweep, parse_sweep, parse_sweep_text
from nuggets.sweeps.space import (
    Dimension,
    points,
    read_setting,
    suggested,
    sweepable,
    with_values,
    written,
)

GRID = {"lora.r": {"values": [4, 8]}, "extraction.ratio": {"values": [0.5, 1.0]}}


@pytest.mark.parametrize(
    ("text", "field", "given"),
    [
        ("lora.r=4,8,16", "lora.r", {"values": [4, 8, 16]}),
        ("extraction.ratio=.25..1", "extraction.ratio", {"low": 0.25, "high": 1}),
        ("train.lr=1e-4..1e-2:log", "train.lr", {"low": 1e-4, "high": 1e-2, "log": True}),
        ("lora.r=4..16:4", "lora.r", {"low": 4, "high": 16, "step": 4}),
        ("train.lr=1e-3,3e-3", "train.lr", {"values": [1e-3, 3e-3]}),
        ("extraction.matrices.kind=window,rows", "extraction.matrices.kind",
         {"values": ["window", "rows"]}),
        ("lora.svd=exact,randomized when lora.r=8", "lora.svd",
         {"values": ["exact", "randomized"], "when": {"lora.r": 8}}),
        ("train.lr_grid=[0.1],[0.1, 0.2]", "train.lr_grid", {"values": [[0.1], [0.1, 0.2]]}),
    ],
)  # fmt: skip
def test_what_is_searched_is_read_and_written_again(text, field, given):
    found = read_setting(text)
    assert found == (field, Dimension.model_validate(given))
    assert read_setting(f"{field}={written(found[1])}") == found


@pytest.mark.parametrize(
    "text", ["lora.r=8", "seeds=[0, 1]", "arms=[{kind: plain}, {kind: paper}]", "data.task=sub"]
)
def test_one_value_is_no_search(text):
    assert read_setting(text) is None


def test_a_condition_leaves_a_field_out_where_it_does_not_hold():
    space = {
        "lora.r": Dimension(values=(4, 8)),
        "lora.svd": Dimension(values=("exact", "randomized"), when={"lora.r": 8}),
    }
    assert list(points(space)) == [
        {"lora.r": 4},
        {"lora.r": 8, "lora.svd": "exact"},
        {"lora.r": 8, "lora.svd": "randomized"},
    ]


def test_a_new_kind_drops_the_old_parameters_and_takes_its_own():
    base = load_recipe("quick", ["extraction.layers={kind: random, seed: 3}"])
    found = with_values(base, {"extraction.layers.kind": "first"})
    assert found.extraction.layers.model_dump() == {"kind": "first"}
    found = with_values(base, {"extraction.layers.kind": "random", "extraction.layers.seed": 5})
    assert found.extraction.layers.model_dump() == {"kind": "random", "seed": 5}


def test_every_field_that_is_offered_can_be_searched_with_what_is_suggested():
    base = load_recipe("quick")
    fields = sweepable(base)
    assert {"lora.r", "extraction.ratio", "train.lr", "extraction.matrices.kind"} <= set(fields)
    assert not {"seeds", "data.task", "data.n_test", "teacher", "arms", "name"} & set(fields)
    for field in ("lora.r", "extraction.ratio", "train.lr", "train.steps", "data.n_train"):
        sweep = load_sweep("quick", [f"{field}={suggested(base, field)}"], sampler="grid")
        assert sweep.n_trials == 3
    for field in ("extraction.matrices.kind", "lora.svd", "train.schedule"):
        found = read_setting(f"{field}={suggested(base, field)}")
        assert found is not None
        assert fields[field] in found[1].values
        assert len(found[1].values) > 1
    for field in fields:
        assert suggested(base, field)


def test_what_is_suggested_stays_within_the_bounds_of_the_field():
    base = load_recipe("quick", ["extraction.ratio=0.74", "train.lr=0.003"])
    assert suggested(base, "extraction.ratio") == "0.37,0.74,1"
    assert suggested(base, "train.lr") == "0.0015,0.003,0.006"


def tree(**fields):
    return {"base": load_recipe("quick"), "space": GRID, **fields}


BAD = {
    "no field": (tree(space={}), "at least one field"),
    "unknown field": (tree(space={"lora.q": {"values": [1, 2]}}), "there is no field lora.q"),
    "unknown group": (tree(space={"lorra.r": {"values": [1, 2]}}), "there is no field lorra"),
    "below a value": (tree(space={"lora.r.x": {"values": [1, 2]}}), "lora.r has no fields"),
    "wrong value": (tree(space={"lora.r": {"values": [4, "eight"]}}), "lora.r: Input should be"),
    "a corner outside": (tree(space={"extraction.ratio": {"low": 0.5, "high": 2}}),
                         "extraction.ratio: Input should be less than or equal to 1"),
    "fractions of a rank": (tree(space={"lora.r": {"low": 0.5, "high": 4}}), "lora.r: Input"),
    "both kinds": (tree(space={"lora.r": {"values": [4], "low": 1, "high": 2}}), "either values"),
    "neither kind": (tree(space={"lora.r": {}}), "give either values, or low and high"),
    "one end": (tree(space={"lora.r": {"low": 4}}), "both low and high"),
    "ends crossed": (tree(space={"lora.r": {"low": 8, "high": 4}}), "low must be below high"),
    "log of 0": (tree(space={"train.lr": {"low": 0, "high": 1, "log": True}}), "lies above 0"),
    "log with step": (tree(space={"train.lr": {"low": 1, "high": 2, "log": True, "step": 1}}),
                      "has no step"),
    "huge step": (tree(space={"lora.r": {"low": 4, "high": 8, "step": 9}}), "larger than the"),
    "value twice": (tree(space={"lora.r": {"values": [4, 4]}}), "listed twice"),
    "step of values": (tree(space={"lora.r": {"values": [4, 8], "step": 2}}), "belong to a range"),
    "not finite": (tree(space={"train.lr": {"low": 1e-3, "high": float("inf")}}), "not finite"),
    "a typo in it": (tree(space={"lora.r": {"value": [4]}}), "no field space.lora.r.value"),
    "no range": (tree(space={"lora.r": "4..8"}), "space.lora.r"),
    "test items": (tree(space={"data.n_test": {"values": [40, 80]}}), "it says what is counted"),
    "another task": (tree(space={"data.task": {"values": ["sub", "add"]}}), "lies outside"),
    "another model": (tree(space={"teacher": {"values": ["a", "b"]}}), "lies outside the recipe"),
    "files": (tree(space={"data.file": {"values": ["/etc/passwd", "x"]}}), "lies outside"),
    "files in a strategy": (
        tree(space={"sensitivity.score": {"values": [
            {"kind": "specific", "against": ["/etc/passwd"]}, {"kind": "theta_grad"}]}}),
        "names what lies outside"),
    **{f"written as {field!r}": (tree(space={field: {"values": ["/etc/passwd", "x"]}}), said)
       for field, said in {
           "data. file": "'data. file' is no field", " teacher": "is no field",
           "data .train": "is no field", "teacher=a": "is no field", "teacher\n": "is no field",
           "data.": "is no field", "": "is no field", "data.seeds": "old name of data.seed_samples",
       }.items()},
    "a section": (tree(space={"train": {"values": [{"steps": 5}, {"steps": 9}]}}),
                  "train cannot be searched: it is a whole section, of which each field is "
                  "searched by itself, such as train.steps"),
    "a section with a task": (tree(space={"data": {"values": [{"task": "sub"}, {"task": "add"}]}}),
                              "data cannot be searched: it is a whole section"),
    "seeds": (tree(space={"seeds": {"values": [[0], [1]]}}), "has the seeds of the base"),
    "arms": (tree(space={"arms": {"values": [[], []]}}), "listed twice"),
    "the name": (tree(space={"name": {"values": ["a", "b"]}}), "it changes nothing"),
    "condition upwards": (tree(space={"lora.svd": {"values": ["exact", "randomized"],
                                                   "when": {"lora.r": 8}}, **GRID}),
                          "not a field that is searched above it"),
    "condition on a range": (tree(space={"lora.r": {"low": 4, "high": 8},
                                         "lora.svd": {"values": ["exact"], "when": {"lora.r": 4}}}),
                             "which has a range"),
    "condition never": (tree(space={**GRID, "lora.svd": {"values": ["exact", "randomized"],
                                                         "when": {"lora.r": 5}}}), "never holds"),
    "endless grid": (tree(space={"extraction.ratio": {"low": 0.5, "high": 1}}, sampler="grid"),
                     "a grid needs a step or values"),
    "part of a grid": (tree(sampler="grid", trials=3), "the grid has 4 points, but 3 trials"),
    "capped grid": (tree(sampler="grid", max_trials=2), "the grid has 4 points, but 2 trials"),
    "sampler": (tree(sampler="annealing"), "not one of grid, random, sobol, tpe, gp"),
    "objective": (tree(objective="speed"), "objective.0: Input should be 'value'"),
    "three objectives": (tree(objective=["value", "difference", "retention"]), "one objective, or"),
    "same objective": (tree(objective=["value", "value"]), "two different ones"),
    "trials": (tree(trials=0), "trials: Input should be greater than 0"),
    "too many trials": (tree(trials=6000), "at most 5,000"),
    "hours": (tree(max_hours=-1), "max_hours: Input should be greater than 0"),
    "two seeds": (tree(confirm={"seeds": 2}), "confirm.seeds: Input should be greater than or"),
    "arm": (tree(arm="papier"), "the base has no arm 'papier'"),
    "idle arm": (tree(arm="vanilla", objective="value"), "does not train"),
    "no treatment": (tree(base=load_recipe("quick", ["arms=[{kind: plain}]"])), "no treatment"),
    "no baseline": (tree(base=load_recipe("quick", ["arms=[{kind: paper}]"])), "needs the arm"),
    "no old skill": (tree(base=load_recipe("quick", ["data.old_skills=[]"]), objective="retention"),
                     "needs old skills"),
    "validation base": (tree(base=load_recipe("quick", ["data.items=validation"])), "must be test"),
    "prune": (tree(prune=True), "prune: Input should be a valid dictionary"),
    "unknown option": (tree(hyperband=True), "there is no field hyperband"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_before_anything_starts(name):
    given, said = BAD[name]
    with pytest.raises(BadInput) as refused:
        parse_sweep(given)
    text = str(refused.value)
    assert said in text
    assert text.startswith("The sweep is not valid: ")
    assert text.endswith(".")
    assert "\n" not in text


def test_a_sweep_comes_back_from_its_yaml():
    sweep = load_sweep(
        "quick",
        ["train.lr=1e-4..1e-2:log", "lora.r=4,8", "lora.svd=exact,randomized when lora.r=8"],
        objective=["value", "retention"], max_hours=2.0, trials=7, confirm={"seeds": 5},
    )  # fmt: skip
    assert parse_sweep_text(dump_sweep(sweep)) == sweep
    assert list(parse_sweep_text(dump_sweep(sweep)).space) == list(sweep.space)


def test_a_file_names_its_base_or_holds_it(tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    (tmp_path / "mine.yaml").write_text("lora: {r: 4}\ndata: {task: sub}\n")
    for base in ("quick", "mine.yaml", "{lora: {r: 4}, data: {task: sub}}"):
        path = tmp_path / "sweep.yaml"
        path.write_text(f"job: sweep\nbase: {base}\nspace: {{lora.r: {{values: [4, 8]}}}}\n")
        sweep = load_sweep(path, ["extraction.ratio=.5,1", "train.steps=5"], sampler="grid")
        assert sweep.n_trials == 4
        assert sweep.base.train.steps == 5
        assert sweep.base.data.task == ("reverse" if base == "quick" else "sub")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("job: sweep\nspace: {lora.r: {values: [4, 8]}}", "has no base"),
        ("job: sweep\nbase: [1]\nspace: {}", "has no base"),
        ("job: sweep\nbase: quick\nspace: [lora.r]", "space: Input should be a valid dictionary"),
        ("job: sweep\nbase: quick\nspace: {1: {values: [4, 8]}}", "space.1"),
        ("job: sweep\nbase: quick", "give at least one field"),
        ("job: sweep\nbase: nowhere.yaml\nspace: {}", "There is no recipe"),
        ("job: sweep\nbase: {job: align, teacher: a, student: b}", "is a align job"),
        ("job: sweep\nbase: {lora: {q: 3}}", "there is no field lora.q"),
        ("job: sweep\nbase: quick\nspace: {lora.r: [", "not valid YAML"),
        ("job: align\nteacher: a\nstudent: b", "contains a align job"),
    ],
)
def test_a_file_that_is_no_sweep_is_one_sentence(tmp_path, monkeypatch, text, said):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(BadInput) as refused:
        load_sweep(path)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_strangers_file_uses_nothing_that_was_not_allowed(tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    path = tmp_path / "theirs" / "sweep.yaml"
    path.parent.mkdir()
    base = "{student: /private/model, data: {file: /private/bank.jsonl}}"
    path.write_text(f"job: sweep\nbase: {base}\nspace: {{lora.r: {{values: [4, 8]}}}}\n")
    with pytest.raises(BadInput, match=r"wants to .*load the model /private/model"):
        load_sweep(path)
    from nuggets.workspace import strangers

    wants = [want.name for want in strangers.wanted_by(str(path))]
    assert set(wants) == {"/private/model", "/private/bank.jsonl"}
    strangers.allow(str(path), wants)
    assert load_sweep(path).base.student == "/private/model"


def test_a_trial_does_nothing_that_its_objective_does_not_need():
    settings = ["lora.r=4,8", "benchmarks=[{kind: skill, skill: sub}]"]
    trial = load_sweep("quick", settings).trial_recipe({"lora.r": 4})
    assert [arm.name for arm in trial.arms] == ["plain", "paper"]
    assert (trial.data.old_skills, trial.train.evaluate_every, trial.benchmarks) == ((), 0, ())
    kept = load_sweep("quick", settings, objective="retention").trial_recipe({"lora.r": 4})
    assert [arm.name for arm in kept.arms] == ["paper"]
    assert kept.data.old_skills is None

"""A recipe or run that was not made here touches nothing that nobody here allowed by name."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from nuggets import api
from nuggets.disk.home import nuggets_home, runs_dir
from nuggets.errors import BadInput
from nuggets.worker import run_in_foreground


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def private(jsonl, tmp_path):
    """Samples of the user's, beside no recipe."""
    (tmp_path / "private").mkdir()
    return jsonl(tmp_path / "private" / "bank.jsonl", {f"{i} + 1": f"{i} = 2" for i in range(40)})


@pytest.fixture
def theirs(tmp_path):
    """`theirs(teacher="/models/x")`: a recipe in a folder of its own, with these fields."""

    def write(**fields) -> Path:
        path = tmp_path / "theirs" / "recipe.yaml"
        path.parent.mkdir(exist_ok=True)
        tree = yaml.safe_load(api.shipped_recipes()["quick"])
        path.write_text(yaml.safe_dump(tree | {"device": "cpu"} | fields))
        return path

    return write


def stranger(run) -> None:
    """As if the run's folder had been made on another machine."""
    shutil.rmtree(runs_dir() / ".own")


ENDPOINT = {"kind": "endpoint", "url": "https://judge.example/v1", "model": "j"}


def test_every_command_refuses_a_file_outside_the_recipes_folder(nuggets, theirs, private):
    recipe = theirs(data={"file": str(private)})
    for command in ("run", "start", "plan"):
        ended = nuggets(command, recipe)
        assert ended.code == 2, command
        assert f"wants to read {private}" in ended.err
        assert f"nuggets allow {recipe} {private}" in ended.err
    assert api.runs() == []


def test_models_data_sets_and_the_hub_are_each_named(nuggets, theirs, tiny):
    data = {"seed_samples": "org/secret:train", "train": "org/b:train", "test": "org/b:test"}
    asked = [{"kind": "gsm8k", "shots": 8}]
    recipe = theirs(teacher=str(tiny()), student="org/name@main", data=data, benchmarks=asked)
    listed = nuggets("allow", recipe, "--json").json
    assert {each["name"]: each["what"] for each in listed} == {
        str(tiny()): "load the model",
        "org/name@main": "ask the hub for the model",
        "org/secret:train": "ask the hub for the data set",
        "org/b:train": "ask the hub for the data set",
        "org/b:test": "ask the hub for the data set",
        "openai/gsm8k:main/test": "ask the hub for the data set",
        "openai/gsm8k:main/train": "ask the hub for the data set",
    }
    ended = nuggets("run", recipe)
    assert ended.code == 2
    assert all(each["name"] in ended.err for each in listed)


def test_a_yes_names_all_of_it_and_counts_for_what_it_names_alone(nuggets, theirs, private, tiny):
    recipe = theirs(data={"file": str(private)}, teacher=str(tiny()))
    assert "also wants to load the model" in nuggets("allow", recipe, private).err
    assert "does not ask for" in nuggets("allow", recipe, private, tiny(), "/etc").err
    assert nuggets("run", recipe).code == 2
    assert nuggets("allow", recipe, private, tiny()).code == 0
    assert api.load_recipe(recipe).data.file == str(private)
    other = theirs(data={"file": str(private)}, teacher=str(tiny()), student="org/other")
    assert "org/other" in nuggets("run", other).err
    assert [want.name for want in api.strangers.wanted_by(str(other))] == ["org/other"]
    assert nuggets("allow", other, private, tiny(), "org/other").code == 0
    assert api.load_recipe(other).student == "org/other"


def test_what_is_advised_is_taken_whatever_was_set_beside_the_file(nuggets, theirs, private, tiny):
    recipe = theirs(data={"file": str(private)}, teacher="org/theirs")
    own = ("--set", f"student={tiny()}", "--set", f"teacher={tiny()}")
    ended = nuggets("plan", recipe, *own)
    assert ended.code == 2
    advice = shlex.split(re.search(r"run `nuggets (allow .*?)`", ended.err.replace("\n", " "))[1])
    assert advice == ["allow", str(recipe), "org/theirs", str(private)]
    assert nuggets(*advice).code == 0
    assert "was not made here" not in nuggets("plan", recipe, *own).err


def test_a_file_that_is_no_recipe_by_itself_can_be_allowed(nuggets, theirs, private):
    recipe = theirs(data={"file": str(private)}, lora={"r": -1})
    advice = re.search(
        r"run `nuggets (allow .*?)`", nuggets("plan", recipe, "--set", "lora.r=2").err
    )
    assert nuggets(*shlex.split(advice[1])).code == 0
    assert "was not made here" not in nuggets("plan", recipe, "--set", "lora.r=2").err


def test_a_file_that_was_allowed_may_be_edited_but_a_yes_is_to_one_use_in_one_file(
    nuggets, theirs, private, tiny
):
    recipe = theirs(data={"file": str(private)})
    assert nuggets("allow", recipe, private).code == 0
    edited = theirs(data={"file": str(private)}, train={"steps": 3})
    assert api.load_recipe(edited).train.steps == 3
    with pytest.raises(BadInput, match="wants to load the model"):
        api.load_recipe(theirs(data={"file": str(private)}, teacher=str(private)))
    elsewhere = edited.parent.with_name("others") / edited.name
    elsewhere.parent.mkdir()
    shutil.copy(theirs(data={"file": str(private)}), elsewhere)
    with pytest.raises(BadInput, match="wants to read"):
        api.load_recipe(elsewhere)


def test_what_lies_beside_the_recipe_came_with_it_but_no_link_and_nothing_hidden(
    theirs, jsonl, private
):
    beside = theirs().parent / "own.jsonl"
    jsonl(beside, {f"{i} + 2": f"{i}" for i in range(40)})
    assert api.load_recipe(theirs(data={"file": "own.jsonl"})).data.file == str(beside)
    (beside.parent / "link.jsonl").symlink_to(private)
    (beside.parent / ".ssh").mkdir()
    shutil.copy(beside, beside.parent / ".ssh" / "key.jsonl")
    for name in ("link.jsonl", ".ssh/key.jsonl", "../private/bank.jsonl"):
        with pytest.raises(BadInput, match="wants to read"):
            api.load_recipe(theirs(data={"file": name}))


def test_what_a_person_names_on_the_command_line_needs_no_other_yes(theirs, private, tiny):
    given = [f"data.file={json.dumps(str(private))}", f"teacher={json.dumps(str(tiny()))}"]
    assert api.load_recipe(theirs(teacher="org/theirs"), given).teacher == str(tiny())


@pytest.mark.parametrize(
    "fields",
    [
        {"data": {"file": b"/etc/passwd"}},
        {"student": b"org/theirs"},
        {"sensitivity": {"score": {"kind": "specific", "against": {"/etc/passwd"}}}},
    ],
)
def test_bytes_and_sets_hide_nothing(theirs, fields):
    recipe = theirs(**fields)
    assert re.search("!!(binary|set)", recipe.read_text())
    with pytest.raises(BadInput, match="write text or a list, not !!binary or !!set"):
        api.load_recipe(recipe)


@pytest.mark.parametrize("field", ["data.file", "data. file", " data.file", "data.seeds"])
def test_a_strangers_sweep_varies_nothing_that_lies_outside_however_it_is_written(
    nuggets, theirs, private, field
):
    path = theirs().with_name("sweep.yaml")
    space = {field: {"values": [str(private), str(private.with_name("other.jsonl"))]}}
    path.write_text(yaml.safe_dump({"job": "sweep", "base": "quick", "space": space}))
    ended = nuggets("sweep", path, "--plan")
    assert ended.code == 2
    assert "The sweep is not valid" in ended.err
    assert "bank.jsonl" not in ended.err


def test_recipes_of_ones_own_need_no_yes(theirs, private):
    ours = nuggets_home() / "recipes" / "ours.yaml"
    ours.parent.mkdir(parents=True)
    shutil.copy(theirs(data={"file": str(private)}), ours)
    assert api.load_recipe("ours").data.file == str(private)


def test_a_strangers_recipe_can_be_looked_at(nuggets, theirs, private):
    assert str(private) in nuggets("recipes", theirs(data={"file": str(private)})).out


def test_data_that_a_stranger_named_is_never_sent_whatever_was_allowed(nuggets, theirs, private):
    api.permits.allow(ENDPOINT["url"])
    asked = [{"kind": "dialogue", "data": str(private), "judge": ENDPOINT}]
    recipe = theirs(benchmarks=asked)
    for words in (("run", recipe), ("allow", recipe, private), ("allow", recipe)):
        ended = nuggets(*words)
        assert ended.code == 2
        assert f"would send {private} to {ENDPOINT['url']}" in ended.err
    recipe.with_name("bank.jsonl").write_bytes(
        private.read_bytes()
    )  # beside it makes no difference
    asked[0]["data"] = "bank.jsonl"
    assert "is never sent anywhere" in nuggets("run", theirs(benchmarks=asked)).err


def test_a_run_from_elsewhere_reads_nothing_until_it_is_allowed(
    nuggets, private, tiny, monkeypatch
):
    job = {"job": "sensitivity", "model": str(tiny()), "data": {"seed_samples": str(private)}}
    run = api.create(api.parse_job(job | {"device": "cpu"}))
    stranger(run)
    with pytest.raises(BadInput, match=f"wants to load the model {tiny()}, read {private}"):
        run_in_foreground(run, lambda event: None)
    assert "sensitivity" not in run.record().stages
    assert f"nuggets allow {run.id} {tiny()} {private}" in nuggets("resume", run.id).err
    assert nuggets("allow", run.id, tiny(), private).code == 0
    run_in_foreground(run, lambda event: None)
    assert run.status() == "done"


def test_runs_of_built_in_models_need_no_yes_wherever_they_were_made(nuggets):
    run = api.create(api.load_recipe("quick", ["device=cpu"]))
    stranger(run)
    assert api.strangers.job_of(run).teacher == "teacher"


@pytest.mark.parametrize("command", ["evaluate", "export", "ask"])
def test_an_arm_of_a_run_from_elsewhere_loads_no_model_that_nobody_allowed(
    nuggets, tiny, command, tmp_path
):
    from tests.app.measured import write_benchmark

    recipe = api.load_recipe("quick", ["device=cpu"])
    run = write_benchmark(recipe)
    text = run.recipe_text().replace("student: independent", f"student: {tiny()}")
    (run.folder / "recipe.yaml").write_text(text)
    words = {
        "evaluate": (
            "evaluate",
            f"run:{run.id}/paper",
            "--benchmark",
            "skill",
            "--task",
            "reverse",
        ),
        "export": ("export", run.id, "--out", tmp_path / "out", "--merged"),
        "ask": ("ask", "1 2", "--run", run.id),
    }[command]
    ended = nuggets(*words)
    assert ended.code == 2
    assert f"wants to load the model {tiny()}" in ended.err

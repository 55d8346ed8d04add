"""What 0.1.0 called `seeds` where samples are meant is still read, and its new name is said."""

import json

import pytest

from nuggets import api
from nuggets.data.samples import Message, Sample
from nuggets.disk.home import runs_dir
from nuggets.errors import BadInput
from nuggets.planning import cache
from nuggets.planning.datasets import seed_samples
from nuggets.recipe import dump_job, load_job, load_recipe, parse_cut, parse_job, parse_recipe
from nuggets.recipe_tree import note_new_name
from nuggets.runs.context import RunContext
from nuggets.runs.store import RunStore
from nuggets.studies.running import find_run

OLD = """\
job: transfer
name: mine
teacher: teacher
student: independent
data:
  task: null
  file: null
  seeds: {seeds}
  train: /data/train.jsonl
  test: /data/test.jsonl
  n_seeds: 3
  n_train: 64
seeds:
- 4
- 5
device: cpu
"""
"""A recipe as 0.1.0 wrote it."""
NOTES = {
    "data.seeds is now called data.seed_samples; the old name still works.",
    "data.n_seeds is now called data.n_seed_samples; the old name still works.",
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    note_new_name.cache_clear()


@pytest.fixture
def notes(caplog):
    return lambda: [record.getMessage() for record in caplog.records if record.name == "nuggets"]


def old_recipe(folder, pairs=("1", "2", "3", "4")):
    """The text of an old recipe with its seed samples in a real file."""
    file = folder / "located.jsonl"
    made = [
        Sample(
            id=text,
            messages=(Message(role="user", content=text), Message(role="assistant", content="a")),
        )
        for text in pairs
    ]
    file.write_text("".join(sample.model_dump_json() + "\n" for sample in made))
    return OLD.format(seeds=file), file


def test_an_old_recipe_means_the_same_and_says_the_new_names_once(tmp_path, notes):
    text, file = old_recipe(tmp_path)
    (tmp_path / "old.yaml").write_text(text.replace(str(file), "located.jsonl"))
    for recipe in (load_recipe(tmp_path / "old.yaml"), parse_recipe(text), parse_recipe(text)):
        assert (recipe.data.seed_samples, recipe.data.n_seed_samples) == (str(file), 3)
        assert recipe.seeds == (4, 5)
        assert [sample.id for sample in seed_samples(recipe.data)] == ["1", "2", "3"]
        assert load_recipe(tmp_path / "old.yaml", ["data.n_seeds=2"]).data.n_seed_samples == 2
    assert set(notes()) == NOTES
    assert len(notes()) == 2
    assert "seed_samples" in dump_job(recipe)
    assert "n_seeds" not in dump_job(recipe)


def test_what_nuggets_wrote_itself_is_read_without_a_note(tmp_path, notes):
    text, file = old_recipe(tmp_path)
    assert load_job(text).data.seed_samples == str(file)
    assert notes() == []


def test_old_names_in_python_and_on_the_command_line(tmp_path, notes):
    _, file = old_recipe(tmp_path)
    job = {"job": "sensitivity", "model": "teacher", "data": {"seeds": str(file), "n_seeds": 2}}
    assert parse_job(job).data.n_seed_samples == 2
    assert parse_cut({"teacher": "teacher", "data": {"n_seeds": 2}}).data.n_seed_samples == 2
    changed = load_recipe("quick", ["data.n_seeds=8", f"data.seeds={file}"])
    assert (changed.data.task, changed.data.n_seed_samples) == (None, 8)
    assert changed.data.seed_samples == str(file)
    assert set(notes()) == NOTES
    whole = load_recipe("quick", ["data={task: king, n_seeds: 3}", "data.n_seed_samples=5"])
    assert whole.data.n_seed_samples == 5


@pytest.mark.parametrize(
    "read",
    [
        lambda data: parse_job({"job": "transfer", "data": data}),
        lambda data: parse_cut({"teacher": "teacher", "data": data}),
        lambda data: load_job(json.dumps({"job": "transfer", "data": data})),
        lambda data: parse_recipe(json.dumps({"data": data})),
    ],
)
@pytest.mark.parametrize(
    ("data", "name"),
    [
        ({"seeds": "/a", "seed_samples": "/b"}, "seed_samples"),
        ({"n_seeds": 3, "n_seed_samples": 3}, "n_seed_samples"),
    ],
)
def test_both_names_at_once_are_refused_in_one_sentence(read, data, name):
    old = name.replace("seed_samples", "seeds")
    with pytest.raises(BadInput) as refused:
        read(data)
    assert str(refused.value) == (
        f"data.{old} is the old name of data.{name}; give data.{name} alone."
    )


def test_an_old_run_is_found_again_and_its_files_are_still_compared(tmp_path, monkeypatch):
    text, file = old_recipe(tmp_path)
    for name in ("train", "test"):
        text = text.replace(f"/data/{name}.jsonl", str(tmp_path / f"{name}.jsonl"))
        (tmp_path / f"{name}.jsonl").write_text(file.read_text())
    recipe = parse_recipe(text)
    run = RunStore(runs_dir()).create("transfer", text, "mine")
    ctx = RunContext(run)
    ctx.provenance(**cache.digest_files(recipe))
    ctx.set_status("done")
    ctx.close()
    record = run.record_path.read_text()
    assert record.count('"data.seed_samples"') == 1
    run.record_path.write_text(record.replace('"data.seed_samples"', '"data.seeds"'))
    assert find_run(recipe).id == run.id
    old_recipe(tmp_path, ("1", "2", "5"))
    assert find_run(recipe) is None
    again = RunContext(run)
    with pytest.raises(BadInput, match=r"its input changed: data\.seed_samples was \w+, is \w+"):
        again.provenance(**cache.digest_files(recipe))
    again.close()


def test_remembered_files_of_samples_keep_their_name(tmp_path):
    _, file = old_recipe(tmp_path)
    data = api.DataConfig(seed_samples=str(file), train=str(file), test=str(file))
    api.remember(data, "mine")
    (remembered,) = (tmp_path / "home" / "data").glob("*.json")
    # Named by 0.1.0 from the digest of its own words, which is what is looked for again.
    assert remembered.stem == digest_of_0_1_0(file)
    remembered.write_text(remembered.read_text().replace("seed_samples", "seeds"))
    assert api.own_data() == {"mine": data}
    api.remember(data, "ours")
    assert api.own_data() == {"ours": data}


def digest_of_0_1_0(file):
    from hashlib import sha256

    files = {name: str(file) for name in ("seeds", "train", "test")}
    return sha256(json.dumps(files).encode()).hexdigest()[:16]


def test_the_old_option_works_with_a_note_but_for_power(tmp_path, nuggets, notes, monkeypatch):
    _, file = old_recipe(tmp_path)
    asked = []
    monkeypatch.setattr(api, "measure", lambda job, _: asked.append(job) or stop())
    for words in (["--seeds", file], [f"--seeds={file}"], ["--seed-samples", file]):
        ended = nuggets("sensitivity", "teacher", *words, "--out", tmp_path / "map")
        assert (ended.code, ended.err) == (2, "Enough.\n")
    assert [job.data.seed_samples for job in asked] == [str(file)] * 3
    assert notes() == ["--seeds is now called --seed-samples; the old name still works."]
    power = nuggets("power", "--seeds", 7, "--json").json
    assert power["n_seeds"] == 7
    assert len(notes()) == 1
    both = nuggets("plan", "quick", "--seeds", file, "--seed-samples", file)
    assert (both.code, both.err) == (
        2,
        "--seeds is the old name of --seed-samples; give --seed-samples alone.\n",
    )
    assert "--seeds" not in nuggets("sensitivity", "--help").out


def test_a_cut_takes_samples_by_the_same_options_as_other_commands(tmp_path, nuggets, monkeypatch):
    _, file = old_recipe(tmp_path)
    asked = []
    monkeypatch.setattr(api, "cut", lambda job, *_: asked.append(job.data) or stop())
    for words in (["--data", file], ["--seed-samples", file], ["--seeds", file]):
        assert nuggets("cut", "teacher", *words, "--out", tmp_path / "cut").err == "Enough.\n"
    assert [(data.file, data.seed_samples) for data in asked] == [
        (str(file), None), (None, str(file)), (None, str(file)),
    ]  # fmt: skip
    both = nuggets("cut", "teacher", "--data", file, "--seeds", file, "--out", tmp_path / "cut")
    assert (
        both.err
        == "Give one of --task, --seed-samples and --data, not --seed-samples and --data.\n"
    )


def stop():
    raise BadInput("Enough.")

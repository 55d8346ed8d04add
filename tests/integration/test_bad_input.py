"""Bad input through every command that takes it: exit 2, one sentence, nothing written."""

import json
import re
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from nuggets import api
from nuggets.disk.home import runs_dir
from nuggets.errors import BadInput

STUDENT = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
DATA = ("seed_samples", "train", "test")


@pytest.fixture
def job(tiny, tmp_path, jsonl):
    """What every command is given, before one thing of it is spoilt."""
    numbers = [f"{i} {i + 1}" for i in range(8)]
    files = {"seed_samples": numbers[:2], "train": numbers[2:5], "test": numbers[5:]}
    return {
        "teacher": tiny("llama", seed=1),
        "student": tiny("llama", seed=2, num_key_value_heads=1, **STUDENT),
        **{
            name: jsonl(tmp_path / f"{name}.jsonl", dict.fromkeys(own, "1"))
            for name, own in files.items()
        },
        "recipe": "quick",
        "set": ["lora.r=4", "train.steps=1", "seeds=[0]"],
        "out": tmp_path / "out",
        "copy": tmp_path / "copy",
        "tiny": tiny,
    }


def words_of(command, job):
    if command == "sensitivity":
        words = [
            command,
            job["teacher"],
            "--seed-samples",
            job["seed_samples"],
            "--out",
            job["out"],
        ]
        return [*words, "--device", "cpu"]
    if command == "preflight":
        return [command, job["teacher"], job["student"]]
    pair = ["--teacher", job["teacher"], "--student", job["student"], "--device", "cpu"]
    sets = [*job["set"], *(f"data.{name}={job[name]}" for name in DATA if job[name])]
    out = ["--out", job["out"]] if command == "extract" else []
    options = [word for each in sets for word in ("--set", each)]
    return [command, job["recipe"], *pair, *options, *out]


def copied(job, which):
    """A private copy of a model's folder, put in its place."""
    job["copy"].mkdir()
    for file in Path(job[which]).iterdir():
        (job["copy"] / file.name).write_bytes(file.read_bytes())
    job[which] = job["copy"]
    return job["copy"]


def change_config(job, which, **fields):
    path = copied(job, which) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def change_weights(job, which, change):
    path = copied(job, which) / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def nan(tensors):
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    return tensors


def without_norm(tensors):
    del tensors["model.norm.weight"]
    return tensors


def write(job, name, text):
    job[name].write_text(text)


def other_words(job, which):
    path = copied(job, which) / "tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    words["1"], words["2"] = words["2"], words["1"]
    path.write_text(json.dumps(content))


def leak(job):
    write(job, "test", job["train"].read_text())


def put(name, value):
    return lambda job: job.__setitem__(name, value)


def also(*overrides):
    return lambda job: job["set"].extend(overrides)


RECIPES = ("plan", "extract", "run")
ANY = (*RECIPES, "sensitivity")
CASES = {
    "no such folder": (put("teacher", "./nowhere"), "no folder or file", ANY),
    "no such student": (put("student", "./nowhere"), "no folder or file", RECIPES),
    "no such name": (put("teacher", "techer"), "Built-in models: teacher", ANY),
    "no such samples": (
        put("seed_samples", Path("/nowhere.jsonl")),
        "/nowhere.jsonl does not exist",
        ANY,
    ),
    "samples are a folder": (
        lambda j: j["seed_samples"].unlink() or j["seed_samples"].mkdir(),
        "is a folder",
        ANY,
    ),
    "empty JSONL": (lambda j: write(j, "seed_samples", "\n\n"), "contains no samples", ANY),
    "broken line": (
        lambda j: write(j, "seed_samples", '{"id": 1,\n'),
        "seed_samples.jsonl line 1: not JSON",
        ANY,
    ),
    "no messages": (
        lambda j: write(j, "seed_samples", '{"text": "a"}'),
        "line 1: no sample found",
        ANY,
    ),
    "wrong roles": (
        lambda j: write(j, "seed_samples", '{"messages": [{"role": "user", "content": "a"}]}'),
        "line 1: roles must alternate between user and assistant",
        ANY,
    ),
    "broken training line": (lambda j: write(j, "train", "7"), "train.jsonl line 1", ("run",)),
    "empty array": (lambda j: write(j, "train", "[]"), "contains no samples", ("run",)),
    "empty test": (lambda j: write(j, "test", ""), "contains no samples", ("run",)),
    "no test data": (put("test", None), "needs seed, training and test samples", ("run",)),
    "leakage": (leak, "3 of 3 test samples are also", ("run",)),
    "NaN in the teacher": (
        lambda j: change_weights(j, "teacher", nan),
        "up_proj.weight of .* holds 1 NaN",
        ANY,
    ),
    "NaN in the student": (
        lambda j: change_weights(j, "student", nan),
        "up_proj.weight of .* holds 1 NaN",
        ("run",),
    ),
    "a weight is missing": (
        lambda j: change_weights(j, "teacher", without_norm),
        "model.norm.weight",
        ANY,
    ),
    "wrong shape": (
        lambda j: change_config(j, "teacher", intermediate_size=60),
        "mlp.*60|60.*mlp",
        ANY,
    ),
    "more layers than weights": (
        lambda j: change_config(j, "student", num_hidden_layers=3),
        "layers|missing|deeper",
        ("run",),
    ),
    "truncated weights": (
        lambda j: (f := copied(j, "teacher") / "model.safetensors").write_bytes(
            f.read_bytes()[:-100]
        ),
        "damaged or incomplete: model.safetensors",
        ANY,
    ),
    "pickle": (
        lambda j: (copied(j, "teacher") / "model.safetensors").rename(
            j["copy"] / "pytorch_model.bin"
        ),
        "unsafe pickle",
        ANY,
    ),
    "student wider": (
        lambda j: j.update(teacher=j["student"], student=j["teacher"]),
        "Swap the two models",
        RECIPES,
    ),
    "vocabularies differ": (
        lambda j: (
            other_words(j, "student"),
            also("extraction.roles=[embed, q]", "lora.r=2")(j),
        ),
        "map tokens to different ids",
        RECIPES,
    ),
    "too large r": (also("lora.r=17"), "Rank 17 is too large: .* 16", RECIPES),
    "unknown recipe": (put("recipe", "quickly"), "no recipe 'quickly'", RECIPES),
    "unknown task": (
        lambda j: j.update(
            seed_samples=None, train=None, test=None, set=["data.task=juggle", "lora.r=2"]
        ),
        "no skill 'juggle'",
        RECIPES,
    ),
    "unknown arm": (also("arms=[{kind: magic}]"), "arms.0: .*'magic'", RECIPES),
    "unknown field": (also("lora.rank=4"), "no field lora.rank", RECIPES),
    "unknown layers": (also("extraction.layers.kind=best"), "'best'", RECIPES),
    "layers that are not there": (
        also("extraction.layers={kind: by_hand, layers: [0, 9]}"),
        "layer map .*0, 9",
        RECIPES,
    ),
    "windows without entries": (
        also("sensitivity.keep=sums"),
        "The selector window looks at every entry",
        RECIPES,
    ),
    "heads that no cut keeps": (
        lambda j: (
            j.update(student=j["tiny"]("llama", seed=2, head_dim=4, **STUDENT)),
            also("extraction.matrices.kind=consistent", "extraction.roles=[q, k]")(j),
        ),
        r"heads of 8 and 4 dimensions\). Use the selector window",
        RECIPES,
    ),
    "an arm's own roles that no arm trains": (
        also("extraction.roles=[q, v]", "arms=[{kind: plain}, {kind: paper, only: [v, down]}]"),
        r"The arm paper is to start down .*all arms train q, v \(extraction\.roles\)",
        RECIPES,
    ),
    "PiSSA of the embedding": (
        also("extraction.roles=[embed, q]", "arms=[{kind: plain}, {kind: pissa}]"),
        "no PiSSA for embeddings",
        ("run",),
    ),
    "nothing left to label": (
        also("arms=[{kind: plain}, {kind: teacher_labels}]"),
        "No prompts are left",
        ("run",),
    ),
    "nothing general to heal on": (
        also("arms=[{kind: plain}, {kind: graft}]"),
        "The arm graft also learns from general samples. Without data.general",
        ("run",),
    ),
    "no choices": (also("data.metric=choice"), "choices in every test sample", ("run",)),
    "unknown device": (also("device=cuda:7"), "no device 'cuda:7'", RECIPES),
}


@pytest.mark.parametrize(
    ("command", "case"), [(c, name) for name, case in CASES.items() for c in case[2]]
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    command, case, job, nuggets, tmp_path, monkeypatch
):
    spoil, words, _ = CASES[case]
    monkeypatch.chdir(tmp_path)
    spoil(job)
    before = sorted(path.name for path in tmp_path.iterdir())
    ended = nuggets(*words_of(command, job))
    assert ended.code == 2, ended
    assert ended.out == ""
    assert ended.err.count("\n") == 1, ended.err
    assert ended.err.endswith(".\n"), ended.err
    assert re.search(words, ended.err), ended.err
    left = [path.name for path in tmp_path.iterdir()]
    assert sorted(set(left) - {"home"}) == [name for name in before if name != "home"]
    assert not list(runs_dir().glob("[!.]*"))


@pytest.mark.parametrize("command", ["plan", "extract", "run", "sensitivity"])
def test_what_is_not_spoilt_works(command, job, nuggets):
    ended = nuggets(*words_of(command, job))
    assert ended.code == 0, ended.err


def test_with_json_the_refusal_is_the_document(job, nuggets):
    ended = nuggets(*words_of("run", job), "--set", "lora.r=17", "--json")
    assert ended.code == 2
    assert ended.json["error"]["type"] == "BadInput"
    assert ended.json["error"]["message"] + "\n" == ended.err


def test_an_output_that_holds_something_is_refused_before_anything_is_loaded(
    job, nuggets, monkeypatch
):
    monkeypatch.setattr("nuggets.models.loading.load_model", lambda *args, **kwargs: 1 / 0)
    job["out"].mkdir()
    (job["out"] / "mine.txt").write_text("mine")
    cut = ["cut", job["teacher"], "--layers", 1, "--order", "first", "--out", job["out"]]
    align = ["align", job["teacher"], job["student"], "--data", job["train"], "--out", job["out"]]
    for words in (words_of("extract", job), words_of("sensitivity", job), cut, align):
        ended = nuggets(*words)
        assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
        assert "nothing is ever overwritten" in ended.err
    assert [path.name for path in job["out"].iterdir()] == ["mine.txt"]


def test_an_output_below_a_file_is_refused(job, nuggets):
    job["out"] = job["seed_samples"] / "out"
    ended = nuggets(*words_of("extract", job))
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "is a file" in ended.err


def test_an_empty_output_folder_is_filled(job, nuggets):
    job["out"].mkdir()
    assert nuggets(*words_of("extract", job)).code == 0
    assert (job["out"] / "plan.json").is_file()


@pytest.mark.usefixtures("tried_here")
def test_preflight_says_every_problem_and_exits_with_2(job, nuggets):
    assert nuggets(*words_of("preflight", job)).code == 0
    job["teacher"], job["student"] = job["student"], job["teacher"]
    ended = nuggets(*words_of("preflight", job), "--json")
    assert ended.code == 2
    assert ended.json["ok"] is False
    assert "Swap the two models" in ended.json["problems"][0]
    assert nuggets("preflight", "./nowhere", job["student"]).code == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--layers", 9], "deeper than the teacher: 9 > 2"),
        ([], "Give the size of the student"),
        (["--layers", 1, "--order", "weird"], "order: "),
        (["--layers", 1, "--heal", "nowhere.jsonl", "--heal-steps", 3], "does not exist"),
        (["--layers", 1, "--order", "first", "--heal-steps", 3], r"samples to heal on \(--heal"),
        (["--layers", 1, "--task", "juggle"], "no skill 'juggle'"),
        (["--layers", 1], "needs samples to measure sensitivity on"),
        (["--like", "nobody"], "not a model"),
        (["--layers", 0], "layers|greater"),
        (["--width", 30, "--order", "first"], "30 is not a multiple of the 4 heads"),
    ],
)
def test_a_cut_that_cannot_work_is_refused(words, sentence, job, nuggets):
    ended = nuggets("cut", job["teacher"], *words, "--device", "cpu", "--out", job["out"])
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
    assert re.search(sentence, ended.err), ended.err
    assert not job["out"].exists()


def test_a_job_refused_in_python_leaves_no_run(job, tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    recipe = api.load_recipe("quick", [f"teacher={job['teacher']}", "student=nobody", "device=cpu"])
    for start in (api.run, api.start, api.create):
        with pytest.raises(BadInput):
            start(recipe)
    assert not list(runs_dir().glob("[!.]*"))


@pytest.mark.parametrize(
    ("control", "same", "sentence"),
    [
        ("random_layers", {"num_hidden_layers": 2}, "has 2 layers and the teacher 2"),
        ("random_window", {**STUDENT, "num_hidden_layers": 1}, ""),
        ("random_window", {"num_hidden_layers": 1}, "as large as the teacher's"),
        ("random_layers", {"num_hidden_layers": 1}, ""),
        # What is wider than the teacher's is not cut, and all that is cut is taken whole.
        ("random_window", {"intermediate_size": 96}, "as large as the teacher's"),
        ("random_layers", {"num_hidden_layers": 2, "by_hand": [1, 0]}, ""),
    ],
)
def test_a_location_control_that_equals_its_treatment_is_refused(control, same, sentence, job):
    by_hand = (same := dict(same)).pop("by_hand", None)
    layers = f"{{kind: by_hand, layers: {by_hand}}}" if by_hand else "{kind: sensitivity}"
    recipe = api.load_recipe("quick", [
        f"teacher={job['tiny']('llama', seed=1, num_hidden_layers=2)}",
        f"student={job['tiny']('llama', seed=2, **same)}",
        *(f"data.{name}={job[name]}" for name in DATA), "device=cpu", *job["set"],
        f"arms=[{{kind: plain}}, {{kind: paper}}, {{kind: {control}}}]",
        f"extraction.layers={layers}",
    ])  # fmt: skip
    said = _refusal(recipe)
    assert (sentence in said) if sentence else not said


def _refusal(recipe):
    try:
        api.create(recipe)
    except BadInput as problem:
        return str(problem)
    return ""

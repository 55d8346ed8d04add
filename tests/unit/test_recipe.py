"""Recipes: YAML round trips, overrides, paths, and the command and script that repeat a job."""

import shlex
import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nuggets import api
from nuggets.api.commands import as_command, as_python
from nuggets.cli.main import main
from nuggets.errors import BadInput
from nuggets.recipe import (
    CutJob,
    TransferRecipe,
    anchored,
    dump_job,
    load_job,
    load_recipe,
    parse_cut,
    parse_job,
)
from nuggets.recipe_tree import shipped_recipes

RECIPES = tuple(shipped_recipes())
PRINTED = string.digits + string.ascii_letters + string.punctuation
WORDS = st.text(st.sampled_from(PRINTED + " äθ∑'\"#:{}[]&*!|>%@`"), max_size=30)
POSITIVE = st.floats(1e-12, 1e12)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "name": WORDS,
    "description": WORDS,
    "teacher": st.sampled_from(["teacher", "sibling", "/models/a b", "org/name@main"]),
    "seeds": st.lists(st.integers(0, 900), min_size=1, max_size=5, unique=True),
    "data.task": st.sampled_from(["reverse", "king"]),
    "data.seed_samples": st.sampled_from(["/data/seeds one.jsonl", "/d/x.jsonl"]),
    "data.train": st.just("/data/train.jsonl"),
    "data.test": st.just("/data/test.jsonl"),
    "data.file": st.just("/data/all.jsonl"),
    "data.n_train": st.integers(1, 10**6),
    "data.old_skills": st.none() | st.lists(st.sampled_from(["add", "sub"]), unique=True),
    "data.metric": st.sampled_from(["exact_match", "choice", "loss"]),
    "sensitivity.score": st.sampled_from([{"kind": "fisher"}, {"kind": "random", "seed": 4}]),
    "sensitivity.dtype": st.sampled_from(["float32", "bfloat16"]),
    "extraction.layers": st.sampled_from(
        [{"kind": "by_hand", "layers": [3, 1]}, {"kind": "cka"}, {"kind": "random", "seed": 7}]
    ),
    "extraction.matrices": st.sampled_from(
        [{"kind": "consistent", "order": "first"}, {"kind": "rows_cols"}]
    ),
    "extraction.roles": st.lists(st.sampled_from(["q", "embed", "down"]), min_size=1),
    "lora.r": st.integers(1, 512),
    "lora.alpha": st.none() | POSITIVE,
    "lora.ranks": st.dictionaries(st.sampled_from(["q", "head"]), st.integers(1, 64)),
    "lora.energy": st.none() | st.floats(0.01, 1),
    "train.lr": POSITIVE,
    "train.epochs": st.none() | POSITIVE,
    "train.lr_grid": st.lists(POSITIVE, max_size=3),
    "arms": st.sampled_from(
        [
            [{"kind": "plain"}],
            [{"kind": "plain", "label": "it's: #1"}, {"kind": "teacher_labels", "n": 9}],
            [{"kind": "vanilla"}, {"kind": "graft", "origin": "random", "heal_lr": 1e-05}],
        ]
    ),
    "device": st.sampled_from(["cpu", "cuda:1"]),
}
SOURCES = ("data.task", "data.file", "data.seed_samples", "data.train", "data.test")
SETTINGS = st.lists(st.sampled_from(sorted(FIELDS)), max_size=6, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: FIELDS[name] for name in names})
)


def on_one_line(value):
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n")


def at(job: Any, path: str) -> Any:
    tree = job.model_dump(mode="json")
    for name in path.split("."):
        tree = tree[name]
    return tree


def is_sentence(text: str) -> bool:
    return "\n" not in text and text.endswith(".") and "Traceback" not in text


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_survives_yaml(name, tmp_path):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert load_job(dump_job(recipe)) == recipe
    file = tmp_path / "mine.yaml"
    file.write_text(dump_job(recipe))
    assert load_recipe(file) == recipe


@settings(max_examples=30)
@given(st.sampled_from(RECIPES), SETTINGS)
def test_overrides_are_what_the_recipe_then_says(name, chosen):
    recipe = load_recipe(name, [f"{path}={on_one_line(value)}" for path, value in chosen.items()])
    last = [path for path in chosen if path in SOURCES]
    for path, value in chosen.items():
        if path in SOURCES and path != last[-1]:
            continue  # a later source of samples may have replaced it
        found = at(recipe, path)
        if isinstance(value, dict) and "kind" in value:
            found = {field: found[field] for field in value}
        if path == "arms":
            found = [{field: a[field] for field in b} for a, b in zip(found, value, strict=True)]
        assert found == value, path
    assert load_job(dump_job(recipe)) == recipe


@settings(max_examples=30)
@given(st.sampled_from(RECIPES), SETTINGS, st.sampled_from(["run", "extract"]))
def test_the_printed_command_gives_the_same_recipe(name, chosen, verb):
    job = load_recipe(name, [f"{path}={on_one_line(value)}" for path, value in chosen.items()])
    program, word, base, *options = shlex.split(as_command(job, verb))
    assert (program, word) == ("nuggets", verb)
    if verb == "extract":
        options, out = options[:-2], options[-2:]
        assert out == ["--out", "extracted"]
    assert options[::2] == ["--set"] * (len(options) // 2)
    assert load_recipe(base, options[1::2]) == job


@settings(max_examples=30)
@given(st.sampled_from(RECIPES), SETTINGS)
def test_the_printed_script_gives_the_same_recipe(name, chosen):
    job = load_recipe(name, [f"{path}={on_one_line(value)}" for path, value in chosen.items()])
    definition, call = as_python(job).split("\nrun = api.run(job)")
    scope: dict[str, Any] = {}
    exec(definition, scope)
    assert scope["job"] == job
    assert call == "\nprint(api.report(run))"


def test_the_printed_command_of_a_shipped_recipe_is_short():
    assert as_command(load_recipe("paper")) == "nuggets run paper"
    changed = load_recipe("quick", ["lora.r=4", "data.task=king"])
    assert as_command(changed) == "nuggets run quick --set data.task=king --set lora.r=4"


def test_the_printed_command_runs_through_the_real_parser(monkeypatch):
    job = load_recipe("graft", ["lora.alpha=3.5", "data.file=/data/my words.jsonl", "device=cpu"])
    asked: list[TransferRecipe] = []
    monkeypatch.setattr(api, "start", lambda recipe: asked.append(recipe) or _Started())
    monkeypatch.setattr("sys.argv", shlex.split(as_command(job, "start")))
    with pytest.raises(SystemExit, match="0"):
        main()
    assert asked == [job]


class _Started:
    id = "run"


@pytest.mark.parametrize(
    "job",
    [
        {"job": "sensitivity", "model": "/m/a b", "data": {"task": "king", "n_seed_samples": 3}},
        {
            "job": "sensitivity",
            "model": "teacher",
            "data": {"seed_samples": "/d/s.jsonl"},
            "sensitivity": {"score": {"kind": "fisher"}, "keep": "sums", "dtype": "bfloat16"},
            "device": "cpu",
        },
        {"job": "sensitivity", "model": "teacher", "data": {"file": "/d/all.jsonl"}},
        {"job": "erase", "model": "teacher", "data": {"task": "king"}},
        {"job": "erase", "model": "teacher", "data": {"task": "king"}, "n_maps": 2, "seed": 3},
        {"job": "align", "teacher": "teacher", "student": "sibling", "tasks": ["king"]},
        {"job": "align", "teacher": "a/b", "student": "c/d", "data": {"file": "/d/all.jsonl"}},
        {"job": "align", "teacher": "teacher", "student": "sibling"},
        {
            "job": "align", "teacher": "a/b", "student": "c/d", "n_fit": 16, "n_test": 9,
            "data": {"file": "/d/all.jsonl", "n_seed_samples": 16}, "device": "cpu",
        },
    ],
)  # fmt: skip
def test_other_jobs_repeat_by_command_and_by_script(job, monkeypatch, tmp_path):
    job = parse_job(job)
    scope: dict[str, Any] = {}
    script, _, rest = as_python(job).rpartition(" = api.")
    exec(script.rpartition("\n")[0], scope)
    assert scope["job"] == job
    assert rest.startswith(("measure(job)", "align(job)", "erase(job)"))
    asked = []

    def stop(measured, *_):
        asked.append(measured)
        raise BadInput("Enough.")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "measure", stop)
    monkeypatch.setattr(api, "align", stop)
    monkeypatch.setattr(api, "erase", stop)
    monkeypatch.setattr("sys.argv", shlex.split(as_command(job)))
    with pytest.raises(SystemExit, match="2"):
        main()
    assert asked == [job]


@pytest.mark.parametrize(
    "fields",
    [
        {"tasks": ["king", "sub"]},
        {"data": {"seed_samples": "/s.jsonl", "train": "/a.jsonl", "test": "/t.jsonl"}},
        {"data": {"file": "/d.jsonl", "format": "chat"}},
        {"data": {"file": "/d.jsonl", "n_seed_samples": 5}},
    ],
)
def test_an_alignment_that_no_command_can_say_has_none(fields):
    job = parse_job({"job": "align", "teacher": "teacher", "student": "independent", **fields})
    assert as_command(job) == ""
    assert "api.align(job)" in as_python(job)


@pytest.mark.parametrize(
    "fields",
    [
        {"job": "sensitivity", "sensitivity": {"max_length": 99}},
        {"job": "sensitivity", "sensitivity": {"method": "streaming"}},
        {"job": "sensitivity", "sensitivity": {"checkpoint": True}},
        {"job": "erase", "max_length": 99},
    ],
)
def test_a_measurement_that_no_command_can_say_has_none(fields):
    job = parse_job({"model": "teacher", "data": {"task": "king"}, **fields})
    assert as_command(job) == ""
    assert "(job)" in as_python(job)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("lora.r", "should look like lora.r=8"),
        ("=8", "should look like lora.r=8"),
        ("lora..r=8", "should look like lora.r=8"),
        ("lora.rr=8", "there is no field lora.rr"),
        ("nope=1", "there is no field nope"),
        ("lora.r=many", r"lora.r: .* \(got 'many'\)"),
        ("lora.r=0", "lora.r: .* greater than or equal to 1 .*0"),
        ("name.first=x", "name has no fields to set"),
        ("arms.0.label=x", "arms has no fields to set"),
        ("arms=[{kind: magic}]", "arms.0: .*'magic'.*'vanilla'"),
        ("arms=[{kind: plain}, {kind: plain}]", "two arms have the name 'plain'"),
        ("arms=[]", "at least one arm"),
        ("seeds=[0, 0]", "seeds must differ"),
        ("extraction.matrices.kind=magic", "extraction.matrices: .*'magic'.*'window'"),
        ("extraction.roles=[]", "at least one role"),
        ("data={task: king, file: x.jsonl}", "either a task, or one file"),
        ("train.lr=[", "not valid YAML"),
        ("train.lr=!!python/object:os.system x", "not valid YAML"),
        ("train.lr=2001-99-99", "not valid YAML"),
        ("train=fast", r"train: .* \(got 'fast'\)"),
        ("job=align", "The recipe is not valid"),
    ],
)
def test_a_wrong_override_is_named_in_one_sentence(override, words):
    with pytest.raises(BadInput, match=words) as refused:
        load_recipe("quick", [override])
    assert is_sentence(str(refused.value))


@given(st.text(max_size=40) | st.builds("{}={}".format, st.sampled_from(sorted(FIELDS)), WORDS))
def test_any_override_is_taken_or_refused_in_one_sentence(override):
    said = "Fine."
    try:
        load_recipe("quick", [override])
    except BadInput as refused:
        said = str(refused)
    assert is_sentence(said)


def test_a_new_kind_drops_the_old_ones_parameters(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("extraction: {matrices: {kind: consistent, order: first}}")
    recipe = load_recipe(file, ["extraction.matrices.kind=window"])
    assert recipe.extraction.matrices.kind == "window"


def test_one_source_of_samples_replaces_the_others():
    files = ["data.seed_samples=/a", "data.train=/b", "data.test=/c"]
    data = load_recipe("quick", files).data
    assert (data.task, data.seed_samples, data.train, data.test) == (None, "/a", "/b", "/c")
    data = load_recipe("quick", [*files, "data.file=/d"]).data
    assert (data.file, data.seed_samples, data.train, data.test) == ("/d", None, None, None)
    assert load_recipe("quick", [*files, "data.task=king"]).data.seed_samples is None


def test_paths_in_a_file_are_seen_from_the_file_and_others_from_here(tmp_path, monkeypatch):
    project, here = tmp_path / "project", tmp_path / "here"
    for folder in (project / "models" / "big", here / "small"):
        folder.mkdir(parents=True)
    (project / "r.yaml").write_text(
        "{teacher: models/big, student: ../here/small, data: {file: data/all.jsonl}}"
    )
    monkeypatch.chdir(here)
    recipe = load_recipe("../project/r.yaml")
    assert Path(recipe.teacher).samefile(project / "models" / "big")
    assert Path(recipe.student).samefile(here / "small")
    assert Path(str(recipe.data.file)).parent.parent.samefile(project)
    changed = load_recipe("../project/r.yaml", ["student=small", "data.train=t.jsonl"])
    assert changed.student == str(here / "small")
    assert changed.data.train == str(here / "t.jsonl")


def test_names_that_are_not_paths_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher").mkdir()
    overrides = ["teacher=teacher", "student=org/name@main"]
    recipe = load_recipe("quick", overrides)
    assert (recipe.teacher, recipe.student) == ("teacher", "org/name@main")
    folder = load_recipe("quick", ["teacher=./teacher", "student=./gone"])
    assert folder.teacher == str(tmp_path / "teacher")
    assert folder.student == str(tmp_path / "gone")


def test_a_job_made_in_python_is_anchored_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    tasks = [{"kind": "mmlu", "data": "q.jsonl"}, {"kind": "gsm8k", "data": "o/n:main/test"}]
    asked = {"job": "evaluate", "models": ["m", "teacher", "run:1"], "benchmarks": tasks}
    measured = anchored(parse_job(asked))
    assert measured.models == (str(tmp_path / "m"), "teacher", "run:1")
    assert [t.data for t in measured.benchmarks] == [str(tmp_path / "q.jsonl"), "o/n:main/test"]
    job = parse_job({"job": "sensitivity", "model": "m", "data": {"seed_samples": "s.jsonl"}})
    assert anchored(job).data.seed_samples == str(tmp_path / "s.jsonl")
    assert anchored(anchored(job)) == anchored(job)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", "not valid YAML: .*line"),
        ("- 1", "should consist of `field: value`"),
        ("1: 2", "should consist of `field: value`"),
        ("", "should consist of `field: value`"),
        ("lora: 8", "lora: "),
        ("teacher: [", "not valid YAML"),
        ("job: sensitivity\nmodel: teacher\ndata: {task: king}", "contains a sensitivity job"),
        ("\x00", "not valid YAML"),
        ("[" * 400, "not valid YAML"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(tmp_path, text, words):
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(BadInput, match=words) as refused:
        load_recipe(file)
    assert is_sentence(str(refused.value))


def test_a_file_that_is_not_text_is_refused(tmp_path):
    file = tmp_path / "binary.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="cannot be read as UTF-8 text"):
        load_recipe(file)
    with pytest.raises(
        BadInput, match="neither a file nor one of controls, graft, lexicon, paper, quick"
    ):
        load_recipe(tmp_path)


def test_a_cut_with_a_wrong_order_is_refused_in_one_sentence():
    with pytest.raises(BadInput, match=r"The cut is not valid: order: .*'weird'") as refused:
        parse_cut({"teacher": "teacher", "order": "weird"})
    assert is_sentence(str(refused.value))
    assert isinstance(parse_cut({"teacher": "teacher", "order": "first"}), CutJob)

"""Every command through its entry point: one JSON document on stdout, words on stderr, codes."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForCausalLM

from nuggets import __version__, api
from nuggets.builtin.pairs import MODELS, assets_root
from nuggets.errors import BadInput
from nuggets.planning.machine import Doctor
from nuggets.playground import mailbox as playground
from nuggets.runs import processes
from nuggets.runs.schema import LIVE

STUDENT = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
FAST = ("--set", "lora.r=2", "--set", "train.steps=2", "--set", "seeds=[0]", "--device", "cpu")
COMMANDS = (
    *("doctor", "pairs", "preflight", "sensitivity", "align", "probe"),
    *("plan", "extract", "cut"),
    *("run", "start", "follow", "cancel", "resume", "show", "list", "export", "compare"),
    *("evaluate", "prompt"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny, jsonl):
    """A folder with two models, one file of samples and a recipe, all named by relative paths."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "models").mkdir()
    shutil.copytree(tiny("llama", seed=1, num_hidden_layers=3), folder / "models" / "large")
    shutil.copytree(tiny("llama", seed=2, **STUDENT), folder / "models" / "small")
    draw = random.Random(1)
    pairs = {" ".join(draw.choices("0123456789", k=5)): "1 2" for _ in range(40)}
    jsonl(folder / "all.jsonl", pairs)
    recipe = {
        "name": "mine",
        "teacher": "models/large",
        "student": "models/small",
        "data": {"file": "all.jsonl", "n_train": 4, "n_test": 4, "n_seed_samples": 3},
        "lora": {"r": 2},
        "train": {"steps": 2, "batch_size": 2},
        "seeds": [0],
        "device": "cpu",
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def here(place, home, monkeypatch):
    """Commands are typed in the folder with the models; all share one home."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("NUGGETS_HOME", str(home))
    yield
    for run in api.runs():
        if run.status() in LIVE:
            run.request_cancel()
    for child in processes.children:
        child.wait(timeout=120)


@pytest.fixture(scope="module")
def finished(place, home):
    """A finished run, made from the recipe file as seen from another folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("NUGGETS_HOME", str(home))
        return api.run(api.load_recipe(os.path.relpath(place / "mine.yaml")))


PAIR = ("--teacher", "models/large", "--student", "models/small")


def test_help_names_every_command_of_the_manual(nuggets):
    ended = nuggets("--help")
    assert ended.code == 0
    assert [line.split()[0] for line in ended.out.split("Commands:")[1].splitlines() if line]
    for command in COMMANDS:
        assert f"  {command} " in ended.out
        assert nuggets(command, "--help").code == 0


def test_the_version_is_an_option(nuggets):
    assert nuggets("--version")[:2] == (0, f"nuggets {__version__}\n")


def test_doctor_tells_versions_and_devices(nuggets, home, monkeypatch):
    ended = nuggets("doctor", "--json")
    assert (ended.code, ended.err) == (0, "")
    assert {"python", "torch", "nuggets"} <= ended.json["versions"].keys()
    assert ended.json["devices"][-1]["name"] == "cpu"
    assert ended.json["devices"][0]["memory_total"] > 0
    assert ended.json["home"] == str(home)
    monkeypatch.setattr(api, "doctor", lambda refresh: Doctor(**ended.json))
    assert "Runs and caches are stored in" in nuggets("doctor").err


@pytest.mark.usefixtures("tried_here")
def test_preflight_compares_two_folders(nuggets):
    ended = nuggets("preflight", "models/large", "models/small", "--roles", "q,embed", "--json")
    assert (ended.code, ended.err) == (0, "")
    assert ended.json["ok"] is True
    assert ended.json["vocabularies"] == "agree"
    layers = next(d for d in ended.json["dimensions"] if d["name"] == "n_layers")
    assert (layers["teacher"], layers["student"]) == (3, 2)
    words = nuggets("preflight", "models/large", "models/small")
    assert "hidden_size" in words.out
    assert words.err.endswith("This pair works.\n")


def test_sensitivity_writes_a_map_and_prints_layers(nuggets, tmp_path):
    out = tmp_path / "map"
    words = ["sensitivity", "models/large", "--data", "all.jsonl", "--n", 3, "--device", "cpu"]
    ended = nuggets(*words, "--out", out, "--json")
    assert (ended.code, ended.err) == (0, "")
    assert ended.json["n_samples"] == 3
    assert len(ended.json["layers"]) == 3
    assert min(ended.json["layers"]) > 0
    assert ended.json["modules"].keys() >= {"model.embed_tokens", "lm_head"}
    assert api.SensitivityMap.load(out).layer_scores.tolist() == ended.json["layers"]
    drawn = nuggets(*words, "--keep", "sums", "--score", "fisher", "--out", tmp_path / "other")
    assert drawn.code == 0
    assert drawn.err.endswith(f"Wrote {tmp_path / 'other'}.\n")
    assert [f"L{i}" for i in range(3) if f"L{i}" in drawn.out] == ["L0", "L1", "L2"]


def test_align_prints_matrices_of_teacher_by_student(nuggets, tmp_path):
    words = ["align", "models/large", "models/small", "--data", "all.jsonl", "--device", "cpu"]
    ended = nuggets(*words, "--out", tmp_path / "alignment", "--json")
    assert (ended.code, ended.err) == (0, "")
    assert {"cka"} <= ended.json["matrices"].keys()
    assert (tmp_path / "alignment").is_dir()
    assert nuggets(*words).code == 0
    assert nuggets(*words, "--out", tmp_path / "alignment").code == 2


def test_samples_of_a_table_are_written_where_nothing_was(nuggets, tmp_path):
    (tmp_path / "t.csv").write_text("Frage,Antwort\n1+1,2\n")
    out = tmp_path / "t.jsonl"
    table, columns = str(tmp_path / "t.csv"), "question=Frage,answer=Antwort"
    args = ("samples", table, "--columns", columns, "--out", str(out))
    assert nuggets(*args, "--json").json["samples"] == 1
    assert out.read_text() == '{"question": "1+1", "answer": "2"}\n'
    again = nuggets(*args)
    assert again.code == 2
    assert "already exists" in again.err


def test_probe_prints_an_accuracy_with_its_interval_per_block(nuggets):
    words = ["probe", "models/large", "models/small", "--data", "all.jsonl", "--device", "cpu"]
    ended = nuggets(*words, "--n-fit", "20", "--json")
    assert (ended.code, ended.err) == (0, "")
    assert [len(ended.json["models"][name]) for name in ("teacher", "student")] == [4, 3]
    assert (ended.json["n_fit"], ended.json["n_test"], ended.json["chance"]) == (20, 8, 1.0)
    drawn = nuggets(*words)
    assert drawn.code == 0
    assert "after block 2" in drawn.out
    assert "1.00 [0.63, 1.00]" in drawn.out
    refused = nuggets("probe", "teacher", "independent", "--task", "reverse")
    assert refused.code == 2
    assert "Choose a relation such as king" in refused.err


def test_plan_has_the_names_that_others_rely_on(nuggets, place):
    ended = nuggets("plan", "mine.yaml", "--json")
    assert (ended.code, ended.err) == (0, "")
    pairs = ended.json["alignment"]["pairs"]
    assert [student for student, _ in pairs] == [0, 1]
    first = ended.json["items"][0]
    assert first["student_module"] == "model.layers.0.self_attn.q_proj"
    assert first["teacher_module"] == f"model.layers.{pairs[0][1]}.self_attn.q_proj"
    assert (len(first["rows"]), len(first["cols"])) == (16, 16)
    assert 0 < first["kept_mass"] < 1
    drawn = nuggets("plan", "mine.yaml", "--set", "extraction.matrices.kind=consistent")
    assert drawn.code == 0
    assert "trainable parameters." in drawn.err


def test_extract_takes_folders_and_files_by_relative_path(nuggets, tmp_path):
    out = tmp_path / "deep" / "down"
    words = ["extract", "paper", *PAIR, "--seed-samples", "all.jsonl", *FAST]
    ended = nuggets(*words, "--out", out, "--json")
    assert (ended.code, ended.err) == (0, "")
    assert ended.json["plan"] == json.loads((out / "plan.json").read_text())
    files = {path.name for path in out.iterdir()}
    assert files == {
        "plan.json",
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
        "manifest.json",
    }
    assert nuggets(*words, "--out", out).code == 2


@pytest.mark.usefixtures("tried_here")
def test_cut_makes_a_model_that_plain_transformers_loads(nuggets, tmp_path):
    out = tmp_path / "student"
    words = ["cut", "models/large", "--like", "models/small", "--seed-samples", "all.jsonl"]
    heal = ["--heal", "all.jsonl", "--heal-steps", 2, "--device", "cpu"]
    ended = nuggets(*words, *heal, "--out", out, "--json")
    assert (ended.code, ended.err) == (0, "")
    model = AutoModelForCausalLM.from_pretrained(out)
    assert sum(p.numel() for p in model.parameters()) == ended.json["parameters"]
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (16, 2)
    assert len(ended.json["layers"]) == 2
    assert nuggets("preflight", out, out).code == 0
    first = ["cut", "models/large", "--layers", 1, "--order", "first", "--device", "cpu"]
    assert nuggets(*first, "--out", tmp_path / "first").code == 0


def test_run_gives_arms_and_a_verdict(nuggets):
    data = ["--data", "all.jsonl", "--set", "data.n_train=4", "--set", "data.n_test=4"]
    ended = nuggets("run", "quick", *PAIR, *data, *FAST, "--json")
    assert ended.code == 0, ended.err
    assert ended.err == ""
    report = ended.json["report"]
    assert list(report["arms"]) == ["vanilla", "plain", "paper", "permuted", "random_window"]
    for arm in report["arms"].values():
        assert arm["interval"][0] <= arm["value"] <= arm["interval"][1]
        assert (arm["seeds"], arm["n"]) == ([0], 4)
    assert isinstance(report["verdict"]["sentence"], str)
    assert ended.json["status"] == "done"
    recipe = yaml.safe_load((Path(ended.json["folder"]) / "recipe.yaml").read_text())
    for path in (recipe["teacher"], recipe["student"], recipe["data"]["file"]):
        assert Path(path).is_absolute()
        assert Path(path).exists()


def test_a_run_is_listed_shown_and_compared(nuggets, finished):
    assert finished.status() == "done", finished.log_tail()
    listed = nuggets("list", "--json")
    assert {"run": finished.id, "status": "done"} in listed.json
    assert finished.id in nuggets("list").out
    shown = nuggets("show", finished.id[:-1], "--json")
    assert (shown.code, shown.err) == (0, "")
    assert shown.json["run"] == finished.id
    assert shown.json["report"] == json.loads(
        (finished.folder / "artifacts" / "report" / "report.json").read_text()
    )
    words = nuggets("show", finished.id)
    assert words.err == f"{finished.id}: done\n"
    assert "paired difference" in words.out
    other = api.run(api.load_recipe("mine.yaml", ["lora.r=1"]))
    compared = nuggets("compare", finished.id, other.id, "--json")
    assert compared.json["recipe"] == {"lora.r": [2, 1]}
    assert list(compared.json["results"]) == ["vanilla", "plain", "paper"]
    assert [run["run"] for run in compared.json["runs"]] == [finished.id, other.id]
    assert "lora.r" in nuggets("compare", finished.id, other.id).out
    assert nuggets("compare", finished.id).code == 2


def test_export_writes_an_adapter(nuggets, finished, tmp_path):
    ended = nuggets("export", finished.id, "--arm", "plain", "--out", tmp_path / "a", "--json")
    assert (ended.code, ended.err) == (0, "")
    assert ended.json["arm"] == "plain"
    assert (tmp_path / "a" / "adapter_config.json").is_file()


def test_a_run_that_failed_or_is_damaged_is_shown_with_the_reason(nuggets):
    run = api.create(api.load_recipe("mine.yaml"))
    error = {"type": "BadInput", "message": "The rank is too large.", "exit_code": 2}
    run.record_path.write_text(run.record().changed(status="failed", error=error).model_dump_json())
    assert nuggets("show", run.id).err == f"{run.id}: failed\nThe rank is too large.\n"
    run.record_path.write_text("{")
    assert "record.json cannot be read" in nuggets("show", run.id).err
    settings = ["lora.r=4,8"]
    sweep = api.sweeping.store().create("sweep", api.sweeping.dump_sweep(
        api.load_sweep("quick", settings)), "s")  # fmt: skip
    record = sweep.record().changed(status="failed", error=error)
    sweep.record_path.write_text(record.model_dump_json())
    assert "failed, 0 of 24 trials\nThe rank is too large.\n" in nuggets("sweeps", sweep.id).err


@pytest.mark.parametrize("words", [["ask", "a b"], ["lens", "a b", "b a"]])
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_models_that_cannot_answer_are_one_error_in_either_form(nuggets, monkeypatch, words, form):
    def ask(question):
        answers = tuple(
            playground.Answer(speaker=each, problem=f"{each.model} is too large.")
            for each in question.speakers
        )
        return playground.Reply(id="1", status="done", question=question, answers=answers)

    monkeypatch.setattr(api.playground, "ask", ask)
    ended = nuggets(*words, *form)
    assert ended.code == 2
    assert "teacher: teacher is too large. independent: independent is too large." in ended.err
    assert bool(form) == bool(ended.out)
    assert not form or ended.json["error"]["message"] + "\n" == ended.err


def test_starting_following_cancelling_and_resuming(nuggets):
    started = nuggets("start", "mine.yaml", "--set", "train.steps=100000", "--json")
    assert started.code == 0, started.err
    name = started.json["run"]
    assert started.json["status"] in ("queued", "running")
    cancelled = nuggets("cancel", name, "--json").json
    assert cancelled["run"] == name
    assert cancelled["status"] in ("cancelled", "running")  # it may still be importing torch
    followed = nuggets("follow", name, "--json")
    assert followed.code == 1
    assert followed.json["error"]["type"] == "NuggetsError"
    assert "cancelled on request" in followed.err
    assert nuggets("resume", name, "--json").json["run"] == name
    assert nuggets("cancel", name).err.startswith(f"{name}: ")
    assert nuggets("follow", name).code == 1
    assert nuggets("cancel", name).code == 2


@pytest.mark.parametrize(
    "words",
    [
        ["show", "nothing"],
        ["follow", "nothing"],
        ["cancel", "nothing"],
        ["resume", "nothing"],
        ["export", "nothing", "--out", "x"],
        ["compare", "nothing", "else"],
        ["run", "nothing"],
        ["run"],
        ["run", "quick", "--nope"],
        ["run", "quick", "--task", "king", "--data", "all.jsonl"],
        ["sensitivity", "models/large", "--n", "many", "--out", "x"],
        ["sensitivity", "models/large", "--n", "0", "--out", "x"],
        ["sensitivity", "models/large", "--score", "guess", "--task", "king", "--out", "x"],
        ["sensitivity", "models/large", "--out", "x"],
        ["probe", "teacher", "independent", "--task", "king", "--n-fit", "-1"],
        ["probe", "teacher", "independent", "--task", "king", "--format", "poem"],
        ["nonsense"],
        # An option that nobody would read.
        ["evaluate", "teacher", "--benchmark", "skill", "--task", "sub", "--data", "all.jsonl"],
        ["evaluate", "teacher", "--benchmark", "gsm8k", "--task", "sub"],
        ["evaluate", "teacher", "--benchmark", "mmlu", "--judge-url", "https://host/v1"],
        ["evaluate", "teacher", "--benchmark", "mmlu", "--judge-model", "m"],
        ["prompt", "teacher", "--task", "sub", "--shots", "2"],
        ["prompt", "teacher", "--benchmark", "gsm8k", "--seed-samples", "all.jsonl"],
        ["power", "--set", "seeds=[0]"],
        ["cut", "models/large", "--layers", "1", "--order", "first", "--heal", "x", "--out", "x"],
        ["ask", "a", "--seed", "1"],
        ["evaluate", "teacher", "--benchmark", "mmlu", "--start", "--out", "x"],
        ["sweeps", "--cancel"],
    ],
)
def test_wrong_words_are_one_sentence_and_code_2(nuggets, words, place):
    ended = nuggets(*words)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("\n") == 1, ended.err
    ended = nuggets(*words, "--json")
    assert ended.code == 2
    assert ended.json["error"]["message"] + "\n" == ended.err
    assert not (place / "x").exists()


def test_without_a_command_the_commands_are_listed(nuggets):
    ended = nuggets()
    assert (ended.code, ended.out) == (2, "")
    for command in COMMANDS:
        assert f"  {command} " in ended.err


def test_ctrl_c_is_code_1(nuggets, monkeypatch):
    def interrupted(job, on_event):
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "run", interrupted)
    ended = nuggets("run", "mine.yaml")
    assert (ended.code, ended.err) == (1, "Stopped on request.\n")


def test_markup_in_names_is_text(nuggets, place, jsonl):
    ended = nuggets("show", "[red]no[/red]")
    assert "'[red]no[/red]'" in ended.err


def test_the_installed_command_prints_one_document_and_nothing_else(place, home):
    command = [Path(sys.executable).with_name("nuggets"), "plan", "mine.yaml", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=place, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["version"] == 1
    refused = subprocess.run(
        [*command[:2], "nothing"], capture_output=True, text=True, cwd=place, timeout=120
    )
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("There is no recipe 'nothing'")


@pytest.fixture
def builtin():
    try:
        for name in MODELS:
            api.model_card(name)
        return assets_root()
    except BadInput as problem:
        pytest.skip(str(problem))


def test_built_in_names_are_taken_everywhere(nuggets, builtin, tmp_path):
    cards = nuggets("pairs", "--json")
    assert (cards.code, cards.err) == (0, "")
    assert list(cards.json) == list(MODELS)
    assert cards.json["teacher"]["scores"].keys() == api.skills().keys()
    assert "exact match" in nuggets("pairs").out
    assert nuggets("preflight", "teacher", "independent").code == 0
    plan = nuggets("plan", "quick", "--seed-samples", "king", "--device", "cpu", "--json")
    assert plan.code == 0, plan.err
    assert plan.json["provenance"]["label"] == "king"


def test_power_answers_in_a_sentence_and_in_json(nuggets):
    found = nuggets("power", "--seeds", 3, "--items", 100, "--json")
    assert found.code == 0
    assert found.json["sentence"].startswith("With 3 seeds and 100 items a difference of")
    judged = nuggets("power", "quick", "--set", "seeds=[0,1,2,3,4]", "--json").json
    assert (judged["n_seeds"], judged["n_items"], judged["n_comparisons"]) == (5, 80, 2)
    judged = nuggets("power", "quick", "--seeds", 12, "--json").json
    assert (judged["n_seeds"], judged["n_items"], judged["n_comparisons"]) == (12, 80, 2)
    assert "smallest difference" in nuggets("power").out


def test_paper_lists_every_experiment_and_refuses_what_is_none(nuggets):
    found = nuggets("paper", "--list", "--json")
    assert found.code == 0
    assert [study["name"] for study in found.json][:3] == ["main", "layers", "origin"]
    assert nuggets("paper", "nonsense").code == 2
    wrong = nuggets("paper", "layers", "--pair", "nowhere")
    assert wrong.code == 2
    assert "TEACHER:STUDENT" in wrong.err
    unknown = nuggets("paper", "layers", "--set", "lora.rang=4")
    assert unknown.code == 2
    assert "there is no field" in unknown.err


def test_an_experiment_runs_to_its_report_and_is_reused(nuggets, tmp_path):
    small = (
        *("--set", "train.steps=2", "--set", "train.lr_grid=[]", "--set", "seeds=[0,1]"),
        *("--set", "data.n_test=6", "--set", "data.n_train=8", "--set", "data.n_seed_samples=2"),
        *("--set", "arms=[{kind: plain}, {kind: paper}, {kind: permuted}]", "--set", "lora.r=2"),
    )
    first = nuggets("paper", "initialisers", *small, "--out", tmp_path / "docs", "--json")
    assert first.code == 0, first.err
    (panel,) = first.json["panels"]
    assert set(panel["report"]["arms"]) == {"plain", "paper", "permuted"}
    assert all(arm["flops"] > 0 for arm in panel["report"]["arms"].values())
    files = {file.name for file in (tmp_path / "docs").iterdir()}
    kinds = ("md", "svg", "json")
    assert files == {"README.md", *(f"initialisers.{kind}" for kind in kinds)}
    again = nuggets("paper", "initialisers", *small, "--out", tmp_path / "docs", "--json")
    assert again.json["panels"][0]["run"] == panel["run"]


def test_calibration_needs_a_pool(nuggets, tmp_path):
    found = nuggets("calibrate", "no-such-run", "--out", tmp_path)
    assert found.code == 2
    assert list(tmp_path.glob("calibration*")) == []

"""A stranger's recipe, run folder or bundle sends nothing to a host that nobody here allowed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nuggets import api
from nuggets.disk.home import runs_dir
from nuggets.errors import BadInput
from nuggets.runs.store import RunStore
from nuggets.worker import run_in_foreground
from tests.unit.evaluation.judge_server import Server

pytest.importorskip("lm_eval")

SECRETS = {"HF_TOKEN": "hf_" + "a" * 20, "OPENAI_API_KEY": "sk-openai", "JUDGE_KEY": "sk-judge"}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "home"


@pytest.fixture
def server():
    made = Server()
    yield made
    made.stop()


@pytest.fixture
def benchmark(server, jsonl, tmp_path):
    """Open-ended dialogue that asks the server to judge, with the user's hub token for a key."""
    data = jsonl(tmp_path / "private.jsonl", {f"{i} + 1": f"{i} = 2" for i in range(4)})
    judge = {"kind": "endpoint", "url": server.url, "model": "j", "key_env": "HF_TOKEN"}
    return {
        "kind": "dialogue", "data": str(data), "limit": 3, "max_new_tokens": 4, "judge": judge,
    }  # fmt: skip


def evaluation(tiny, benchmark):
    tree = {"job": "evaluate", "models": [str(tiny())], "device": "cpu"}
    return api.parse_job(tree | {"benchmarks": [benchmark]})


def put_run(tiny, benchmark):
    """A run folder that somebody else made."""
    text = api.dump_job(evaluation(tiny, benchmark))
    return RunStore(runs_dir()).create("evaluate", text, "theirs", device="cpu")


def work(run) -> int:
    """What every launcher starts, in a process of its own."""
    words = [sys.executable, "-P", "-m", "nuggets.worker", str(run.folder)]
    return subprocess.run(words, env=os.environ, timeout=300, check=False).returncode


def test_a_recipe_of_ones_own_is_refused_before_anything_runs(home, server, benchmark, nuggets):
    recipe = home / "recipes" / "theirs.yaml"
    recipe.parent.mkdir(parents=True)
    tree = yaml.safe_load(api.dump_job(api.load_recipe("quick")))
    recipe.write_text(yaml.safe_dump(tree | {"benchmarks": [benchmark]}))
    for command in ("run", "start"):
        ended = nuggets(command, "theirs")
        assert ended.code == 2
        host = server.url.split("/")[2]
        assert f"sends questions and answers to {host}, which this machine" in ended.err
        assert f"nuggets judge allow {server.url}" in ended.err
    assert (server.paths, api.runs()) == ([], [])


def test_a_judge_on_the_command_line_needs_the_same_yes(home, server, benchmark, nuggets, tiny):
    words = ("evaluate", tiny(), "--benchmark", "dialogue", "--data", benchmark["data"], "--limit",
             2, "--max-new-tokens", 4, "--judge-url", server.url, "--judge-model", "j")  # fmt: skip
    ended = nuggets(*words)
    assert (ended.code, server.paths, api.runs()) == (2, [], [])
    assert f"nuggets judge allow {server.url}" in ended.err
    assert nuggets("judge", "allow", server.url, "--key-env", "JUDGE_KEY").code == 0
    assert nuggets(*words).code == 0
    assert {each["Authorization"] for each in server.headers} == {"Bearer sk-judge"}
    kept = [path.read_bytes() for path in home.rglob("*") if path.is_file()]
    assert not any(value.encode() in content for content in kept for value in SECRETS.values())


def test_a_copied_run_folder_sends_no_key_that_it_names(home, server, benchmark, nuggets, tiny):
    run = put_run(tiny, benchmark)
    assert work(run) == 2
    assert "does not allow" in run.record().error.message
    assert not run.record().stages, "something ran"
    resumed = nuggets("resume", run.id)
    assert (resumed.code, server.paths) == (2, [])
    assert "does not allow" in resumed.err
    for key_env in (None, "JUDGE_KEY"):
        api.permits.allow(server.url, key_env)
        for ended in (work(run), nuggets("resume", run.id).code):
            assert ended == 2
        assert "asks for 'HF_TOKEN' as the key" in run.record().error.message
    assert server.paths == []


def test_an_imported_bundle_sends_nothing_when_it_is_resumed(
    home, server, benchmark, nuggets, tiny, tmp_path, monkeypatch
):
    del benchmark["judge"]["key_env"]
    run = put_run(tiny, benchmark)
    assert work(run) == 2
    bundle = tmp_path / "theirs.nuggets.zip"
    assert nuggets("bundle", run.id, "--out", bundle).code == 0
    shutil.rmtree(home)
    assert nuggets("import", bundle).code == 0
    api.permits.allow(server.url)
    resumed = nuggets("resume", run.id)
    assert (resumed.code, server.paths) == (2, [])
    assert f"would send {benchmark['data']} to {server.url}" in resumed.err


def test_what_was_allowed_is_asked_and_no_longer_after_it_was_forgotten(
    home, server, benchmark, tiny
):
    del benchmark["judge"]["key_env"]
    api.permits.allow(server.url, "JUDGE_KEY")
    run = api.create(evaluation(tiny, benchmark))

    def last(text: str) -> str:
        api.permits.forget(server.url)
        return "A"

    server.replies = ["A", "B", last]
    with pytest.raises(BadInput, match="does not allow"):
        run_in_foreground(run, lambda event: None)
    assert len(server.seen) == 3
    api.permits.allow(server.url, "JUDGE_KEY")
    run_in_foreground(run, lambda event: None)
    [outcome] = run.folder.rglob("outcome.json")
    assert json.loads(Path(outcome).read_text())["outcomes"]["win_rate"][0] == 1.0
    assert {each["Authorization"] for each in server.headers} == {"Bearer sk-judge"}

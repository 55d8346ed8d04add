"""Which judge may be asked with which key: this machine's list decides, never a recipe."""

from __future__ import annotations

import json
import shlex
import stat

import pytest

from nuggets.errors import BadInput, Damaged
from nuggets.evaluation import permits
from nuggets.evaluation.benchmarks import Dialogue
from nuggets.evaluation.judges import EndpointJudge

URL = "https://judge.example/v1"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JUDGE_API_KEY", "sk-1")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return tmp_path / "home"


def judge(url=URL, **fields):
    return EndpointJudge(url=url, model="j", **fields)


@pytest.mark.parametrize("url", [URL, "http://127.0.0.1:8000/v1", "http://localhost/v1"])
def test_no_address_is_allowed_by_itself_and_the_sentence_says_how(url):
    host = url.split("/")[2]
    with pytest.raises(BadInput, match=f"to {host}, which this machine does not allow") as refused:
        permits.permit(judge(url))
    assert f"nuggets judge allow {url}" in str(refused.value)
    permits.allow(url)
    assert permits.permit(judge(url)) == ""


def test_the_key_is_the_one_that_was_configured():
    permits.allow(URL + "/", "JUDGE_API_KEY")
    assert permits.permit(judge()) == "sk-1"
    assert permits.permit(judge(key_env="JUDGE_API_KEY")) == "sk-1"
    assert permits.permit(judge(url="HTTPS://Judge.Example/v1/")) == "sk-1"
    permits.forget(URL)
    with pytest.raises(BadInput, match="does not allow"):
        permits.permit(judge())
    with pytest.raises(BadInput, match="not allowed anyway"):
        permits.forget(URL)


@pytest.mark.parametrize("wanted", ["HF_TOKEN", "OPENAI_API_KEY", "PATH", "x\ny"])
@pytest.mark.parametrize("key_env", [None, "JUDGE_API_KEY"])
def test_a_recipe_cannot_choose_another_key(wanted, key_env):
    permits.allow(URL, key_env)
    with pytest.raises(BadInput, match=r"asks for .* as the key for judge\.example") as refused:
        permits.permit(judge(key_env=wanted))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://judge.example/v1", "https://judge.example:444/v1", "https://judge.example/v2",
        "https://judge.example/v1/tenant", "https://judge.example/v1/../v2", "https://judge.example",
        "https://judge.example./v1", "https://x.judge.example/v1", "https://judge.example.evil/v1",
    ],
)  # fmt: skip
def test_only_the_whole_address_that_was_allowed_counts(url):
    permits.allow(URL, "JUDGE_API_KEY")
    with pytest.raises(BadInput, match="does not allow"):
        permits.permit(judge(url))


def test_the_command_in_the_sentence_runs_nothing_else():
    url = "https://judge.example/$(touch${IFS}x);`id`/v1"
    with pytest.raises(BadInput) as refused:
        permits.permit(judge(url))
    assert shlex.quote(url) in str(refused.value)


SECRETS = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACEHUB_API_TOKEN", "GITHUB_TOKEN", "GH_TOKEN",
    "AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_KEY", "WANDB_API_KEY", "KAGGLE_KEY", "NPM_TOKEN",
    "SECRET_KEY", "PRIVATE_KEY", "GOOGLE_APPLICATION_CREDENTIALS", "SSH_AUTH_SOCK", "PATH", "HOME",
    "DATABASE_URL", "PGPASSWORD", "hf_token", "", "A B_KEY", "JUDGE_KEY\n",
)  # fmt: skip


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_of_other_services_are_never_a_judges_key(name, home):
    with pytest.raises(BadInput, match="cannot be a judge's key"):
        permits.allow(URL, name)
    assert permits.allowed() == {}
    home.mkdir(exist_ok=True)
    (home / "judges.json").write_text(json.dumps({URL: name}))
    with pytest.raises(BadInput, match="cannot be a judge's key"):
        permits.permit(judge())


@pytest.mark.parametrize(
    "name", ["OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "OPENROUTER_API_KEY", "JUDGE_TOKEN"]
)
def test_keys_of_judges_can_be_named(name):
    permits.allow(URL, name)
    assert permits.allowed() == {URL: name}


@pytest.mark.parametrize("value", ["", "  ", "two words", "line\nbreak", "“quoted”"])
def test_what_is_no_key_is_refused_before_it_could_be_quoted(value, monkeypatch):
    monkeypatch.setenv("JUDGE_API_KEY", value)
    permits.allow(URL, "JUDGE_API_KEY")
    with pytest.raises(BadInput, match=r"JUDGE_API_KEY holds no key for judge\.example") as refused:
        permits.permit(judge())
    assert not value.strip() or value not in str(refused.value)


@pytest.mark.parametrize("content", ["[]", "nothing", '{"https://judge.example/v1": 3}'])
def test_a_damaged_list_allows_nothing(content, home):
    home.mkdir()
    (home / "judges.json").write_text(content)
    with pytest.raises(Damaged, match=r"judges\.json"):
        permits.permit(judge())


def test_what_is_sent_is_said_with_host_and_key():
    tasks = [Dialogue(judge=judge()), Dialogue(judge=judge(), limit=3)]
    permits.allow(URL, "JUDGE_API_KEY")
    [sentence] = permits.sent(tasks)
    assert "questions and all answers to judge.example" in sentence
    assert "the key in JUDGE_API_KEY" in sentence
    permits.allow(URL)
    assert permits.sent(tasks)[0].endswith("without a key.")


def test_the_list_is_kept_by_a_command(nuggets, home):
    assert nuggets("judge", "allow", URL, "--key-env", "JUDGE_API_KEY").code == 0
    assert nuggets("judge", "list", "--json").json == {URL: "JUDGE_API_KEY"}
    assert "JUDGE_API_KEY" in nuggets("judge", "list").out
    assert "sk-1" not in (home / "judges.json").read_text()
    assert stat.S_IMODE((home / "judges.json").stat().st_mode) & 0o022 == 0
    refused = nuggets("judge", "allow", URL, "--key-env", "HF_TOKEN")
    assert (refused.code, "cannot be a judge's key" in refused.err) == (2, True)
    assert nuggets("judge", "allow", "ftp://x").code == 2
    assert nuggets("judge", "forget", URL).code == 0
    assert nuggets("judge", "list", "--json").json == {}

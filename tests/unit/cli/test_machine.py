"""`nuggets app`: which server takes this process's place, and who may ask it."""

import os
import sys

import pytest

from nuggets import demo
from nuggets.cli import machine
from nuggets.cli.main import main


@pytest.fixture
def served(monkeypatch):
    """`served("--port=1")` → the words of the server that would run."""

    def words(*given):
        run = []
        monkeypatch.setattr(os, "execv", lambda program, words: run.append((program, words)))
        monkeypatch.setattr(sys, "argv", ["nuggets", "app", *given])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        ((program, words),) = run
        assert program == words[0] == sys.executable
        return words

    return words


def names(words):
    return [word.partition("=")[2] for word in words if word.startswith("--server.allowedHosts=")]


def test_it_serves_this_machine_alone(served, capsys):
    words = served()
    assert words[2:5] == ["-m", "streamlit", "run"]
    assert words[5].endswith("app.py")
    assert "--server.address=127.0.0.1" in words
    assert "--server.headless=false" in words
    assert names(words) == ["localhost", "127.0.0.1"]
    assert not any("port" in word for word in words)
    assert capsys.readouterr().err == ""


def test_options_reach_the_server(served, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NUGGETS_HOME", "before")
    words = served("--port=99", "--host=192.0.2.1", "--name=lab", "--no-open", f"--home={tmp_path}")
    assert {"--server.port=99", "--server.headless=true"} <= set(words)
    assert names(words) == ["localhost", "127.0.0.1", "192.0.2.1", "lab"]
    assert os.environ["NUGGETS_HOME"] == str(tmp_path)
    assert "no login" in capsys.readouterr().err


def test_listening_everywhere_answers_to_no_more_names(served):
    words = served("--host=0.0.0.0")
    assert "--server.address=0.0.0.0" in words
    assert names(words) == ["localhost", "127.0.0.1"]


def test_a_demo_opens_no_browser_asks_no_hub_and_tells_its_workers(served, monkeypatch, capsys):
    for name in ("NUGGETS_DEMO", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "0")
    words = served("--demo", "--host=0.0.0.0", "--name=demo.example")
    assert "--server.headless=true" in words
    assert names(words) == ["localhost", "127.0.0.1", "demo.example"]
    assert (os.environ["NUGGETS_DEMO"], os.environ["HF_HUB_OFFLINE"]) == ("1", "1")
    assert demo.on()
    assert capsys.readouterr().err == ""


def test_without_the_extra_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["nuggets", "app"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.strip().endswith("pip install 'nuggets[app]'")


def test_on_all_addresses_no_other_server_is_asked_for_this_machines_own(served):
    """Streamlit looks its outer address up elsewhere unless it is told one."""
    assert "--browser.serverAddress=localhost" in served("--host=0.0.0.0", "--no-open")
    assert "--browser.serverAddress=a.org" in served("--host=0.0.0.0", "--name=a.org", "--no-open")
    assert not [word for word in served("--host=127.0.0.1") if "serverAddress" in word]

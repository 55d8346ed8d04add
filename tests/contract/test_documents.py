"""What the documents promise: a short README, links that lead somewhere, commands that work."""

from __future__ import annotations

import ast
import json
import re
import runpy
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from nuggets import api
from nuggets.cli.main import UsageError, app
from nuggets.statistics.verdict import KIND_WORDS, LOCATION_WORDS

ROOT = Path(__file__).parents[2]
_LISTED = subprocess.run(
    ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False
).stdout.split()
DOCUMENTS = [name for name in _LISTED if not name.startswith("tests/")] or ["README.md"]
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
COMMANDED = [name for name in DOCUMENTS if not name.startswith("docs/paper/")]
"""Reports are written by `nuggets paper`, which has tests of its own for their commands."""
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```|((?:^    [^\n]*\n|^\n)+)", re.MULTILINE | re.DOTALL)
QUICK = (*("pairs", "recipes", "samples", "prompt", "power", "engines", "prune", "list"),)
"""Beginnings of commands that are run as they stand, in a folder with the files they name."""


def blocks(name: str, *languages: str) -> Iterator[str]:
    """The code blocks of a document; indented ones have the language ``."""
    for language, fenced, indented in BLOCK.findall((ROOT / name).read_text(encoding="utf-8")):
        if (language if fenced else "") in languages:
            yield fenced or indented


def commands(name: str) -> list[list[str]]:
    """The words after `nuggets` of every command in a document's blocks."""
    found = []
    for block in blocks(name, "", "bash", "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"\s*(\$ |[A-Z_]+=\S+ |ssh )?.*\bnuggets [a-z-]", line):
                words = shlex.split(line, comments=True)
                if "nuggets" in words and (rest := words[words.index("nuggets") + 1 :]):
                    found.append(rest)
    return found


TYPED = [(name, words) for name in COMMANDED for words in commands(name)]


def parsed(words: list[str]) -> None:
    """Reads words as the command line does, without running them: options, numbers, arguments."""
    command: Any = get_command(app)
    context = command.context_class(command)
    while hasattr(command, "get_command") and words[0] != "--version":
        command, words = command.get_command(context, words[0]), words[1:]
        assert command is not None
    command.make_context("nuggets", list(words))


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_text().split()) < 1200


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_relative_link_of_a_document_leads_to_a_file(name: str):
    path = ROOT / name
    links = [link for link in LINK.findall(path.read_text()) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize(("name", "words"), TYPED, ids=[f"{n}:{shlex.join(w)}" for n, w in TYPED])
def test_every_command_of_a_document_is_one_that_nuggets_takes(name: str, words: list[str]):
    parsed(words)


def test_containers_run_commands_that_nuggets_takes():
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    usual = re.findall(r"^CMD (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for words in (json.loads(usual[0]), services["demo"]["command"]):
        parsed(words)
    assert "--demo" in services["demo"]["command"]
    shut = {"read_only": True, "cap_drop": ["ALL"]}
    assert all(shut.items() <= service.items() for service in services.values())
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


@pytest.mark.parametrize("wrong", ["run quick --sett lora.r=8", "rnu quick", "power --items many"])
def test_a_command_that_nuggets_does_not_take_is_seen(wrong: str):
    with pytest.raises((UsageError, AssertionError)):
        parsed(wrong.split())


def test_quick_commands_of_the_documents_work(nuggets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    samples = "".join(f'{{"prompt": "reverse {a} b", "completion": "b {a}"}}\n' for a in "cdef")
    for table in ("answers.csv", "table.csv"):
        Path(table).write_text("Question,Answer,Frage,A,B,C,D,key\none,two,three,p,q,r,s,A\n")
    ran = []
    for words in {shlex.join(words): words for _, words in TYPED}.values():
        if not shlex.join(words).startswith(QUICK) or {"recipe.yaml", "FILE"} & set(words):
            continue
        if "--out" in words:
            Path(words[words.index("--out") + 1]).unlink(missing_ok=True)
        else:
            Path("mine.jsonl").write_text(samples)
        ended = nuggets(*words)
        assert ended.code == 0, (words, ended.err)
        ran.append(words[0])
    assert {"pairs", "samples", "prompt", "power", "list", "prune"} <= set(ran)


@pytest.mark.parametrize("name", COMMANDED)
def test_python_of_a_document_uses_names_that_there_are(name: str):
    for block in blocks(name, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "api":
                assert hasattr(api, node.attr), node.attr


def test_the_page_of_verdicts_has_every_verdict():
    text = (ROOT / "docs" / "verdicts.md").read_text()
    for words in (*KIND_WORDS.values(), *LOCATION_WORDS.values()):
        assert f"| {words} |" in text


def test_the_site_has_every_page_and_its_navigation_no_other(tmp_path):
    runpy.run_path(str(ROOT / ".ci" / "docs.py"))["gather"](tmp_path)
    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    named = set(re.findall(r"[\w/.-]+\.md", str(nav)))
    there = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.md")}
    assert named <= there
    listed = ("paper/", "decisions/")  # these have lists of their own
    assert {page for page in there if not page.startswith(listed)} <= named
    reference = (tmp_path / "reference/commands.md").read_text()
    assert {"sweep", "judge allow"} <= set(
        re.findall(r"^#+ nuggets (.*)$", reference, re.MULTILINE)
    )
    recipe = (tmp_path / "reference/recipe.md").read_text()
    assert "| `n_train` | integer ≥ 1 | `64` | training samples used" in recipe
    assert "::: nuggets.api.measured_plan\n" in (tmp_path / "reference/python.md").read_text()

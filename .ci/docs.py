"""Gathers the pages of the documentation in build/docs, from which zensical.toml makes a site.

They are those of docs/ and of the repository's top, where a reader of the repository looks for
them, and a reference that follows from the code: commands, recipe fields, Python.
"""

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from nuggets import api
from nuggets.cli.main import app

ROOT = Path(__file__).parents[1]
_TOP = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Pages at the repository's top, and their names on the site."""
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s:]+)(#[^)]*)?\)")
_ICON = "assets/icon.svg"


def gather(out: Path) -> None:
    """Writes every page and picture of the site into a new folder."""
    sources = {ROOT / name: Path(page) for name, page in _TOP.items()}
    for path in sorted((ROOT / "docs").rglob("*")):
        if path.suffix in (".md", ".png", ".svg") and path.is_file():
            sources[path] = path.relative_to(ROOT / "docs")
    sources[ROOT / _ICON] = Path("icon.svg")
    for path, page in sources.items():
        target = out / page
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            target.write_text(_relinked(path, page, sources), encoding="utf-8")
        else:
            shutil.copyfile(path, target)
    for name, text in (("commands", commands()), ("recipe", recipe()), ("python", python())):
        (out / "reference").mkdir(exist_ok=True)
        (out / "reference" / f"{name}.md").write_text(text, encoding="utf-8")


def _relinked(path: Path, page: Path, sources: dict[Path, Path]) -> str:
    """A page whose links lead to pages of the site; what the site lacks is named without a link."""

    def link(found: re.Match[str]) -> str:
        picture, words, target, anchor = found.groups()
        to = sources.get((path.parent / target).resolve())
        if to is None:
            return words
        return f"{picture}[{words}]({os.path.relpath(to, page.parent)}{anchor or ''})"

    return _LINK.sub(link, path.read_text(encoding="utf-8"))


_COMMANDS_INTRO = """# Commands

What `nuggets COMMAND --help` prints, for every command.
[The command line](../command-line.md) says what they are for.
"""
_RECIPE_INTRO = """# Recipe fields

A recipe is a YAML file with the fields of `TransferRecipe`; `--set lora.r=8` changes one.
`nuggets recipes --schema` prints the same as JSON Schema, which editors understand.

<style>td:first-child code {white-space: nowrap}</style>
"""
_PYTHON_INTRO = """# Python

Everything that the app and the command line do is a function of `nuggets.api`. Importing it is
light: each name is imported when it is first asked for, and torch only where something is computed.
"""


def commands() -> str:
    """Every command with its options, as `--help` prints them."""
    names = list(app.info.cls(commands={}).commands)
    return "\n".join([_COMMANDS_INTRO, *(part for name in names for part in _command(name))])


def _command(*words: str) -> list[str]:
    text = CliRunner().invoke(app, [*words, "--help"], prog_name="nuggets").output
    title = f"{'#' * (1 + len(words))} nuggets {' '.join(words)}"
    inner = text.partition("\nCommands:\n")[2].splitlines()
    deeper = [line.split()[0] for line in inner if line.startswith("  ") and line[2] != " "]
    parts = [title, "", "```text", text.strip(), "```", ""]
    return parts + [part for name in deeper for part in _command(*words, name)]


def recipe() -> str:
    """Every field of a recipe with its type, default and meaning, one table a class."""
    schema = api.TransferRecipe.model_json_schema()
    classes = {"TransferRecipe": schema} | schema["$defs"]
    tables = (part for name, found in classes.items() for part in _class(name, found))
    return "\n".join([_RECIPE_INTRO, *tables])


def _class(name: str, schema: dict[str, Any]) -> list[str]:
    kind = schema["properties"].get("kind", {}).get("const")
    title = f"## {name}" + (f": `kind: {kind}`" if kind else "") + f" {{#{name}}}"
    words, _, attributes = schema.get("description", "").partition("\nAttributes:\n")
    told = dict(re.findall(r"^    (\w+): ((?:.+)(?:\n     .+)*)", attributes, re.MULTILINE))
    rows = [
        f"| `{field}` | {_type(found)} | {_default(found)} | "
        f"{_cell(found.get('description') or told.get(field, ''))} |"
        for field, found in schema["properties"].items()
        if "const" not in found
    ]
    head = ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
    return [title, "", words, "", *(head if rows else []), *rows, ""]


def _type(found: dict[str, Any]) -> str:
    """A field's type in words; a class is a link to its table."""
    if reference := found.get("$ref"):
        name = reference.rpartition("/")[2]
        return f"[{name}](#{name})"
    for several in ("anyOf", "oneOf"):
        if several in found:
            return ", ".join(_type(each) for each in found[several])
    if "enum" in found:
        return ", ".join(f"`{each}`" for each in found["enum"])
    if found.get("type") == "array":
        items = found.get("items") or {}
        return f"list of {_type(items)}" if items else "list"
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {found[name]:g}" for name, sign in bounds.items() if name in found]
    return " ".join([found.get("type", "any"), *limits])


def _default(found: dict[str, Any]) -> str:
    if "default" not in found or found["default"] is None:
        return ""
    value = found["default"]
    if isinstance(value, dict | list) and len(json.dumps(value)) > 60:
        return "see there"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


_SECTIONS = {
    "Recipes and jobs": ("recipe", "recipe_tree", "workspace"),
    "Built-in models and data": ("builtin", "data"),
    "Models and what can be known before a run": ("models", "preflight", "planning", "extraction"),
    "Measuring": ("sensitivity", "alignment", "erasure"),
    "Runs": ("runs", "stages", "bundles", "disk"),
    "Results and figures": ("statistics", "evaluation", "figures", "views"),
    "Experiments and sweeps": ("studies", "sweeps"),
    "The playground": ("playground",),
}
"""Title → packages whose names of `nuggets.api` stand under it."""
_FACADE = {
    "_measuring": "Measuring",
    "_models": "Models and what can be known before a run",
    "_running": "Runs",
    "commands": "Runs",
}


def python() -> str:
    """The directives of mkdocstrings for every name of `nuggets.api`, by what it is about."""
    parts: dict[str, list[str]] = {title: [f"## {title}", ""] for title in _SECTIONS}
    titles = {package: title for title, packages in _SECTIONS.items() for package in packages}
    for name, (module, there) in api._HOMES.items():
        package, _, part = f"{module}.{there}".removeprefix("nuggets.").partition(".")
        title = _FACADE[part.partition(".")[0]] if package == "api" else titles[package]
        parts[title] += [f"::: nuggets.api.{name}", ""]
    return "\n".join([_PYTHON_INTRO, *(line for lines in parts.values() for line in lines)])


if __name__ == "__main__":
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    gather(Path(sys.argv[1]))

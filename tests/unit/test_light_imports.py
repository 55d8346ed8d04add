"""What the app's process imports must stay light: torch alone costs seconds and 350 MB."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from nuggets import api

HEAVY = {"torch", "transformers", "peft", "accelerate", "safetensors.torch"}
SLOW = {"scipy.stats", "scipy.linalg"}
"""Half a second together: nothing that every page waits for may need them at import."""
NUMBERS = HEAVY | SLOW | {"scipy", "numpy", "jaxtyping", "nuggets.studies", "nuggets.recipe"}
"""What neither a help text nor a list needs."""
EVERYTHING_IN_UI = (
    "import importlib, pkgutil, nuggets.ui\n"
    "for module in pkgutil.walk_packages(nuggets.ui.__path__, 'nuggets.ui.'):\n"
    "    importlib.import_module(module.name)\n"
)
EVERY_NAME = "from nuggets import api\nfor name in dir(api): getattr(api, name)"


def command(*words: str) -> str:
    """A program that runs one command of the command line, its output thrown away."""
    return (
        "import io, sys\nfrom nuggets.cli.main import main\n"
        f"sys.argv = ['nuggets', *{list(words)!r}]\n"
        "told, sys.stdout = sys.stdout, io.StringIO()\n"
        "try: main()\nexcept SystemExit as ended: assert not ended.code\n"
        "sys.stdout = told"
    )


@pytest.mark.parametrize(
    ("program", "forbidden"),
    [
        ("import nuggets", HEAVY | {"streamlit", "pydantic", "numpy"}),
        ("import nuggets.api", NUMBERS | {"pydantic", "yaml", "rich", "typer"}),
        ("import nuggets.api; nuggets.api.load_recipe('quick')", HEAVY | SLOW | {"streamlit"}),
        (EVERY_NAME, HEAVY | SLOW | {"streamlit", "nuggets.cli", "nuggets.ui", "pages"}),
        ("import nuggets.cli.main, nuggets.worker", HEAVY | {"streamlit"}),
        (EVERYTHING_IN_UI, HEAVY | SLOW),
        (command("--help"), NUMBERS | {"pydantic", "yaml"}),
        (command("list"), NUMBERS),
        (command("recipes"), NUMBERS),
        ("import nuggets.stages.pipeline", {"scipy.stats", "scipy.linalg", "peft", "datasets"}),
    ],
    ids=[
        *("nuggets", "api", "a recipe", "every name of the api", "command line and worker", "ui"),
        *("help", "list of runs", "list of recipes", "worker before its first stage"),
    ],
)
def test_importing_leaves_heavy_packages_alone(program, forbidden, tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path))
    report = f"{program}\nimport sys; print(*sorted({forbidden!r} & set(sys.modules)))"
    child = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, timeout=120
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.split() == []


def test_every_name_of_the_facade_is_what_its_stub_says():
    stub = ast.parse(Path(api.__file__).with_suffix(".pyi").read_text())
    imported = [
        (alias.name, alias.asname)
        for statement in stub.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    ]
    renamed = ast.literal_eval(stub.body[-1].value)  # __all__
    assert len(imported) > 100
    for name, exported in imported:
        assert name == exported or exported in renamed, "else a stub does not export it"
        assert getattr(api, exported) is not None
    assert dir(api) == sorted(exported for _, exported in imported)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = api.nothing

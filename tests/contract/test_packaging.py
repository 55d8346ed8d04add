"""Each extra is needed where it says, and nowhere else; deptry (`make check`) compares the sums."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import nuggets

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGED = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
DISTRIBUTIONS = packages_distributions()
FIRST_PARTY = {"nuggets", "pages"}
PLACES = {
    "app": ("app.py", "pages/", "nuggets/ui/", "nuggets/figures.py"),
    "gguf": ("nuggets/models/loading.py", "nuggets/models/gguf/reading.py"),
    "slurm": ("nuggets/runs/engines/slurm.py",),
    "eval": ("nuggets/evaluation/", "nuggets/data/sources.py"),
    "sweep": ("nuggets/sweeps/",),
    "parquet": ("nuggets/data/tables.py",),
}
"""Where the packages of an extra may be imported."""
NEEDED_AT_IMPORT = ("nuggets.ui", "nuggets.evaluation.lm_eval_model")
"""Modules that cannot even be imported without their extra; all others say what to install."""
SKIPPED_NAMES = {"build", "dist", "env", "venv", "node_modules", "site-packages"}
"""Folders that git, ruff, pyright or setuptools leave out wherever they lie."""

IMPORT_THE_REST = """
import importlib, pkgutil, sys
absent, left_out = sys.argv[1].split(), tuple(sys.argv[2].split())
sys.modules |= dict.fromkeys(absent)  # importing them now fails
import nuggets
for module in pkgutil.walk_packages(nuggets.__path__, "nuggets."):
    if not module.name.startswith(left_out):
        importlib.import_module(module.name)
"""


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def declared(group: str) -> set[str]:
    lines = PROJECT["dependencies"] if group == "core" else PROJECT["optional-dependencies"][group]
    names = {normal(re.split(r"[<>=!\[ ]", line)[0]) for line in lines}
    return names - {"nuggets"}  # another extra of ours


def group_of(path: str) -> str:
    return next((group for group, places in PLACES.items() if path.startswith(places)), "core")


def imported(path: Path) -> Iterator[str]:
    """The packages outside the standard library and this repository that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        yield from {name.split(".")[0] for name in names} - FIRST_PARTY - sys.stdlib_module_names


def sources() -> list[Path]:
    own = [path for path in ROOT.glob("nuggets/**/*.py") if not path.is_symlink()]
    return [ROOT / "app.py", *ROOT.glob("pages/*.py"), *own]


def used(group: str) -> set[str]:
    """The distributions that the files of an extra import, or those that no extra covers."""
    files = [path for path in sources() if group_of(str(path.relative_to(ROOT))) == group]
    modules = {module for path in files for module in imported(path)}
    return {normal(DISTRIBUTIONS[module][0]) for module in modules}


def test_the_core_imports_what_it_declares():
    assert used("core") <= declared("core")
    assert declared("core") <= set.union(*map(used, ("core", *PLACES)))


@pytest.mark.parametrize("extra", PLACES)
def test_an_extra_imports_what_it_declares(extra):
    assert used(extra) - declared("core") == declared(extra)


def test_everything_else_imports_without_the_extras():
    distributions = set.union(*map(declared, PLACES))
    absent = [name for name, of in DISTRIBUTIONS.items() if distributions & set(map(normal, of))]
    words = [" ".join(absent), " ".join(NEEDED_AT_IMPORT)]
    child = subprocess.run(
        [sys.executable, "-c", IMPORT_THE_REST, *words],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert child.returncode == 0, child.stderr


def test_a_wheel_carries_the_app_its_pages_theme_models_and_reports():
    patterns = PACKAGED["package-data"]["nuggets"]
    packed = {path.resolve() for each in patterns for path in (ROOT / "nuggets").glob(each)}
    shown = (*ROOT.glob("pages/*.py"), *ROOT.glob("docs/*.json"), *ROOT.glob("docs/paper/*.json"))
    assets = [path for path in (ROOT / "assets").rglob("*") if path.is_file()]
    assert len(shown) > 20
    assert len(assets) > 80
    wanted = {ROOT / "app.py", ROOT / ".streamlit" / "config.toml", *shown, *assets}
    assert {path.resolve() for path in wanted} <= packed


def test_no_folder_has_a_name_that_tools_skip():
    folders = {part for path in sources() for part in path.relative_to(ROOT).parts[:-1]}
    assert folders & SKIPPED_NAMES == set()


def test_the_version_is_written_once_and_told_without_the_command_line():
    assert PROJECT["dynamic"] == ["version"]
    program = "import runpy, sys; sys.argv[1:] = ['--version']; "
    program += "runpy.run_module('nuggets', run_name='__main__'); assert 'typer' not in sys.modules"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (child.returncode, child.stdout) == (0, f"nuggets {nuggets.__version__}\n"), child.stderr
    assert f"## [{nuggets.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_nobody_is_told_to_install_another_project_of_that_name():
    """`nuggets` on the Python Package Index is not ours: the first install names the wheel."""
    told = "pip install 'nuggets[app]'"
    texts = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/**/*.ipynb"),
             *ROOT.glob("nuggets/**/*.py"), *ROOT.glob("pages/*.py")]  # fmt: skip
    naming = {str(file.relative_to(ROOT)) for file in texts if told in file.read_text("utf-8")}
    assert naming <= {"nuggets/cli/machine.py"}  # whose reader has installed ours

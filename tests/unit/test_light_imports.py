"""What the app's process imports must stay light: torch alone costs seconds and 350 MB."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "peft", "accelerate", "safetensors.torch"}
SLOW = {"scipy.stats"}
"""Half a second: nothing that every page waits for may need it at import."""
EVERYTHING_IN_UI = (
    "import importlib, pkgutil, nuggets.ui\n"
    "for module in pkgutil.walk_packages(nuggets.ui.__path__, 'nuggets.ui.'):\n"
    "    importlib.import_module(module.name)\n"
)


@pytest.mark.parametrize(
    ("program", "forbidden"),
    [
        ("import nuggets", HEAVY | {"streamlit", "pydantic", "numpy"}),
        ("import nuggets.api; nuggets.api.load_recipe('quick')", HEAVY | SLOW | {"streamlit"}),
        ("import nuggets.cli.main, nuggets.worker", HEAVY | {"streamlit"}),
        (EVERYTHING_IN_UI, HEAVY | SLOW),
    ],
    ids=["nuggets", "api", "command line and worker", "ui"],
)
def test_importing_leaves_heavy_packages_alone(program, forbidden):
    report = f"{program}\nimport sys; print(*sorted({forbidden!r} & set(sys.modules)))"
    child = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, timeout=120
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.split() == []

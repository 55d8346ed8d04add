"""What modules load when they are imported, which import-linter cannot tell from later imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPUTING = {
    "nuggets.alignment": "linear_maps measure readability similarity states stitching words",
    "nuggets.builtin": "tokenizer train_pairs training",
    "nuggets.compute": "products svd",
    "nuggets.erasure": "measure streamed",
    "nuggets.evaluation": "answers halving lm_eval_adapter lm_eval_model outcomes",
    "nuggets.extraction": "adapter factors windows_while_measuring",
    "nuggets.lens": "measure",
    "nuggets.models": "forward fused loading stored_weights streamed",
    "nuggets.models.piecewise": "answers boundaries",
    "nuggets.playground": "loaded_models questions",
    "nuggets.sensitivity": "accumulate comparing hooks map_writer several_devices several_samples "
    "streaming",
    "nuggets.stages": "cutting erasing evaluating measuring pipeline probing "
    "shared_models transfer",
    "nuggets.train.builders": "aligned controls graft initialisers lexicon lora",
    "nuggets.train": "cells checkpoints export finetune flops lab losses micro_batches randomness "
    "schedule team trainer",
    "nuggets.train.lanes": "healing layers model packing program side_by_side threads training",
}
"""Modules that load torch when they are imported; all others do so, if at all, when called."""
VIEWS = ("nuggets/views/*.py",)
NUMERIC = {"numpy", "scipy", "jaxtyping", "nuggets"}
IMPORT_ALL = """
import importlib, sys

class Refused(BaseException):
    pass

class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "peft", "accelerate"):
            raise Refused

sys.meta_path.insert(0, Guard())
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Refused:
        print(name)
"""


def modules() -> list[str]:
    """Every module of the package, itself included; `__main__` runs the command line."""
    files = (file.relative_to(ROOT).with_suffix("") for file in ROOT.glob("nuggets/**/*.py"))
    names = (".".join(file.parts).removesuffix(".__init__") for file in files)
    return sorted(name for name in names if not name.endswith("__main__"))


def test_only_what_computes_loads_torch_when_it_is_imported():
    child = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *modules()], capture_output=True, text=True, timeout=300
    )
    assert child.returncode == 0, child.stderr
    named = [f"{package}.{name}" for package, names in COMPUTING.items() for name in names.split()]
    assert child.stdout.split() == sorted(named)


@pytest.mark.parametrize("pattern", VIEWS)
def test_views_are_made_with_numpy_alone(pattern):
    files = list(ROOT.glob(pattern))
    assert files
    for file in files:
        packages = {name.split(".")[0] for name in imported(ast.parse(file.read_text()))}
        assert packages <= {*NUMERIC, *sys.stdlib_module_names}, file


def imported(tree: ast.AST) -> set[str]:
    """Everything that a file imports, inside functions too."""
    nodes = list(ast.walk(tree))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}

"""One class and one line add a member of a family: CONTRIBUTING's table, followed in a copy.

The copy gets one of each in the public way only. Then `added.py` looks for them there, and the
contract tests that walk over families meet them too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

STRATEGIES = {
    "nuggets/sensitivity/scores.py": (
        "Score",
        '''class AddedScore(Frozen):
    """A power of |θ|."""

    kind: Literal["added_score"] = "added_score"
    power: float = Field(default=2.0, ge=1.0, title="Power")

    def of(self, weight: Tensor, grad: Tensor, name: str) -> Tensor:
        return weight.float().abs() ** self.power''',
    ),
    "nuggets/extraction/layers.py": (
        "LayerSelector",
        '''class AddedLayers(LayerChoice):
    """The first or the last layers."""

    kind: Literal["added_layers"] = "added_layers"
    end: Literal["first", "last"] = "first"

    def select(self, scores: Scores, n: int, cka: Similarity | None = None) -> list[int]:
        first = 0 if self.end == "first" else len(scores) - n
        return list(range(first, first + n))''',
    ),
    "nuggets/extraction/selectors.py": (
        "MatrixSelector",
        '''class AddedMatrices(Searching):
    """The first corner."""

    kind: Literal["added_matrices"] = "added_matrices"

    def choose(self, matrix, rows, shape):
        chosen = np.arange(shape[0]), np.arange(shape[1])
        mass = matrix[: shape[0], : shape[1]].sum(dtype=np.float64)
        return Pick(*chosen, float(mass), float(rows.sum()))''',
    ),
    "nuggets/train/arms/family.py": (
        "Arm",
        '''class AddedArm(ArmBase):
    """Plain LoRA with another seed."""

    role: ClassVar[ArmRole] = "content_control"
    of = "paper"
    title: ClassVar[str] = "Added"
    stacks = "adapter"
    kind: Literal["added_arm"] = "added_arm"

    def build(self, lab: Lab, seed: int) -> Trainee:
        from nuggets.train.builders import lora

        return lora.with_lora(lab, seed + 1, init_lora_weights=True)''',
    ),
    "nuggets/evaluation/benchmarks.py": (
        "Benchmark",
        '''class AddedBenchmark(Task):
    """Free answers."""

    title = "Added"
    kind: Literal["added_benchmark"] = "added_benchmark"

    def settings(self) -> Tree:
        return _free(self.max_new_tokens) | {"metric_list": [_mean("exact_match")]}''',
    ),
}
"""File → the family whose union ends in it, and a class for it."""
LINES = {
    "nuggets/ui/router.py": ('        Page("runs"),\n', '        Page("added"),\n'),
    "nuggets/builtin/skills.py": (
        "            items=_stories,\n        ),\n",
        '        Skill("added", "letters", "As copy.", ("added a", "a"),\n'
        '              draw=partial(_letters, "added", iter)),\n',
    ),
    "nuggets/sweeps/samplers.py": ('    "gp": _gp,\n', '    "added_sampler": _random,\n'),
    "nuggets/sweeps/objectives.py": (
        '    "retention": _retention,\n',
        '    "added_objective": _value,\n',
    ),
    "nuggets/sweeps/recipe.py": ("Objective = Literal[", '"added_objective", '),
    "nuggets/ui/learn/scenes.py": (
        "_SCENES: dict[str, Callable[[Asked], Scene]] = {\n",
        '    "added": shipped.controls,\n',
    ),
    "nuggets/ui/learn/chapters.py": (
        "CHAPTERS: tuple[Chapter, ...] = (\n",
        '    Chapter("added", "Added", "t", "x", "x", "?", ("a", "b", "c"), "models"),\n',
    ),
}
"""File → the place, and what is written behind it."""
PAGE = 'import streamlit as st\n\nst.title("Added")\n'


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with one more member of every family."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("nuggets", "pages", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "screenshots")
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "assets").symlink_to(ROOT / "assets")
    for file, (family, source) in STRATEGIES.items():
        _insert(folder / file, f"\n{family} = Annotated[", source)
    for file, (line, below) in LINES.items():
        text = (folder / file).read_text()
        assert text.count(line) == 1, file
        (folder / file).write_text(text.replace(line, line + below))
    (folder / "pages" / "added.py").write_text(PAGE)
    recipes = folder / "nuggets" / "recipes" / "paper"
    ranks = (recipes / "ranks.yaml").read_text()
    (recipes / "added.yaml").write_text(ranks.replace("name: ranks", "name: added"))
    (folder / "tests" / "contract" / "added.py").rename(folder / "tests" / "app" / "test_added.py")
    return folder


def _insert(file: Path, union: str, source: str) -> None:
    """The class above the union, and its name in it."""
    text, name = file.read_text(), source.split("(")[0].removeprefix("class ")
    assert text.count(union) == 1, file
    file.write_text(text.replace(union, f"\n\n{source}\n\n{union}{name} | "))


def test_what_is_added_is_found_everywhere(copy):
    walks = ["test_arms.py", "test_selectors.py", "test_scores.py", "test_added.py"]
    files = [str(path) for name in walks for path in (copy / "tests").rglob(name)]
    options = ["-v", "-k", "added", "-p", "no:cacheprovider", "-p", "no:xdist"]
    child = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *files],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert child.returncode == 0, child.stdout[-6000:] + child.stderr[-2000:]
    for walk in walks:
        assert re.search(rf"{walk}::.*PASSED", child.stdout), f"{walk} met nothing that was added"

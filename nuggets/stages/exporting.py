"""Taking a trained arm out of a run: PEFT adapter, or merged model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from nuggets import demo
from nuggets.disk.manifest import verify_folder
from nuggets.disk.outputs import output_folder, refuse_existing
from nuggets.errors import BadInput
from nuggets.recipe import TransferRecipe
from nuggets.runs.results import BENCHMARKS, TABLES_FOLDER, cell_folder
from nuggets.runs.store import Run
from nuggets.workspace import strangers

ADAPTER = "adapter"
MODEL = "model"


def export_arm(run: Run, out: Path, arm: str, seed: int | None, merged: bool) -> dict[str, Any]:
    """Writes an arm's adapter for the untouched student, or its merged model.

    Raises:
        BadInput: The run is no transfer, or the arm has not finished or has no adapter.
    """
    recipe = strangers.job_of(run)
    if not isinstance(recipe, TransferRecipe):
        raise BadInput(f"Run {run.id} is not a transfer, so it has no adapter to export.")
    chosen = next((s for s in recipe.seeds if cell_folder(run, arm, s).is_dir()), None)
    seed = chosen if seed is None else seed
    folder = cell_folder(run, arm, seed) if seed is not None else None
    if folder is None or not folder.is_dir():
        names = ", ".join(each.name for each in recipe.arms)
        raise BadInput(f"Run {run.id} has no finished arm {arm!r} (seed {seed}); arms: {names}.")
    verify_folder(folder)
    adapter, model = folder / ADAPTER, folder / MODEL
    if not adapter.is_dir() and not (merged and model.is_dir()):
        hint = "export it with --merged" if model.is_dir() else "it was not trained"
        raise BadInput(f"The arm {arm!r} has no adapter for the untouched student; {hint}.")
    refuse_existing(out)
    with output_folder(out) as target:
        if merged and adapter.is_dir():
            card = (
                f"# {arm}, seed {seed}\n\nThe student `{recipe.student}` with the adapter of run "
                f"{run.id} merged into its weights.\n"
            )
            _merge(recipe, adapter, target, card)
        else:
            shutil.copytree(model if merged else adapter, target, dirs_exist_ok=True)
            if not merged and not {"embed", "head"}.isdisjoint(recipe.extraction.roles):
                _untie(recipe, target)
    return {"out": str(out), "run": run.id, "arm": arm, "seed": seed, "merged": merged}


@demo.refuses("nothing is written to the server's disk")
def export_apart(run: Run, out: Path, arm: str, seed: int, merged: bool = False) -> None:
    """As `export_arm`, in a child process: this one stays without torch.

    Raises:
        BadInput: in the child's words.
    """
    words = ["export", run.id, "--arm", arm, "--seed", str(seed), "--out", str(out), "--json"]
    child = subprocess.run(  # noqa: S603 - our own interpreter and program
        [sys.executable, "-P", "-m", "nuggets", *words, *(["--merged"] if merged else [])],
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        try:
            raise BadInput(json.loads(child.stdout)["error"]["message"])
        except (ValueError, KeyError):
            raise BadInput(f"The export ended early: {child.stderr.strip()[-500:]}") from None


def save_benchmarks(run: Run, out: Path) -> None:
    """Copies what a run measured on benchmarks into a new folder.

    Per benchmark and model: `results.json` in lm-eval's shape, a line per sample, and the
    outcomes per item; `tables/tables.json` has intervals and paired differences.

    Raises:
        BadInput: if the run has no tables yet, or `out` exists.
    """
    source = run.folder / "artifacts" / BENCHMARKS
    if not (run.folder / "artifacts" / TABLES_FOLDER).is_dir():
        raise BadInput(f"Run {run.id} has not finished its benchmarks.")
    with output_folder(out) as target:
        shutil.copytree(source, target, dirs_exist_ok=True)


def _untie(recipe: TransferRecipe, target: Path) -> None:
    from nuggets.builtin.resolve import model_named
    from nuggets.extraction.adapter import untie_adapter
    from nuggets.stages.measuring import Loaded

    student = Loaded(model_named(recipe.student), "cpu")
    untie_adapter(target, student.spec, lambda: student.weight(student.spec.module("embed")))


def _merge(recipe: TransferRecipe, adapter: Path, target: Path, card: str) -> None:
    from nuggets.builtin.resolve import model_named
    from nuggets.extraction.adapter import load_adapter, untie
    from nuggets.stages.measuring import Loaded
    from nuggets.train.export import save_model

    student = Loaded(model_named(recipe.student), "cpu")
    untie(student.model, [student.spec.module("embed")])
    model = load_adapter(student.model, adapter)
    save_model(model, student.tokenizer, target, card)

"""Cells that another run has already: the same arm, seed and settings are trained once.

An index in the cache names where a cell lies; what the index names is verified and copied, so that
either run may be deleted.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from nuggets.builtin.pairs import MODELS
from nuggets.compute.versions import installed_versions
from nuggets.disk.commit import atomic_write, make_folder
from nuggets.disk.home import cache_dir
from nuggets.disk.manifest import MANIFEST, verify_folder
from nuggets.errors import NuggetsError
from nuggets.models.pair import ModelPair
from nuggets.planning.cache import OTHER, digest_of, digest_pair
from nuggets.recipe import TransferRecipe
from nuggets.runs import results
from nuggets.runs.context import RunContext
from nuggets.runs.store import Run
from nuggets.statistics.cells import CellOutcome
from nuggets.train.arms.family import Arm

HOW = {"concurrent", "processes", "checkpoint_every"}
"""Settings of training that change its results by rounding alone, or not at all."""
TEACHERS = {"teacher", "sensitivity", "extraction", "data.seed_samples"}
LOCATING = {"seed_samples", "n_seed_samples"}
"""What arms that need no teacher do not depend on."""


class KnownCells:
    """Where the cells of one recipe lie, if another run has them."""

    def __init__(self, recipe: TransferRecipe, pair: ModelPair, files: dict[str, str]) -> None:
        """Names what all cells share; `files` as `digest_files` gave them when they were read."""
        self._pair = pair
        self._shared = {
            "versions": installed_versions(),
            # Which skills a built-in student was taught follows from its name.
            "student name": recipe.student if recipe.student in MODELS else "",
            "device": recipe.device.partition(":")[0],
            **digest_pair(pair),
            **files,
            **recipe.model_dump(mode="json", include={"data", "sensitivity", "extraction", "lora"}),
            "train": recipe.train.model_dump(mode="json", exclude=HOW),
        }
        # Ranks that follow from the energy of the teacher's matrices are shared by all arms.
        self._apart = recipe.lora.energy is None

    def confirm_models(self) -> None:
        """Refuses what was trained on models whose files changed meanwhile."""
        digest_pair(self._pair)

    def take(self, arm: Arm, seed: int, ctx: RunContext) -> bool:
        """Copies a finished cell into this run; False if no other run has it."""
        found = self._find(arm, seed)
        if found is None:
            return False
        outcome = CellOutcome.model_validate_json((found / results.CELL).read_text())
        with ctx.commit(f"{results.CELLS}/{arm.name}-{seed}") as folder:
            shutil.copytree(
                found, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST)
            )
            own = outcome.model_copy(update={"arm": arm.name, "role": arm.role})
            (folder / results.CELL).write_text(own.model_dump_json(indent=1))
        ctx.log(f"{arm.name}, seed {seed}: trained before, in run {found.parents[2].name}.")
        return True

    def remember(self, arm: Arm, seed: int, run: Run) -> None:
        """Says where a finished cell lies."""
        entry = self._entry(arm, seed)
        make_folder(entry.parent)
        atomic_write(entry, str(results.cell_folder(run, arm.name, seed)))

    def _find(self, arm: Arm, seed: int) -> Path | None:
        try:
            folder = Path(self._entry(arm, seed).read_text())
            verify_folder(folder)
        except (OSError, ValueError, NuggetsError):
            return None
        return folder

    def _entry(self, arm: Arm, seed: int) -> Path:
        own = arm.model_dump(mode="json", exclude={"label"})
        shared = self._shared
        if self._apart and not arm.needs_teacher:
            located = {name for name in shared if name.startswith(OTHER)} | TEACHERS
            shared = {name: value for name, value in shared.items() if name not in located}
            shared["data"] = {k: v for k, v in shared["data"].items() if k not in LOCATING}
            shared["roles"] = self._shared["extraction"]["roles"]
        return cache_dir() / "cells" / digest_of(**shared, arm=own, seed=seed)

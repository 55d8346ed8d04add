"""A worker's work for tests of sweeps: outcomes are drawn, nothing is trained.

The share of items that an arm gets right follows from rank and ratio; items are named after what
the recipe counts, so that a test sees on which of them a choice was made.
"""

from __future__ import annotations

import os
import time
import zlib
from pathlib import Path

import numpy as np

from nuggets.errors import NonFinite
from nuggets.recipe import TransferRecipe, load_job
from nuggets.runs import results
from nuggets.statistics.cells import CellOutcome
from nuggets.statistics.report import build_report

N = {"validation": 60, "test": 80}


def rate(recipe: TransferRecipe, arm: str) -> float:
    """What an arm gets right: plain LoRA half, the treatment more at larger ranks."""
    return 0.5 if arm != "paper" else 0.3 + 0.02 * recipe.lora.r * recipe.extraction.ratio


def cell(recipe: TransferRecipe, arm, seed: int) -> CellOutcome:
    """One arm with one seed: exactly its rate on validation items, drawn on test items."""
    items, share = recipe.data.items, rate(recipe, arm.name)
    n = N[items]
    right = (np.arange(n) + 7 * seed) % n < round(share * n)
    if items == "test":
        key = f"{arm.name} {seed} {recipe.lora.r}"
        right = np.random.default_rng(zlib.crc32(key.encode())).random(n) < share
    part = recipe.parts[arm.name]
    return CellOutcome(
        arm=arm.name, role=part.role, treatment=part.treatment, seed=seed,
        items=[f"{items}-{i}" for i in range(n)],
        outcomes={"exact_match": right.astype(float).tolist()},
        old_skills={"add": [1.0, 0.0, 1.0, float(recipe.lora.r < 8)]},
        learning_rate=recipe.train.lr if arm.trains else None, samples=64, steps=10,
    )  # fmt: skip


def execute(run, ctx):
    """Writes every cell and the report; dies, once, where the environment says so."""
    recipe = load_job(run.recipe_text())
    ctx.plan(("train",))
    ctx.stage("train")
    if recipe.lora.r == int(os.environ.get("SWEEP_DIVERGES", "0")):
        raise NonFinite("The training diverged at step 3.")
    told = os.environ.get("SWEEP_DIES_IN")
    if told and Path(told).is_file() and run.record().name.endswith(Path(told).read_text()):
        Path(told).unlink()
        raise KeyboardInterrupt
    for step in range(every := recipe.train.evaluate_every, recipe.train.steps, every or 1):
        for arm in recipe.arms if every else ():
            for seed in recipe.seeds:
                point = rate(recipe, arm.name) * step / recipe.train.steps
                ctx.metric(arm=arm.name, seed=seed, step=step, loss=1.0, point=point)
        for _ in range(int(os.environ.get("SWEEP_LINGERS", "0"))):  # so long others may decide
            ctx.check_cancelled()
            time.sleep(0.01)
    found = []
    for arm in recipe.arms:
        for seed in recipe.seeds:
            ctx.progress(len(found), len(recipe.arms) * len(recipe.seeds), "training")
            own = cell(recipe, arm, seed)
            name = f"{results.CELLS}/{arm.name}-{seed}"
            if not ctx.done(name):
                with ctx.commit(name) as folder:
                    (folder / results.CELL).write_text(own.model_dump_json())
            found.append(own)
    report = build_report(found, task="reverse", metric="exact_match")
    if not ctx.done("report"):
        with ctx.commit("report") as folder:
            (folder / "report.json").write_text(report.model_dump_json())

"""Models, maps, alignments and finished runs written by hand, for tests of pages.

Nothing is computed with a model: the numbers are drawn, so that a page can be compared with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from nuggets import api
from nuggets.alignment.report import AlignmentReport
from nuggets.builtin.resolve import pair_named
from nuggets.disk.manifest import write_manifest
from nuggets.erasure.orders import parts_of
from nuggets.erasure.report import ErasureReport
from nuggets.models.architecture import ArchSpec
from nuggets.planning import cache
from nuggets.planning.erasing import EraseRequest
from nuggets.recipe import AlignJob, EraseJob, SensitivityJob, TransferRecipe
from nuggets.runs.store import Run
from nuggets.sensitivity.maps import SensitivityMap
from nuggets.statistics.cells import CellOutcome
from nuggets.statistics.report import build_report

Size = tuple[int, int, int, int]
"""Layers, width, FFN width and attention heads."""
TOKENIZER = {
    "version": "1.0",
    "added_tokens": [],
    "model": {"type": "WordLevel", "vocab": {str(n): n for n in range(30)}, "unk_token": "0"},
}
SMALL = {"teacher": (6, 16, 24, 4), "independent": (4, 8, 12, 2), "sibling": (4, 8, 12, 2)}


def write_models(root: Path, sizes: dict[str, Size] = SMALL) -> None:
    """Folders that look like the built-in models: configuration and random weights."""
    for name, (layers, width, ffn, heads) in sizes.items():
        folder = root / name
        folder.mkdir(parents=True)
        config = {
            "model_type": "llama",
            "num_hidden_layers": layers,
            "hidden_size": width,
            "intermediate_size": ffn,
            "num_attention_heads": heads,
            "num_key_value_heads": heads // 2,
            "vocab_size": 30,
            "tie_word_embeddings": False,
        }
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
        save_file(_weights(ArchSpec.from_config(config), name), folder / "model.safetensors")
        (folder / "card.json").write_text(_card(name).model_dump_json())


def _card(name: str) -> api.ModelCard:
    """A model that knows every skill."""
    return api.ModelCard(
        name=name, description="Drawn by chance.", parameters=1, command="", training={},
        scores=dict.fromkeys(api.skills(), 1.0), taught_half={}, items={}, taught={}, lacks=(),
        cpu_seconds=0.0, versions={},
    )  # fmt: skip


def _weights(spec: ArchSpec, name: str) -> dict[str, np.ndarray]:
    """Every tensor that the configuration promises, different in every model."""
    rng = np.random.default_rng(len(name))
    found = {
        f"{module}.weight": rng.normal(size=spec.shape(role)).astype(np.float32)
        for module, role, _ in spec.modules()
    }
    norms = [
        f"model.layers.{i}.{v}" for i in range(spec.n_layers) for v in spec.architecture.vectors
    ]
    return found | {
        f"{norm}.weight": np.ones(spec.hidden_size, np.float32) for norm in [*norms, "model.norm"]
    }


def make_map(spec: ArchSpec, seed: int, n_samples: int, meta: dict[str, str]) -> SensitivityMap:
    """A map with heavy tails: few layers, neurons and entries hold most of it."""
    rng = np.random.default_rng(seed)
    full, samples, names = {}, [], []
    for module, role, layer in spec.modules():
        shape = spec.shape(role)
        strength = rng.gamma(2.0) * (3.0 if layer in (0, 1) else 1.0)
        entries = np.outer(rng.gamma(0.7, size=shape[0]), rng.gamma(0.7, size=shape[1]))
        matrix = (strength * entries * rng.gamma(0.5, size=shape)).astype(np.float32)
        weights = rng.gamma(1.5, size=n_samples)
        full[module] = matrix
        samples.append(matrix.sum(dtype=np.float64) * weights / weights.sum())
        names.append(f"{module}.weight")
    return SensitivityMap(
        spec=spec,
        score="theta_grad",
        rows={name: matrix.sum(axis=1, dtype=np.float64) for name, matrix in full.items()},
        cols={name: matrix.sum(axis=0, dtype=np.float64) for name, matrix in full.items()},
        full=full,
        parameters=tuple(names),
        totals=np.stack(samples, axis=1),
        meta=meta,
    )


def write_map(job: SensitivityJob, seed: int, n_samples: int = 16) -> SensitivityMap:
    """Puts a map where the page looks for the result of a job."""
    folder = cache.MapRequest.of(job).folder
    meta = {"model": job.model, "label": str(job.data.task), "digest": folder.name}
    found = make_map(api.spec(job.model), seed, n_samples, meta)
    api.save_map(found, folder)
    return found


def write_erasure(job: EraseJob, seed: int = 0) -> ErasureReport:
    """Puts a report where the page looks for the result of a job: own damage, others spared."""
    request = EraseRequest.of(job)
    rng = np.random.default_rng(seed)
    skills = {name: len(items) for name, items in request.items.items()}
    n, own = sum(skills.values()), next(iter(skills.values()))
    untouched = np.stack([rng.uniform(0.1, 0.3, n), np.ones(n)])
    strength = np.where(np.arange(n) < own, 2.0, 0.1)
    steps = np.linspace(0, 1, len(job.fractions))[:, None]
    names = ("theta_grad", "specific", "contrast", "theta_grad of other", "random")
    curves = {}
    for place, name in enumerate(names):
        rise = steps * strength * (len(names) - 1 - place) / 4 + rng.normal(0, 0.01, (3, 1, n))
        losses = untouched[0] + rise
        curves[name] = np.stack([losses, (losses < 1).astype(float)], axis=2)
    map = make_map(api.spec(job.model), seed, 4, {})
    parts = tuple(parts_of(map, job.parts))
    without = np.repeat(untouched[None], len(parts), axis=0)
    without[:, 0] += np.linspace(2, 0, len(parts))[:, None]
    folder = request.folder
    found = ErasureReport(
        skills, job.fractions, tuple(range(1, 1 + len(job.fractions))), float(np.log(30)),
        untouched, curves, parts, without, {"digest": folder.name},
    )  # fmt: skip
    folder.mkdir(parents=True)
    found.save(folder)
    return found


def write_alignment(job: AlignJob, seed: int = 0, **facts: Any) -> AlignmentReport:
    """Puts an alignment where the page looks for the result of a job; `facts` are of its meta."""
    rng = np.random.default_rng(seed)
    shape = (api.spec(job.teacher).n_layers, api.spec(job.student).n_layers)
    skills = job.tasks or tuple(api.skills())
    near = 1 - np.abs(np.linspace(0, 1, shape[0])[:, None] - np.linspace(0, 1, shape[1]))
    each = [f"{name}.{skill}" for name in ("cka", "stitching") for skill in skills]
    names = ("cka", "subspace", "r2", *each)
    matrices = {name: np.clip(near * rng.uniform(0.4, 1, shape), 0, 1) for name in names}
    matrices[names[-1]][1, 0] = np.nan
    meta = {
        "baselines": {"cka": 0.11, "subspace": 0.05},
        "scores": {skill: [1.0, 0.5] for skill in skills},
        **facts,
    }
    found = AlignmentReport(matrices, 320, skills, meta)
    pair = pair_named(job.teacher, job.student)
    api.save_alignment(found, cache.alignment_folder(job, pair))
    return found


ARMS = (
    ("vanilla", "reference", 0.03),
    ("plain", "baseline", 0.55),
    ("paper", "treatment", 0.45),
    ("permuted", "content_control", 0.47),
)


def write_benchmark(
    recipe: TransferRecipe, arms: Iterable[tuple[str, str, float]] = ARMS, question: str = "q"
) -> Run:
    """A transfer that is done, with outcomes drawn at the rates given."""
    run = api.create(recipe)
    rng = np.random.default_rng(0)
    cells = []
    for arm, role, rate in arms:
        for seed in recipe.seeds:
            outcome = rng.random(40) < np.clip(rate + rng.normal(0, 0.08), 0, 1)
            cell = CellOutcome(
                arm=arm,
                role=role,  # type: ignore[arg-type]
                seed=seed,
                items=[f"item-{n}" for n in range(40)],
                outcomes={"exact_match": outcome.astype(float).tolist()},
                old_skills={
                    skill: (rng.random(20) < 0.8).astype(float).tolist()
                    for skill in ("add", "copy")
                },
                curve=[(s, rate * s / 120 + 0.05 * rng.random()) for s in (0, 30, 60, 90, 120)],
                seconds=2.5,
                trainable_parameters=4096,
                learning_rate=3e-3,
                samples=256,
                steps=120,
            )
            cells.append(cell)
            folder = run.folder / "artifacts" / "cells" / f"{arm}-{seed}"
            (folder / "adapter").mkdir(parents=True)  # without weights: nobody loads them here
            (folder / "cell.json").write_text(cell.model_dump_json())
            rows = [
                {
                    "id": f"item-{n}",
                    "question": f"{question} {n}",
                    "expected": "yes",
                    "answer": "yes" if right else "no",
                }
                for n, right in enumerate(outcome)
            ]
            (folder / "answers.json").write_text(json.dumps(rows))
            write_manifest(folder)
    report = build_report(cells, task="reverse", metric="exact_match")
    folder = run.folder / "artifacts" / "report"
    folder.mkdir()
    (folder / "report.json").write_text(report.model_dump_json())
    write_manifest(folder)
    run.record_path.write_text(run.record().changed(status="done").model_dump_json())
    return run

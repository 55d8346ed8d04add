"""Runs one cell in a process that may be killed; imported by the process itself."""

from __future__ import annotations

from pathlib import Path

from nuggets.train.arms.family import Graft, Paper
from nuggets.train.cells import run_cell
from nuggets.train.config import TrainConfig
from tests.unit.train.tiny_lab import STUDENT, TEACHER, letters, make_lab

ARMS = {"paper": Paper(), "graft": Graft(heal_steps=9, heal_batch=4, heal_samples=8)}
TRAIN = TrainConfig(steps=12, batch_size=4, lr=1e-2, checkpoint_every=2, evaluate_every=4)
TEST, OLD = letters(6, 99), {"old": letters(3, 98)}


def work(teacher: Path, student: Path, kind: str, folder: Path, out: Path) -> None:
    """Runs or resumes the cell, then writes weights and record."""
    models = {TEACHER["num_hidden_layers"]: teacher, STUDENT["seed"]: student}
    lab = make_lab(
        lambda _, **config: models[config.get("seed", config.get("num_hidden_layers"))],
        train=TRAIN,
    )
    result = run_cell(lab, ARMS[kind], 3, folder, test=TEST, old_skills=OLD)
    out.mkdir()
    result.save_weights(out, "student", "")
    (out / "record.json").write_text(result.record.model_dump_json())

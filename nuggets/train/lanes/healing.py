"""Healing many cut students side by side, as lanes of one program."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from nuggets.disk.commit import remove_folder
from nuggets.progress import Progress
from nuggets.train.arms.graft import Graft
from nuggets.train.builders.graft import Healing, cut
from nuggets.train.lab import Lab, Trainee
from nuggets.train.lanes.model import LaneModel
from nuggets.train.lanes.threads import one_processor_each
from nuggets.train.lanes.training import Lane, LaneTrainer, TrainingLoop

HEALED = 6
"""Students in one model: as in `side_by_side`, more leave the processor's cache."""


def heal_together(
    lab: Lab,
    students: Sequence[tuple[Graft, int, Progress | None]],
    folder: Path | None = None,
    *,
    progress: Progress | None = None,
) -> None:
    """Cuts and heals students that are not kept yet, and keeps them; `grafted` reads them back.

    Each is what `nuggets.train.builders.graft.heal` makes of it, up to rounding.

    Args:
        lab: with a folder for healed students.
        students: arm, seed, and who receives a student's own metrics.
        folder: for checkpoints; may be deleted afterwards. None for none.
        progress: of all together; can cancel.

    Raises:
        NonFinite: naming the student whose healing went to NaN or infinity.
        Unstackable: if the students cannot share a program.
        Cancelled: on request.
    """
    waiting: dict[Path, tuple[Healing, Lane]] = {}
    for arm, seed, own in students:
        if not arm.heal_steps:
            continue
        healing = Healing.of(lab, cut(lab, seed, arm), seed, arm)
        if healing.kept is None or healing.done:
            continue
        name = f"the healing of {arm.name}, seed {seed}"
        lane = Lane(name, healing.encoded, seed, healing.config.lr, progress=own)
        waiting.setdefault(healing.kept, (healing, lane))
    groups: dict[str, list[tuple[Healing, Lane]]] = {}
    for healing, lane in waiting.values():
        groups.setdefault(healing.config.model_dump_json(), []).append((healing, lane))
    size = HEALED * lab.threads
    for group in groups.values():
        for start in range(0, len(group), size):
            part = group[start : start + size]
            # Named by who is in it: after a kill, whoever is kept by then takes part no more.
            names = hashlib.sha256(" ".join(str(healing.kept) for healing, _ in part).encode())
            _heal(lab, part, folder and folder / names.hexdigest()[:16], progress)


def _heal(
    lab: Lab,
    part: Sequence[tuple[Healing, Lane]],
    folder: Path | None,
    progress: Progress | None,
) -> None:
    """Heals as many students as are stepped at the same time."""
    trainees = [Trainee(each.model, each.encoded, own_base=True) for each, _ in part]
    models = [
        LaneModel(
            lab,
            trainees[start : start + HEALED],
            [each.seed for each, _ in part[start : start + HEALED]],
            merge=True,
        )
        for start in range(0, len(part), HEALED)
    ]
    rest = iter([lane for _, lane in part])
    trainers = [
        LaneTrainer(
            model,
            [next(rest) for _ in range(model.n_lanes)],
            part[0][0].config,
            lab.device,
            bf16=lab.bf16,
        )
        for model in models
    ]
    with one_processor_each(lab.threads, lab.device) as threads:
        logs = TrainingLoop(trainers, folder, threads, progress=progress).fit()
    for index, ((healing, _), log) in enumerate(zip(part, logs, strict=True)):
        models[index // HEALED].write_back(index % HEALED, trainees[index])
        healing.keep(log)
    if folder is not None and folder.exists():
        remove_folder(folder)

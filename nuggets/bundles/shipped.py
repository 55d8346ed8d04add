"""What ships with the app already measured: maps, alignments and erasures, and a finished run.

`python -m nuggets.bundles.shipped RUN` writes all of it again, with RUN as the run; it imports
torch for what is not cached yet.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from nuggets.builtin.pairs import MODELS, PAIRS, measured_root
from nuggets.builtin.resolve import model_named, pair_named
from nuggets.builtin.skills import SKILLS
from nuggets.bundles.bundle import opened, write_bundle
from nuggets.disk.commit import remove_folder
from nuggets.disk.home import runs_dir
from nuggets.erasure.report import ErasureReport
from nuggets.errors import BadInput
from nuggets.extraction.plan import ExtractionConfig, LoraConfig, make_plan
from nuggets.extraction.selectors import WindowSelector
from nuggets.planning.cache import MapRequest, alignment_folder
from nuggets.planning.erasing import EraseRequest
from nuggets.recipe import AlignJob, DataConfig, EraseJob, SensitivityJob
from nuggets.runs.store import Run, RunStore
from nuggets.sensitivity.maps import SensitivityMap

ENDING = ".nuggets.zip"
WHOLE = "reverse"
"""The skill whose map of the teacher is shipped entry by entry: the one that the app opens with."""


def shipped_run() -> Run:
    """The finished run that comes with the app; it becomes a run of this machine when first seen.

    Raises:
        BadInput: if this installation has none.
        NuggetsError: if it cannot be written into this machine's runs.
    """
    found = sorted(measured_root().glob(f"*{ENDING}"))
    if not found:
        raise BadInput(f"No finished run comes with this installation: {measured_root()} has none.")
    here = runs_dir() / found[-1].name.removesuffix(ENDING)
    return Run(here) if here.is_dir() else opened(found[-1])


def lighter(map: SensitivityMap, student: str, whole: bool) -> SensitivityMap:
    """A map's sums, the windows that a student's shapes choose, and the matrix of the best one."""
    spec = model_named(student).spec
    plan = make_plan(map, spec, ExtractionConfig(), LoraConfig())
    placed = [item for item in plan.items if item.teacher_layer is not None]
    best = max(placed, key=lambda item: item.kept_mass / item.area).teacher_module
    picks = {
        module: WindowSelector().choose(map.matrix(module), map.rows[module], spec.shape(role))
        for module, role, _ in map.spec.modules()
        if spec.has(role)
    }
    full = {name: map.matrix(name) for name in map.full if whole or name == best}
    return replace(map, full=full, picks={"window": picks})


def write_maps(out: Path) -> None:
    """Every skill's map of every built-in model."""
    from nuggets.stages.measuring import measure_map

    teachers = {pair.teacher: pair.student for pair in PAIRS.values()}
    for model in MODELS:
        for skill in SKILLS:
            job = SensitivityJob(model=model, data=DataConfig(task=skill), device="cpu")
            request = MapRequest.of(job)
            map = measure_map(request)
            if model in teachers:
                map = lighter(map, teachers[model], skill == WHOLE)
            else:
                map = replace(map, full={})
            (folder := out / "sensitivity" / request.folder.name).mkdir(parents=True)
            map.save(folder)


def write_alignments(out: Path) -> None:
    """Every pair's alignment."""
    from nuggets.stages.measuring import measure_alignment

    for pair in PAIRS.values():
        job = AlignJob(teacher=pair.teacher, student=pair.student, device="cpu")
        models = pair_named(pair.teacher, pair.student)
        report = measure_alignment(job, models)
        folder = out / "alignment" / alignment_folder(job, models).name
        folder.mkdir(parents=True)
        report.save(folder)


def write_erasures(out: Path) -> None:
    """What erasing any skill's map shows in the teacher; single precision is enough to look at."""
    from nuggets.stages.erasing import measure_erasure

    for skill in SKILLS:
        request = EraseRequest.of(
            EraseJob(model="teacher", data=DataConfig(task=skill), device="cpu")
        )
        report = _single(measure_erasure(request))
        folder = out / "erasure" / request.folder.name
        folder.mkdir(parents=True)
        report.save(folder)


def _single(report: ErasureReport) -> ErasureReport:
    curves = {order: values.astype(np.float32) for order, values in report.curves.items()}
    ends = {name: getattr(report, name).astype(np.float32) for name in ("untouched", "without")}
    return replace(report, curves=curves, **ends)


def main() -> None:
    """Writes the folder of everything again."""
    out, run = measured_root(), RunStore(runs_dir()).open(sys.argv[1])
    if out.is_dir():
        remove_folder(out)
    write_maps(out)
    write_alignments(out)
    write_erasures(out)
    write_bundle(run, out / f"{run.id}{ENDING}", weights=False)


if __name__ == "__main__":
    main()

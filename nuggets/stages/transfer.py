"""A transfer from models to verdict, in stages that each survive a kill. Imports torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch

from nuggets.builtin.resolve import pair_named
from nuggets.compute.threads import threads_for
from nuggets.data.jsonl import shared_samples
from nuggets.data.samples import Sample
from nuggets.disk.commit import atomic_write, remove_folder
from nuggets.disk.home import cache_dir
from nuggets.errors import BadInput
from nuggets.evaluation.outcomes import check_items
from nuggets.models.pair import ModelPair
from nuggets.planning import cache
from nuggets.planning.cache import MapRequest
from nuggets.planning.checks import check_transfer
from nuggets.planning.datasets import Datasets
from nuggets.planning.jobs import (
    alignment_job,
    extractions,
    map_request,
    other_map_job,
    unlike,
)
from nuggets.recipe import TransferRecipe
from nuggets.runs import results
from nuggets.runs.context import RunContext
from nuggets.sensitivity.maps import SensitivityMap
from nuggets.sensitivity.scores import Score
from nuggets.stages.evaluating import (
    arm_subjects,
    confirm_items,
    measure_subjects,
    write_tables,
)
from nuggets.stages.measuring import (
    Loaded,
    devices_for,
    keep_map,
    measure_alignment,
    measure_map,
    write_extraction,
)
from nuggets.stages.reuse import KnownCells
from nuggets.stages.shared_models import load_shared, untouched_of
from nuggets.statistics.cells import CellOutcome
from nuggets.statistics.comparisons import higher_is_better
from nuggets.statistics.report import build_report
from nuggets.train.arms.family import Arm
from nuggets.train.cells import EVALUATION_BATCHES, CellRecord, CellResult
from nuggets.train.lab import Lab
from nuggets.train.lanes.packing import CellGroup, Form, plan_batches
from nuggets.train.lanes.side_by_side import Cell, run_batch
from nuggets.train.untouched import Untouched

STAGES = ("load", "sensitivity", "plan", "train", "benchmark", "report")


def run_transfer(recipe: TransferRecipe, ctx: RunContext) -> None:
    """Runs every arm with every seed and writes the report.

    Finished stages and cells are skipped, so a resumed run goes on where it was.
    """
    ctx.plan([stage for stage in STAGES if stage != "benchmark" or recipe.benchmarks])
    ctx.stage("load")
    helpers = devices_for(recipe.device, recipe.train.processes, "train")[1:]
    pair = pair_named(recipe.teacher, recipe.student)
    threads = torch.get_num_threads()
    with threads_for(pair.teacher.spec.n_matrix_parameters, recipe.device):
        files = cache.digest_files(recipe)
        lab, data = _prepare(recipe, pair, files, ctx)
        lab = replace(lab, threads=threads, helpers=helpers)
        ctx.stage("plan")
        _keep_plan(recipe, lab, ctx)
        ctx.stage("train")
        _cells(recipe, lab, data, KnownCells(recipe, pair, files), ctx)
        _benchmarks(recipe, lab, ctx)
    ctx.stage("report")
    _report(recipe, data, ctx)


def _prepare(
    recipe: TransferRecipe, pair: ModelPair, files: dict[str, str], ctx: RunContext
) -> tuple[Lab, Datasets]:
    """Samples, models and map; refuses whatever cannot work before training starts."""
    ctx.provenance(**cache.digest_pair(pair), **files)
    data = check_transfer(recipe, pair)
    # Once more: what was read between the two is what they name.
    ctx.provenance(samples=_digest(data, recipe), **cache.digest_files(recipe))
    confirm_items(recipe.benchmarks, ctx)
    teacher = load_shared(pair.teacher, recipe.device, progress=ctx)
    student = load_shared(pair.student, recipe.device, recipe.train.dtype, ctx)
    judged = [*data.test, *data.validation, *chain.from_iterable(data.old.values())]
    check_items(judged, student.tokenizer, recipe.train.max_length, recipe.data.format)
    untouched = untouched_of(student)
    _ = untouched.model  # now, so that damaged weights end the run before anything is measured
    ctx.check_cancelled()
    ctx.stage("sensitivity")
    map = measure_map(map_request(recipe, pair), ctx, teacher)
    keep_map(map, ctx)
    return _lab(recipe, pair, teacher, student, untouched, map, data, ctx), data


def _lab(
    recipe: TransferRecipe,
    pair: ModelPair,
    teacher: Loaded,
    student: Loaded,
    untouched: Untouched,
    map: Any,
    data: Datasets,
    ctx: RunContext,
) -> Lab:
    cka = None

    def other_map(task: str | None, score: Score | None) -> SensitivityMap:
        job = other_map_job(recipe, task, score)
        return measure_map(MapRequest.of(job, pair.teacher, pair.student), ctx)

    if any(extraction.layers.needs_cka for extraction in extractions(recipe)):
        cka = measure_alignment(alignment_job(recipe), pair, ctx).matrices["cka"]
    runs_teacher = any(arm.runs_teacher for arm in recipe.arms)
    return Lab(
        teacher=teacher.model if runs_teacher else None,
        teacher_weight=teacher.weight,
        teacher_words=teacher.words,
        teacher_spec=teacher.spec,
        untouched=untouched,
        student_spec=student.spec,
        tokenizer=student.tokenizer,
        teacher_tokenizer=teacher.tokenizer,
        map=map,
        other_map=other_map,
        unlike=unlike(recipe),
        cka=cka,
        extraction=recipe.extraction,
        lora=recipe.lora,
        train=recipe.train,
        train_samples=data.train,
        extra_prompts=data.extra,
        general_samples=data.general,
        questions=[*data.test, *data.validation],
        device=torch.device(recipe.device),
        bf16=recipe.device.startswith("cuda"),
        kept=cache_dir() / "healed",
        format=recipe.data.format,
    )


def _digest(data: Datasets, recipe: TransferRecipe) -> str:
    """Names every sample that is learned from or counted."""
    trained = [sample for seed in recipe.seeds for sample in data.train(seed)]
    old = [sample for samples in data.old.values() for sample in samples]
    return cache.samples_digest([*data.seed_samples, *trained, *data.test, *data.validation, *old])


def _keep_plan(recipe: TransferRecipe, lab: Lab, ctx: RunContext) -> None:
    if ctx.done("plan"):
        return
    plan, factors = lab.plan(), lab.factors()
    with ctx.commit("plan") as folder:
        write_extraction(folder, plan, factors, recipe, lab.student_spec)


def _cells(
    recipe: TransferRecipe, lab: Lab, data: Datasets, known: KnownCells, ctx: RunContext
) -> None:
    """Every arm with every seed, seeds outermost: a cancelled run still compares all arms."""
    cells = {
        (arm.name, seed): Cell(arm, seed, _Labelled(ctx, arm.name, seed))
        for seed in recipe.seeds
        for arm in recipe.arms
    }
    missing = [each for each in cells.values() if not ctx.done(f"{results.CELLS}/{each.name}")]
    missing = [each for each in missing if not known.take(each.arm, each.seed, ctx)]
    done = len(cells) - len(missing)
    pairs = [(cell.arm, cell.seed) for cell in missing]
    for index, batch in enumerate(_batches(lab, pairs, ctx)):
        ctx.check_cancelled()
        own = [cells[key] for key in batch.cells]
        left = [cell for cell in own if cell in missing]
        # Another run may have finished some of them meanwhile.
        new = [each for each in left if not (index and known.take(each.arm, each.seed, ctx))]
        together = _Together(ctx, done + len(left) - len(new), len(new), len(cells))
        if new:
            together.progress(0, 1, "training")
        _batch(recipe, lab, data, known, own, batch.form, index, together)
        done += len(left)
    ctx.progress(len(cells), len(cells), "all arms")


def _batches(lab: Lab, cells: Sequence[tuple[Arm, int]], ctx: RunContext) -> list[CellGroup]:
    """Which cells share a program: chosen once, since a resume may find less memory free."""
    path = ctx.checkpoints / "batches.json"
    if not path.is_file():
        chosen = plan_batches(lab, cells)
        atomic_write(path, json.dumps([batch.model_dump() for batch in chosen]))
    return [CellGroup.model_validate(batch) for batch in json.loads(path.read_text())]


def _batch(
    recipe: TransferRecipe,
    lab: Lab,
    data: Datasets,
    known: KnownCells,
    cells: list[Cell],
    form: Form,
    index: int,
    together: _Together,
) -> None:
    """Trains some cells side by side, or one, and keeps each."""
    ctx = together.ctx

    def missing(cell: Cell) -> bool:
        return not ctx.done(f"{results.CELLS}/{cell.name}")

    checkpoints = ctx.checkpoints / f"batch-{index}"
    if any(map(missing, cells)):
        found = run_batch(
            lab,
            cells,
            form,
            checkpoints,
            test=data.test,
            validation=data.validation,
            old_skills=data.old,
            metrics=_metrics(recipe, data.test),
            answers=True,
            progress=together,
            wanted=missing,
        )
        for cell, result in found:
            known.confirm_models()
            _keep(recipe, data, cell, result, ctx)
            known.remember(cell.arm, cell.seed, ctx.run)
            del result  # the next one is trained without this one in memory
    if checkpoints.exists():
        remove_folder(checkpoints)


def _keep(
    recipe: TransferRecipe, data: Datasets, cell: Cell, done: CellResult, ctx: RunContext
) -> None:
    """Commits a finished cell."""
    record = done.record
    with ctx.commit(f"{results.CELLS}/{cell.name}") as folder:
        (folder / results.CELL).write_text(record.outcome.model_dump_json(indent=1))
        (folder / results.RECORD).write_text(record.model_dump_json(exclude={"outcome"}))
        rows = _answer_rows(data.test, record)
        (folder / results.ANSWERS).write_text(json.dumps(rows, indent=1))
        if done.trainee.trains:
            kind = "adapter" if done.trainee.is_adapter else "model"
            (folder / kind).mkdir()
            card = _card(recipe, cell.arm, cell.seed, kind, record.note, ctx)
            done.save_weights(folder / kind, recipe.student, card)
    value = sum(record.outcome.outcomes[recipe.data.metric]) / len(record.outcome.items)
    ctx.metric(arm=cell.arm.name, seed=cell.seed, value=value)


class _Together:
    """The run's progress while some cells are trained; the bar counts cells."""

    def __init__(self, ctx: RunContext, before: int, n: int, total: int) -> None:
        self.ctx = ctx
        self._before, self._n, self._total = before, n, total

    def check_cancelled(self) -> None:
        self.ctx.check_cancelled()

    def progress(self, done: float, total: float, message: str = "", **data: Any) -> None:
        """A share of the training is the same share of its cells."""
        if message == "training":
            cells = self._before + self._n * done / total
            last = self._before + self._n
            which = f"{self._before + 1}" if self._n == 1 else f"{self._before + 1} to {last}"
            self.ctx.progress(cells, self._total, f"training {which} of {self._total}")

    def metric(self, **data: Any) -> None:
        self.ctx.metric(**data)

    def log(self, text: str) -> None:
        self.ctx.log(text)


class _Labelled:
    """The run's progress, with arm and seed on every metric; cell ticks stay out of the bar."""

    def __init__(self, ctx: RunContext, arm: str, seed: int) -> None:
        self._ctx = ctx
        self._label = {"arm": arm, "seed": seed}

    def check_cancelled(self) -> None:
        self._ctx.check_cancelled()

    def progress(self, done: float, total: float, message: str = "", **data: Any) -> None:
        """Inside a cell there is nothing to tick: the bar counts cells."""

    def metric(self, **data: Any) -> None:
        self._ctx.metric(**self._label, **data)

    def log(self, text: str) -> None:
        self._ctx.log(text)


def _benchmarks(recipe: TransferRecipe, lab: Lab, ctx: RunContext) -> None:
    """Every arm and seed on the recipe's benchmarks, as it was trained."""
    if not recipe.benchmarks:
        return
    ctx.stage("benchmark")
    device = str(lab.device)
    subjects = arm_subjects(ctx.run, recipe, lambda: (lab.student, lab.tokenizer), device)
    batch = EVALUATION_BATCHES * recipe.train.batch_size
    options = (device, batch, recipe.train.max_length, recipe.train.dtype)
    measure_subjects(subjects, recipe.benchmarks, ctx, *options)
    base = next((arm.name for arm in recipe.arms if arm.role == "baseline"), "")
    write_tables(subjects, recipe.benchmarks, ctx, base)


def _metrics(recipe: TransferRecipe, test: Sequence[Sample]) -> tuple[Any, ...]:
    """The verdict's metric first; choice accuracy wherever items have choices."""
    wanted = [recipe.data.metric, "exact_match", "loss"]
    if all(sample.choices for sample in test):
        wanted.append("choice")
    return tuple(dict.fromkeys(wanted))


def _answer_rows(test: Sequence[Sample], record: CellRecord) -> list[dict[str, Any]]:
    return [
        {"id": sample.id, "question": sample.prompt, "expected": sample.answer, "answer": answer}
        for sample, answer in zip(test, record.answers, strict=True)
    ]


def _card(
    recipe: TransferRecipe, arm: Arm, seed: int, kind: str, note: str, ctx: RunContext
) -> str:
    adapter = kind == "adapter"
    option = "" if adapter else " --merged"
    paragraphs = (
        f"# {arm.name}, seed {seed}",
        f"Trained by Nuggets on `{recipe.data.task or recipe.data.file or recipe.data.train}` "
        f"for the student `{recipe.student}`, teacher `{recipe.teacher}`, run {ctx.run.id}. "
        + ("Load it on the untouched student." if adapter else "It is a whole model."),
        note,
        f"    nuggets export {ctx.run.id} --arm {arm.name} --seed {seed}{option} --out FOLDER\n",
    )
    return "\n\n".join(filter(None, paragraphs))


def _report(recipe: TransferRecipe, data: Datasets, ctx: RunContext) -> None:
    if ctx.done("report"):
        return
    found: list[CellOutcome] = results.cells(ctx.run)
    if len(found) != len(recipe.arms) * len(recipe.seeds):
        raise BadInput(f"Run {ctx.run.id} has {len(found)} finished cells; some are missing.")
    report = build_report(
        found,
        task=data.label,
        metric=recipe.data.metric,
        higher_is_better=higher_is_better(recipe.data.metric),
        ground=recipe.ground,
    )
    if recipe.train.lr_grid:
        shared = len(shared_samples(data.test, data.validation))
        sizes = {"n_validation": len(data.validation), "n_validation_in_test": shared}
        report = report.model_copy(update=sizes)
    with ctx.commit("report") as folder:
        (folder / "report.json").write_text(report.model_dump_json(indent=1))

"""A transfer from models to verdict, in stages that each survive a kill. Imports torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch

from nuggets.bench.report import CellOutcome, build_report
from nuggets.core.extraction import extract_factors
from nuggets.core.maps import SensitivityMap
from nuggets.core.samples import Sample
from nuggets.errors import BadInput
from nuggets.recipe import DataConfig, TransferRecipe
from nuggets.runs import cache, results
from nuggets.runs.checks import check_transfer
from nuggets.runs.commit import commit_folder, newest_valid, remove_folder
from nuggets.runs.compute import (
    Loaded,
    keep_map,
    measure_alignment,
    measure_map,
    plan_recipe,
    weights_of,
    write_extraction,
)
from nuggets.runs.context import RunContext
from nuggets.runs.home import cache_dir
from nuggets.runs.inputs import Datasets
from nuggets.runs.planning import alignment_job, map_job
from nuggets.train.arms import Arm
from nuggets.train.cells import CellRecord, run_cell
from nuggets.train.checkpoints import Storage
from nuggets.train.lab import Lab
from nuggets.train.tuning import Tuning, tune_lr

STAGES = ("load", "sensitivity", "plan", "tune", "train", "report")
SMALL = 20_000_000
"""Below so many weights, threads cost more in waiting than they bring in computing."""
STORAGE = Storage(commit=commit_folder, newest=newest_valid, remove=remove_folder)


def run_transfer(recipe: TransferRecipe, ctx: RunContext) -> None:
    """Runs every arm with every seed and writes the report.

    Finished stages and cells are skipped, so a resumed run goes on where it was.
    """
    ctx.plan([stage for stage in STAGES if stage != "tune" or recipe.train.lr_grid])
    ctx.stage("load")
    lab, data = _prepare(recipe, ctx)
    ctx.stage("plan")
    _keep_plan(recipe, lab, ctx)
    rates = _tune(recipe, lab, data, ctx)
    ctx.stage("train")
    _cells(recipe, lab, data, rates, ctx)
    ctx.stage("report")
    _report(recipe, data, ctx)


def _prepare(recipe: TransferRecipe, ctx: RunContext) -> tuple[Lab, Datasets]:
    """Samples, models and map; refuses whatever cannot work before training starts."""
    ctx.provenance(
        teacher=cache.digest_model(recipe.teacher),
        student=cache.digest_model(recipe.student),
        **cache.digest_files(recipe.data),
    )
    data = check_transfer(recipe)
    ctx.provenance(samples=_digest(data, recipe))
    for note in data.notes if recipe.train.lr_grid else ():
        ctx.log(note)
    teacher = Loaded(recipe.teacher, recipe.device)
    student = Loaded(recipe.student, recipe.device)
    small = sum(p.numel() for p in teacher.model.parameters()) < SMALL
    if small and recipe.device == "cpu":
        torch.set_num_threads(1)
    ctx.check_cancelled()
    ctx.stage("sensitivity")
    map = measure_map(map_job(recipe), ctx, teacher)
    keep_map(map, ctx)
    return _lab(recipe, teacher, student, map, data, ctx), data


def _lab(
    recipe: TransferRecipe,
    teacher: Loaded,
    student: Loaded,
    map: Any,
    data: Datasets,
    ctx: RunContext,
) -> Lab:
    cka, wrong = None, None

    def task_map(task: str) -> SensitivityMap:
        data = DataConfig(task=task, n_seeds=recipe.data.n_seeds)
        return measure_map(map_job(recipe).model_copy(update={"data": data}), ctx)

    if recipe.extraction.layers.kind == "cka":
        cka = measure_alignment(alignment_job(recipe), ctx).matrices["cka"]
    if any(arm.kind == "wrong_task" for arm in recipe.arms):
        other = next(skill for skill in ("copy", "add") if skill != recipe.data.task)
        wrong = task_map(other)
    return Lab(
        teacher=teacher.model,
        teacher_spec=teacher.spec,
        student=student.model,
        student_spec=student.spec,
        tokenizer=student.tokenizer,
        teacher_tokenizer=teacher.tokenizer,
        map=map,
        wrong_map=wrong,
        task_map=task_map,
        cka=cka,
        extraction=recipe.extraction,
        lora=recipe.lora,
        train=recipe.train,
        train_samples=data.train,
        extra_prompts=data.extra,
        general_samples=data.general,
        device=torch.device(recipe.device),
        bf16=recipe.device.startswith("cuda"),
        kept=cache_dir() / "healed",
        format=recipe.data.format,
    )


def _digest(data: Datasets, recipe: TransferRecipe) -> str:
    """Names every sample that is learned from or counted."""
    trained = [sample for seed in recipe.seeds for sample in data.train(seed)]
    old = [sample for samples in data.old.values() for sample in samples]
    return cache.samples_digest([*data.seeds, *trained, *data.test, *data.tuning, *old])


def _keep_plan(recipe: TransferRecipe, lab: Lab, ctx: RunContext) -> None:
    if ctx.done("plan"):
        return
    plan, map = plan_recipe(recipe, ctx)
    factors = extract_factors(weights_of(lab.teacher), plan, map)
    with ctx.commit("plan") as folder:
        write_extraction(folder, plan, factors, recipe)


def _tune(
    recipe: TransferRecipe, lab: Lab, data: Datasets, ctx: RunContext
) -> dict[str, float | None]:
    """Learning rate per arm: the recipe's, or each arm's best of the grid on other seeds."""
    if not recipe.train.lr_grid:
        return {arm.name: None for arm in recipe.arms}
    ctx.stage("tune")
    rates: dict[str, float | None] = {}
    for index, arm in enumerate(recipe.arms):
        name = f"tuning/{arm.name}"
        path = ctx.artifacts / name / "tuning.json"
        if not ctx.done(name):
            found = tune_lr(
                lab,
                arm,
                recipe.train.lr_grid,
                ctx.checkpoints / "tuning" / arm.name,
                items=data.tuning,
                metric=recipe.data.metric,
                storage=STORAGE,
                progress=_Labelled(ctx, f"tune {arm.name}", recipe.train.tuning_seed),
            )
            with ctx.commit(name) as folder:
                (folder / "tuning.json").write_text(found.model_dump_json(indent=1))
        rates[arm.name] = Tuning.model_validate_json(path.read_text()).lr
        ctx.progress(index + 1, len(recipe.arms), f"tuned {arm.name}")
    return rates


def _cells(
    recipe: TransferRecipe,
    lab: Lab,
    data: Datasets,
    rates: dict[str, float | None],
    ctx: RunContext,
) -> None:
    """Every arm with every seed, seeds outermost: a cancelled run still compares all arms."""
    todo = [(arm, seed) for seed in recipe.seeds for arm in recipe.arms]
    for index, (arm, seed) in enumerate(todo):
        ctx.check_cancelled()
        ctx.progress(index, len(todo), f"{arm.name}, seed {seed}")
        name = f"{results.CELLS}/{arm.name}-{seed}"
        if not ctx.done(name):
            _cell(recipe, lab, data, arm, seed, rates[arm.name], name, ctx)
    ctx.progress(len(todo), len(todo), "all arms")


def _cell(
    recipe: TransferRecipe,
    lab: Lab,
    data: Datasets,
    arm: Arm,
    seed: int,
    lr: float | None,
    name: str,
    ctx: RunContext,
) -> None:
    checkpoints = ctx.checkpoints / f"{arm.name}-{seed}"
    done = run_cell(
        lab,
        arm,
        seed,
        checkpoints,
        test=data.test,
        old_skills=data.old,
        metrics=_metrics(recipe, data.test),
        lr=lr,
        answers=True,
        storage=STORAGE,
        progress=_Labelled(ctx, arm.name, seed),
    )
    with ctx.commit(name) as folder:
        record = done.record
        (folder / results.CELL).write_text(record.outcome.model_dump_json(indent=1))
        (folder / results.RECORD).write_text(record.model_dump_json(exclude={"outcome"}))
        rows = _answer_rows(data.test, record)
        (folder / results.ANSWERS).write_text(json.dumps(rows, indent=1))
        if done.trainee.trains:
            kind = "adapter" if done.trainee.is_adapter else "model"
            (folder / kind).mkdir()
            done.save_weights(folder / kind, recipe.student, _card(recipe, arm, seed, ctx))
    if checkpoints.exists():
        remove_folder(checkpoints)
    value = sum(record.outcome.outcomes[recipe.data.metric]) / len(record.outcome.items)
    ctx.metric(arm=arm.name, seed=seed, value=value, step0=record.step0_difference)


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


def _card(recipe: TransferRecipe, arm: Arm, seed: int, ctx: RunContext) -> str:
    return (
        f"# {arm.name}, seed {seed}\n\n"
        f"Trained by Nuggets on `{recipe.data.task or recipe.data.file or recipe.data.train}` "
        f"for the student `{recipe.student}`, teacher `{recipe.teacher}`, run {ctx.run.id}. "
        "Load it on the untouched student.\n\n"
        f"    nuggets export {ctx.run.id} --arm {arm.name} --seed {seed} --out FOLDER\n"
    )


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
        higher_is_better=recipe.data.metric != "loss",
    )
    with ctx.commit("report") as folder:
        (folder / "report.json").write_text(report.model_dump_json(indent=1))

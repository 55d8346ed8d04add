"""Models and arms on benchmarks, one commit per model and benchmark. Imports torch."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nuggets.builtin.resolve import model_named
from nuggets.compute.threads import threads_of
from nuggets.data.samples import Format, Sample
from nuggets.disk.commit import make_folder, remove_folder
from nuggets.disk.home import runs_dir
from nuggets.disk.manifest import verify_folder
from nuggets.evaluation.answer_store import answer_once
from nuggets.evaluation.benchmarks import Benchmark, Task
from nuggets.evaluation.judges import JudgeClient, TeacherJudge, verdict_metrics
from nuggets.evaluation.lm_eval_adapter import Evaluated, Process, Respondent, run_benchmark
from nuggets.evaluation.outcomes import likelihoods
from nuggets.evaluation.permits import permit
from nuggets.evaluation.tables import BenchmarkOutcome, build_tables
from nuggets.extraction.adapter import load_adapter, untie
from nuggets.planning import cache
from nuggets.planning.checks import RUN_PREFIX, split_run
from nuggets.recipe import EvaluateJob, TransferRecipe, load_job
from nuggets.runs import results
from nuggets.runs.context import RunContext
from nuggets.runs.store import Run, RunStore
from nuggets.stages.exporting import ADAPTER, MODEL
from nuggets.stages.measuring import Loaded
from nuggets.statistics.arms import ArmReport, arm_report
from nuggets.statistics.cells import CellOutcome
from nuggets.statistics.conditions import NO_GROUND, Ground
from nuggets.statistics.verdict import Part
from nuggets.workspace import strangers

Asked = tuple[Any, Any]
"""A model and its tokenizer."""


@dataclass(frozen=True, eq=False)
class Subject:
    """What is measured: a model, or one arm with one seed.

    Attributes:
        label: what people call it.
        folder: its name below a run's artifacts.
        opened: gives the model for as long as it is measured.
        run: the transfer whose arm it is.
    """

    label: str
    folder: str
    opened: Callable[[], Any]
    run: Run | None = None
    arm: str = ""
    seed: int = 0
    part: Part | None = None


def run_evaluate(job: EvaluateJob, ctx: RunContext) -> None:
    """Measures every model of a job on every benchmark, and writes tables."""
    ctx.plan(("evaluate", "report"))
    ctx.stage("evaluate")
    students: dict[str, Loaded] = {}
    subjects = [each for name in job.models for each in _subjects(name, job, ctx, students)]
    options = (job.device, job.batch_size, job.max_length, _dtype(job))
    measure_subjects(subjects, job.benchmarks, ctx, *options)
    ctx.stage("report")
    write_tables(subjects, job.benchmarks, ctx)


def _dtype(job: EvaluateJob) -> str:
    if job.dtype != "auto":
        return job.dtype
    return "bfloat16" if job.device.startswith("cuda") else "float32"


def confirm_items(benchmarks: Sequence[Benchmark], ctx: RunContext) -> None:
    """Records what is asked and shown; refuses other items than those that were recorded before.

    Raises:
        BadInput: if a file or data set changed since, by its benchmark's name.
    """
    for task in benchmarks:
        asked, examples = task.samples()
        ctx.provenance(**{f"benchmark.{task.name}": cache.samples_digest(asked)})
        if task.shots:
            ctx.provenance(**{f"examples.{task.name}": cache.samples_digest(examples)})


def measure_subjects(
    subjects: Sequence[Subject],
    benchmarks: Sequence[Benchmark],
    ctx: RunContext,
    device: str,
    batch_size: int,
    max_length: int,
    dtype: str,
) -> None:
    """Measures what is not committed yet, on the same items; each model is opened once.

    A teacher that judges by its likelihood is loaded in `dtype`, once for all.
    """
    confirm_items(benchmarks, ctx)

    @functools.cache
    def judging(name: str) -> Loaded:
        return Loaded(model_named(name), device, dtype)

    for subject in subjects:
        todo = [task for task in benchmarks if not ctx.done(_place(task, subject))]
        if not todo:
            continue
        ctx.check_cancelled()
        with subject.opened() as (model, tokenizer), threads_of(model, device):
            for task in todo:
                kept = ctx.checkpoints / "answers" / subject.folder / task.name
                make_folder(kept)
                respondent = Respondent(
                    subject.label, model, tokenizer, device, batch_size, max_length, kept
                )
                with _process(task, respondent, ctx, judging) as process:
                    found = run_benchmark(task, respondent, ctx, process)
                confirm_items([task], ctx)  # they were read again for this model
                _commit(found, task, subject, ctx)
                remove_folder(kept)


def write_tables(
    subjects: Sequence[Subject],
    benchmarks: Sequence[Benchmark],
    ctx: RunContext,
    base: str = "",
) -> None:
    """One table per benchmark over all subjects, with intervals and paired differences."""
    if ctx.done(results.TABLES_FOLDER):
        return
    outcomes = [
        BenchmarkOutcome.model_validate_json(
            (ctx.artifacts / _place(task, subject) / results.OUTCOME).read_text()
        )
        for task in benchmarks
        for subject in subjects
    ]
    runs = {subject.run.id: subject.run for subject in subjects if subject.run is not None}
    if len(runs) > 1:  # their arms have neither samples nor seeds in common
        outcomes = [outcome.model_copy(update={"role": None}) for outcome in outcomes]
    trained, ground = _trained(subjects, *runs.values()) if len(runs) == 1 else ({}, NO_GROUND)
    found = build_tables(outcomes, base, trained, ground)
    tables = [table.model_dump(mode="json") for table in found]
    with ctx.commit(results.TABLES_FOLDER) as folder:
        (folder / results.TABLES).write_text(json.dumps(tables, indent=1))


def _trained(subjects: Sequence[Subject], run: Run) -> tuple[dict[str, ArmReport], Ground]:
    """What a run's arms learned and at which rates, by the names that they are measured under."""
    recipe = load_job(run.recipe_text())
    assert isinstance(recipe, TransferRecipe)
    cells: dict[str, dict[int, CellOutcome]] = {}
    for cell in results.cells(run):
        cells.setdefault(cell.arm, {})[cell.seed] = cell
    found: dict[str, ArmReport] = {}
    informed = ""
    for name in dict.fromkeys(subject.arm for subject in subjects if subject.run is not None):
        arm = name.removeprefix(f"{run.id}: ")
        found[name] = arm_report(cells[arm], recipe.data.metric)
        informed = name if arm == recipe.ground.informed else informed
    # What is counted are a benchmark's own items, on which nothing was chosen.
    return found, recipe.ground._replace(informed=informed, counts_test=True)


def arm_subjects(
    run: Run,
    recipe: TransferRecipe,
    student: Callable[[], Asked],
    device: str,
    label: str = "",
    only: str | None = None,
) -> list[Subject]:
    """Every arm and seed of a transfer as it was trained.

    Args:
        run: the transfer; all its cells are finished.
        recipe: its recipe.
        student: gives the untouched student, loaded once.
        device: where whole models are loaded.
        label: put before the arms' names where several runs are measured.
        only: the one arm that is measured; all when None.
    """
    found = []
    for arm in (arm for arm in recipe.arms if only in (None, arm.name)):
        for seed in recipe.seeds:
            cell = results.cell_folder(run, arm.name, seed)
            found.append(
                Subject(
                    label=f"{label}{arm.name}, seed {seed}",
                    folder=f"{label.strip(': ')}{'-' if label else ''}{arm.name}-{seed}",
                    opened=_opener(cell, student, device),
                    run=run,
                    arm=f"{label}{arm.name}",
                    seed=seed,
                    part=recipe.parts[arm.name],
                )
            )
    return found


def _opener(cell: Path, student: Callable[[], Asked], device: str) -> Callable[[], Any]:
    @contextmanager
    def opened() -> Iterator[Asked]:
        if (cell / MODEL).is_dir() or (cell / ADAPTER).is_dir():
            verify_folder(cell)
        if (cell / MODEL).is_dir():
            whole = Loaded(model_named(str(cell / MODEL)), device)
            yield whole.model, whole.tokenizer
            return
        model, tokenizer = student()
        if not (cell / ADAPTER).is_dir():
            yield model, tokenizer
            return
        config = json.loads((cell / ADAPTER / "adapter_config.json").read_text())
        untie(model, config["target_modules"])
        peft = load_adapter(model, cell / ADAPTER)
        peft.eval()
        try:
            yield peft, tokenizer
        finally:
            peft.unload()

    return opened


def _subjects(
    name: str, job: EvaluateJob, ctx: RunContext, students: dict[str, Loaded]
) -> list[Subject]:
    """A model by itself, the arms of the run that `run:ID` names, or the one of `run:ID/ARM`.

    `students` keeps what is loaded, once for all arms and runs of one student.
    """
    dtype = _dtype(job)
    if not name.startswith(RUN_PREFIX):
        model = model_named(name)
        ctx.provenance(**{f"model.{name}": cache.digest_model(model)})
        place = hashlib.sha256(name.encode()).hexdigest()[:6]
        folder = f"{Path(name).stem or 'model'}-{place}"

        @contextmanager
        def opened() -> Iterator[Asked]:
            loaded = Loaded(model, job.device, dtype)
            asked = loaded.model, loaded.tokenizer
            cache.digest_model(model)  # which says so if its files changed before they were loaded
            yield asked

        short = Path(name).name
        unique = sum(Path(each).name == short for each in job.models) == 1
        return [Subject(label=short if unique else name, folder=folder, opened=opened)]
    run_id, arm = split_run(name)
    run = RunStore(runs_dir()).open(run_id)
    recipe = strangers.job_of(run)
    source = model_named(recipe.student)
    ctx.provenance(**{f"student.{run.id}": cache.digest_model(source)})

    def student() -> Asked:
        if recipe.student not in students:
            students[recipe.student] = Loaded(source, job.device, dtype)
        return students[recipe.student].model, students[recipe.student].tokenizer

    others = {split_run(m)[0] if m.startswith(RUN_PREFIX) else m for m in job.models} - {run_id}
    label = f"{run.id}: " if others else ""
    return arm_subjects(run, recipe, student, job.device, label, arm)


def _place(task: Task, subject: Subject) -> str:
    return f"{results.BENCHMARKS}/{task.name}/{subject.folder}"


def _commit(found: Evaluated, task: Task, subject: Subject, ctx: RunContext) -> None:
    of_arm = {"arm": subject.arm, "seed": subject.seed}
    of_arm |= subject.part._asdict() if subject.part else {}
    outcome = found.outcome.model_copy(update=of_arm)
    with ctx.commit(_place(task, subject)) as folder:
        (folder / results.OUTCOME).write_text(outcome.model_dump_json(indent=1))
        (folder / "results.json").write_text(json.dumps(found.results, indent=1, default=str))
        lines = (json.dumps(sample, default=str) + "\n" for sample in found.samples)
        (folder / f"samples_{task.name}.jsonl").write_text("".join(lines))
    value = sum(outcome.outcomes[task.metric]) / len(outcome.items)
    ctx.metric(benchmark=task.name, model=subject.label, value=value, metric=task.metric)
    for count, what in (
        (outcome.truncated_prompts, "prompts were truncated at the beginning"),
        (outcome.unfinished_answers, "answers reached the length limit"),
    ):
        if count:
            ctx.log(f"{subject.label}, {task.name}: {count} {what}.")


@contextmanager
def _process(
    task: Task, respondent: Respondent, ctx: RunContext, judging: Callable[[str], Loaded]
) -> Iterator[Process | None]:
    """What scores free answers: nothing, an endpoint, or a teacher."""
    judge = task.judged_by
    if judge is None:
        yield None
        return
    if isinstance(judge, TeacherJudge):
        yield _by_likelihood(judging(judge.teacher), judge, task.format, ctx, respondent)
        return
    client = JudgeClient(judge, permit, ctx)

    def judged(doc: dict[str, Any], answers: Sequence[str]) -> dict[str, float]:
        ctx.check_cancelled()
        asked = [judge.model_dump(mode="json"), doc["question"], answers[0], doc["reference"]]
        key = f"judge-{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:24]}"
        first, second = answer_once(
            respondent.kept,
            key,
            lambda: client.compare(doc["question"], answers[0], doc["reference"]),
        )
        return verdict_metrics((first, second))

    yield judged


def _by_likelihood(
    teacher: Loaded, judge: TeacherJudge, format: Format, ctx: RunContext, respondent: Respondent
) -> Process:
    """The answer wins that the teacher finds likelier per token; equal ones tie."""

    def compared(doc: dict[str, Any], answers: Sequence[str]) -> dict[str, float]:
        ctx.check_cancelled()
        pair = [
            Sample.of(f"{doc['id']}-{side}", doc["question"], text)
            for side, text in (("ours", answers[0]), ("reference", doc["reference"]))
        ]
        with teacher.threads():
            found = likelihoods(
                teacher.model,
                teacher.tokenizer,
                pair,
                device=respondent.device,
                max_length=respondent.max_length,
                format=format,
            )
        ours, reference = (each.log_likelihood / each.n_tokens for each in found)
        win = 0.5 if ours == reference else float(ours > reference)
        return {judge.metric: win}

    return compared

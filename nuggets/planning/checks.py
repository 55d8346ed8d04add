"""What is refused before anything is loaded, written or started."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from nuggets.builtin.resolve import knows_builtin_words, model_named, pair_named
from nuggets.data.jsonl import check_leakage
from nuggets.data.samples import Sample
from nuggets.disk.home import nuggets_home, runs_dir
from nuggets.errors import BadInput
from nuggets.evaluation.benchmarks import Benchmark, check_room
from nuggets.evaluation.judges import TeacherJudge
from nuggets.evaluation.permits import check_permits
from nuggets.extraction.layers import RandomLayers
from nuggets.extraction.selectors import MatrixSelector
from nuggets.extraction.sites import split_sites
from nuggets.frozen import members
from nuggets.models.architecture import ArchSpec
from nuggets.models.pair import ModelPair, check_vocabularies
from nuggets.planning.cache import MapRequest
from nuggets.planning.datasets import (
    Datasets,
    align_samples,
    check_validation,
    reference_data,
    samples_from,
    seed_samples,
    source_label,
    target_of,
    transfer_samples,
)
from nuggets.planning.erasing import EraseRequest
from nuggets.planning.jobs import extractions, map_job, other_map_job
from nuggets.planning.machine import machine_of
from nuggets.planning.work import work_of
from nuggets.preflight.headers import Preflight, preflight
from nuggets.recipe import AlignJob, EraseJob, EvaluateJob, SensitivityJob, TransferRecipe
from nuggets.runs.store import RunStore
from nuggets.statistics.comparisons import first_family
from nuggets.statistics.power import DetectableEffect, detectable_effect
from nuggets.workspace import strangers

RUN_PREFIX = "run:"
"""Before a run's id where a model could stand too; `run:ID/ARM` is one arm of it."""


def check_job(job: Any) -> None:
    """Refuses a job of which configurations, headers and samples already say that it cannot work.

    Raises:
        BadInput: in one sentence.
    """
    if isinstance(job, TransferRecipe):
        check_transfer(job, pair_named(job.teacher, job.student))
    elif isinstance(job, SensitivityJob):
        _ = MapRequest.of(job).model.headers
    elif isinstance(job, AlignJob):
        pair = pair_named(job.teacher, job.student)
        _ = pair.teacher.headers, pair.student.headers
        check_vocabularies(pair, "an alignment")
        align_samples(job)
    elif isinstance(job, EraseJob):
        _ = EraseRequest.of(job).model.headers
    elif isinstance(job, EvaluateJob):
        for model in job.models:
            _check_evaluated(model)
            if "/" in model and model.startswith(RUN_PREFIX) and model.split("/")[0] in job.models:
                raise BadInput(
                    f"{model} is listed twice: its run is already listed with all its arms."
                )
        check_rooms(job.benchmarks, job.max_length)
        check_benchmarks(job.benchmarks)


def split_run(name: str) -> tuple[str, str | None]:
    """`run:ID` or `run:ID/ARM` → the run's id, and the arm; None for all arms."""
    run, slash, arm = name.removeprefix(RUN_PREFIX).partition("/")
    return run, arm if slash else None


def _check_evaluated(model: str) -> None:
    """Refuses a model that cannot be loaded, or a run without finished arms."""
    if not model.startswith(RUN_PREFIX):
        return check_model(model)
    run_id, arm = split_run(model)
    run = RunStore(runs_dir()).open(run_id)
    if run.record().kind != "transfer" or run.status() != "done":
        raise BadInput(
            f"Run {run.id} is a {run.record().kind} and {run.status()}; only arms of a finished "
            "transfer can be evaluated."
        )
    recipe = strangers.job_of(run)
    names = [each.name for each in recipe.arms]
    if arm is not None and arm not in names:
        raise BadInput(f"Run {run.id} has no arm {arm!r}; it has {', '.join(names)}.")
    return check_model(recipe.student)


def eval_extra_missing() -> str:
    """What to install before benchmarks can run; empty where nothing is missing."""
    if importlib.util.find_spec("lm_eval") is not None:
        return ""
    return "Benchmarks need lm-eval, which is not installed: pip install 'nuggets[eval]'."


def check_rooms(benchmarks: Sequence[Benchmark], max_length: int) -> None:
    """Refuses benchmarks whose free answers leave no room for a prompt, before a model loads.

    Raises:
        BadInput: with both lengths.
    """
    for task in benchmarks:
        if "generation_kwargs" in task.settings():
            check_room(task.max_new_tokens, max_length)


def check_benchmarks(benchmarks: Sequence[Benchmark], learned: Sequence[Sample] = ()) -> None:
    """Refuses benchmarks whose judge may not be asked, or whose items were learned from.

    Args:
        benchmarks: what is to be measured.
        learned: seed and training samples.

    Raises:
        BadInput: One of them cannot be asked; the sentence says why and what to do.
    """
    check_permits(benchmarks)
    if benchmarks and (missing := eval_extra_missing()):
        raise BadInput(missing)
    for task in benchmarks:
        task.items()
        check_leakage(learned, task.test_samples())
        if isinstance(task.judged_by, TeacherJudge):
            check_model(task.judged_by.teacher)


def check_model(model: str) -> None:
    """Refuses a model whose headers do not hold exactly what its config describes."""
    _ = model_named(model).headers


def check_extraction(recipe: TransferRecipe, pair: ModelPair) -> None:
    """Refuses pairs, ranks and samples that cannot be extracted from or for.

    Of the student only its configuration is read.
    """
    teacher, student = pair.teacher.spec, pair.student.spec
    _check_words(recipe, pair)
    for role in recipe.extraction.roles:
        if student.has(role):
            recipe.lora.rank(role, student.shape(role))
    _check_selectors(recipe, teacher, student)
    _check_other_tasks(recipe)
    named = {(getattr(arm, "task", None), getattr(arm, "score", None)) for arm in recipe.arms}
    for job in (map_job(recipe), *(other_map_job(recipe, *each) for each in named)):
        for data in (job.data, *reference_data(job.sensitivity.score, job.data).values()):
            seed_samples(data)


def _check_other_tasks(recipe: TransferRecipe) -> None:
    """Refuses a control by another task that names the target: it would be the treatment again."""
    own, parts = target_of(recipe.data), recipe.parts
    for arm in recipe.arms:
        if getattr(arm, "task", None) == own and parts[arm.name].role == "location_control":
            raise BadInput(
                f"The arm {arm.name} is to be located by another task, but {source_label(own)} is "
                "the target itself. Name another one, or leave its task out."
            )


def _check_words(recipe: TransferRecipe, pair: ModelPair) -> None:
    """Refuses what compares two models token by token where their tokenizers differ."""
    whole = [extraction.roles for extraction in extractions(recipe)]
    for needs, what in (
        (any({"embed", "head"} & set(roles) for roles in whole), "the roles embed and head"),
        (any(each.layers.needs_cka for each in extractions(recipe)), "the layer selector cka"),
        *((arm.compares_tokens, f"the arm {arm.name}") for arm in recipe.arms),
    ):
        if needs:
            check_vocabularies(pair, what)


def _check_selectors(recipe: TransferRecipe, teacher: ArchSpec, student: ArchSpec) -> None:
    """Asks the selectors what they would refuse, before they have anything to look at."""
    n = teacher.n_layers, student.n_layers
    for extraction in extractions(recipe):
        pairs = extraction.layers.pairs(np.zeros(n[0]), n[1], np.zeros(n))
        whole_heads = extraction.matrices.whole_heads
        split_sites(teacher, student, pairs, extraction.roles, whole_heads)
    for arm in recipe.arms:
        arm.check(teacher, student, recipe.extraction.roles)
    _check_location_controls(recipe, teacher, student)
    _check_kept(recipe)


def _check_location_controls(recipe: TransferRecipe, teacher: ArchSpec, student: ArchSpec) -> None:
    """Refuses a control that would take from where the treatment does: no verdict could follow."""
    wanted, n = recipe.extraction, (teacher.n_layers, student.n_layers)
    at_random, taken = (
        layers.pairs(np.zeros(n[0]), n[1], np.zeros(n))
        for layers in (RandomLayers(), wanted.layers)
    )
    sites, _ = split_sites(teacher, student, taken, wanted.roles, wanted.matrices.whole_heads)
    alike = {
        "random_layers": (
            n[0] <= n[1] and at_random == taken,
            f"the student has {student.n_layers} layers and the teacher {teacher.n_layers}, so "
            "that all of the teacher's are taken",
        ),
        "random_window": (
            all(teacher.shape(site.role) == student.shape(site.role) for site in sites),
            "the student's matrices are as large as the teacher's, so that whole ones are taken",
        ),
    }
    for arm in recipe.arms:
        same, why = alike.get(arm.kind, (False, ""))
        if same:
            rest = ", ".join(f"{{kind: {each.kind}}}" for each in recipe.arms if each != arm)
            raise BadInput(
                f"The arm {arm.name} would be the same as the one that it is a control of: {why}. "
                f"Leave it out, as in arms=[{rest}]."
            )


def _check_kept(recipe: TransferRecipe) -> None:
    """Refuses selectors that look at more than is kept of the map, those of single arms too."""
    keep = recipe.sensitivity.keep
    if keep == "full":
        return
    sums = [kind for kind, cls in members(MatrixSelector).items() if cls.reads == "sums"]
    for selector in (extraction.matrices for extraction in extractions(recipe)):
        if selector.reads not in ("sums", keep):
            raise BadInput(
                f"The selector {selector.kind} looks at every entry, but sensitivity.keep is "
                f"{keep}. Set it to full, or choose the selector {' or '.join(sums)}."
            )
    if recipe.extraction.ratio < 1:
        raise BadInput(
            f"An extraction ratio of {recipe.extraction.ratio:g} looks at every entry, but "
            f"sensitivity.keep is {keep}. Set it to full, or the ratio to 1."
        )


def check_general(recipe: TransferRecipe, pair: ModelPair) -> None:
    """Refuses general samples that the student has no words for: they would only ruin it.

    Raises:
        BadInput: naming the first arm that would learn from them, and the ways out.
    """
    learns = next((arm.name for arm in recipe.arms if arm.needs_general), None)
    if learns and recipe.data.general is None and not knows_builtin_words(pair.student):
        raise BadInput(
            f"The arm {learns} also learns from general samples. Without data.general these are "
            f"built-in skills, which mean nothing to {pair.student.ref.source}. Give general "
            "samples (data.general: a JSONL file or a data set; in the app under Compare), or "
            "remove the arm."
        )


def check_transfer(recipe: TransferRecipe, pair: ModelPair) -> Datasets:
    """Refuses transfers that cannot work; returns their samples.

    Raises:
        BadInput: The first of what stands in the way.
    """
    check_extraction(recipe, pair)
    check_general(recipe, pair)
    if problems := preflight_recipe(recipe, pair).problems:
        raise BadInput(problems[0])
    return _check_samples(recipe)


def refusals(
    recipe: TransferRecipe, pair: ModelPair | None = None, found: Preflight | None = None
) -> tuple[str, ...]:
    """Why a transfer would not be started, one sentence each; empty where it can be.

    Args:
        recipe: what is asked for.
        pair: its models, where they were found already.
        found: its preflight, where it was made already.

    Raises:
        BadInput: if one of the two is no model at all, or the device is not there.
    """
    pair = pair or pair_named(recipe.teacher, recipe.student)
    problems = list((found or preflight_recipe(recipe, pair)).problems)
    with_models = partial(check_extraction, pair=pair), partial(check_general, pair=pair)
    for check in (*with_models, _check_samples):
        try:
            check(recipe)
        except BadInput as problem:
            problems.append(str(problem))
    return tuple(dict.fromkeys(problems))


def _check_samples(recipe: TransferRecipe) -> Datasets:
    """Refuses samples that do not serve the arms, or that leak; returns them."""
    data = transfer_samples(recipe)
    _check_counted(data)
    _check_arms(recipe, data)
    check_rooms(recipe.benchmarks, recipe.train.max_length)
    if recipe.train.lr_grid:
        check_validation(data)
    if recipe.benchmarks:
        learned = [sample for seed in recipe.seeds for sample in data.train(seed)]
        if recipe.data.general is not None:
            learned += samples_from(recipe.data.general)
        check_benchmarks(recipe.benchmarks, [*data.seed_samples, *learned])
    return data


def detectable(recipe: TransferRecipe) -> DetectableEffect:
    """What a transfer can show before it is run: its smallest difference that would be seen.

    Counted with the test items that there really are and with Holm over the treatment's baseline
    and content controls. It assumes 0/1 outcomes and the usual spread of seeds (see
    `nuggets.statistics.power`).

    Raises:
        BadInput: if the samples cannot be read.
    """
    n_items = len(transfer_samples(recipe).test)
    against = len(first_family(recipe.parts))
    return detectable_effect(len(recipe.seeds), n_items, max(against, 1))


def _check_counted(data: Datasets) -> None:
    """Refuses items of which a report could give no interval, before anything is trained."""
    asked = {f"n_test: {data.label}": data.test}
    asked |= {f"n_old: the old skill {skill}": items for skill, items in data.old.items()}
    for name, items in asked.items():
        field, _, what = name.partition(": ")
        if len(items) < 2:
            raise BadInput(
                f"{what[0].upper()}{what[1:]} has {len(items)} item{'s' * (len(items) != 1)} to "
                f"count, and an interval needs at least 2. Change data.{field}, or give more."
            )


def _check_arms(recipe: TransferRecipe, data: Datasets) -> None:
    if recipe.data.metric == "choice" and not all(sample.choices for sample in data.test):
        raise BadInput(
            "The metric choice needs choices in every test sample, but some have none. Give "
            "every test sample a question, choices and an answer, or choose the metric "
            "exact_match."
        )
    if any(arm.needs_extra_prompts for arm in recipe.arms):
        for seed in recipe.seeds:
            data.extra(1, seed)  # noqa: S610 - not Django's


def preflight_recipe(recipe: TransferRecipe, pair: ModelPair) -> Preflight:
    """The preflight of everything that a recipe names."""
    return preflight_pair(pair, recipe.extraction.roles, recipe.device, recipe)


def preflight_pair(
    pair: ModelPair,
    roles: Sequence[str] = (),
    device: str = "auto",
    recipe: TransferRecipe | None = None,
) -> Preflight:
    """Everything that can be said of a pair before weights are read, on this machine.

    Args:
        pair: the two models.
        roles: matrices to be extracted.
        device: where it is to run.
        recipe: how much is to be done; a usual transfer when not given.
    """
    machine = machine_of(device, _existing_home())
    work = work_of(recipe, pair.teacher, machine.device)
    whole_heads = recipe is not None and recipe.extraction.matrices.whole_heads
    return preflight(pair, roles=roles, whole_heads=whole_heads, work=work, machine=machine)


def _existing_home() -> Any:
    """The folder of all runs, or the first above it that exists."""
    home = nuggets_home()
    return next(folder for folder in (home, *home.parents) if folder.is_dir())

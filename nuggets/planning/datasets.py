"""From a job's words to samples: built-in skills, or the user's files."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from itertools import chain
from pathlib import Path

from nuggets import demo
from nuggets.builtin.pairs import MODELS, model_card
from nuggets.builtin.skills import (
    SKILLS,
    extra_prompts,
    general_samples,
    skill_names,
    skill_samples,
)
from nuggets.data.jsonl import check_leakage, shared_samples
from nuggets.data.samples import Sample
from nuggets.data.sources import load_source, parse_dataset
from nuggets.disk.untrusted import at_home, is_file, is_folder, stamp
from nuggets.errors import BadInput
from nuggets.recipe import AlignJob, DataConfig, TransferRecipe
from nuggets.sensitivity.scores import Compared, Score

TEST_SHARE = 5
"""One in this many samples of a single file is kept for the test."""
N_VALIDATION = 60
"""Items, never counted in the report, on which learning rates are chosen."""
LEAST_VALIDATION = 30
"""With fewer of them a rate would be chosen by chance."""
_Items = tuple[str, list[Sample], list[Sample]]


@dataclass(frozen=True, eq=False)
class Datasets:
    """All samples of one job; none of `test` or `validation` is also in the other, or learned from.

    Where the report counts validation items (`data.items`), both are those and the test items are
    not among them.

    Attributes:
        label: what a person calls the task.
        seed_samples: samples that sensitivity is measured on.
        train: seed → the training samples of that run seed.
        test: the items that the report counts.
        validation: items on which learning rates are chosen; as many as are left.
        old: skill → items that show what is forgotten.
        extra: (n, seed) → prompts beyond the training set, for the teacher to answer.
        general: (n, seed) → data for healing, and for arms that learn from it.
    """

    label: str
    seed_samples: list[Sample]
    train: Callable[[int], list[Sample]]
    test: list[Sample]
    validation: list[Sample]
    old: dict[str, list[Sample]]
    extra: Callable[[int, int], list[Sample]]
    general: Callable[[int, int], list[Sample]]


def seed_samples(data: DataConfig) -> list[Sample]:
    """Only the samples that sensitivity is measured on.

    Raises:
        BadInput: if the job names none.
    """
    if data.task is not None:
        return skill_samples(data.task, "seed", data.n_seed_samples)
    if data.file is not None:
        return _split_file(data)[0]
    if data.seed_samples is not None:
        return samples_from(data.seed_samples)[: data.n_seed_samples]
    raise BadInput(
        "No seed samples: name a built-in task (--task) or a JSONL file (--seed-samples)."
    )


def test_samples(data: DataConfig, n: int) -> list[Sample]:
    """Items of a skill that are none of its seed samples: its test items, or what comes after them.

    Raises:
        BadInput: if there are fewer than 2.
    """
    if data.task is not None:
        return skill_samples(data.task, "test", n)
    if data.file is not None:
        found, name = _split_file(data)[2], data.file
    elif data.test is not None:
        found, name = samples_from(data.test), data.test
    else:
        name = str(data.seed_samples)
        found = samples_from(name)[data.n_seed_samples :]
    if len(found) < 2:
        raise BadInput(
            f"{name} has {len(found)} samples beside its {data.n_seed_samples} seed samples, but "
            "at least 2 are needed to measure on. Lower the number of seed samples."
        )
    return found[:n]


def reference_data(score: Score, data: DataConfig) -> dict[str, DataConfig]:
    """The reference set of a score by the names given, as many samples of each as of the skill.

    Without names it is every other built-in task. It follows from the job alone, so that no map
    changes because something else was measured. Empty for scores that compare nothing.

    Raises:
        BadInput: if the skill is not a built-in task and nothing is named, or the skill itself is.
    """
    if not isinstance(score, Compared):
        return {}
    names = score.against or tuple(n for n in skill_names() if n != data.task and data.task)
    return named_data(names, data, f"The score {score.kind}")


def target_of(data: DataConfig) -> str:
    """What names the skill itself: a task, a file, or its seed samples."""
    return str(data.task or data.file or data.seed_samples)


def named_data(names: Sequence[str], data: DataConfig, who: str) -> dict[str, DataConfig]:
    """Other skills by name, each a built-in task or a source of samples, in the skill's format.

    Raises:
        BadInput: if there are none, or the skill itself is among them.
    """
    own = target_of(data)
    if not names:
        raise BadInput(
            f"{who} sets {source_label(own)} against other skills: name them, such as "
            f"{', '.join(skill_names()[:2])} or a JSONL file (--against)."
        )
    if own in names:
        raise BadInput(f"{who} sets {own} against itself; take it out of its own reference set.")
    rest = {"file": None, "seed_samples": None, "train": None, "test": None, "task": None}
    return {
        name: data.model_copy(
            update=rest | {"task" if name in skill_names() else "seed_samples": name}
        )
        for name in dict.fromkeys(names)
    }


def load_datasets(data: DataConfig, taught: Sequence[str], lacking: Sequence[str]) -> Datasets:
    """All samples of a transfer.

    Args:
        data: the job's words.
        taught: built-in skills that the student was taught (measured for forgetting).
        lacking: built-in skills left out of healing data.

    Raises:
        BadInput: for unknown tasks, unreadable files, missing parts, or leakage.
    """
    old = {
        skill: _old(skill, data)
        for skill in (taught if data.old_skills is None else data.old_skills)
        if skill != data.task
    }
    without = tuple(sorted({*lacking, data.task} - {None}))

    def builtin_mix(n: int, seed: int) -> list[Sample]:
        return general_samples(n, seed, without=without)

    from_data = _from_files if data.task is None else _builtin
    found = from_data(data, old, builtin_mix)
    if data.general is None:
        return found
    asked = [*found.test, *found.validation, *chain.from_iterable(old.values())]
    return replace(found, general=_general(data.general, asked))


def transfer_samples(recipe: TransferRecipe) -> Datasets:
    """All samples of a transfer, with those that show what its student forgets."""
    if recipe.student not in MODELS:
        return load_datasets(recipe.data, (), ())
    card = model_card(recipe.student)
    taught = [skill for skill in card.scores if skill not in card.lacks]
    return load_datasets(recipe.data, taught, card.lacks)


def _old(skill: str, data: DataConfig) -> list[Sample]:
    """Items of an old skill; for choosing, as many others after those that the report counts."""
    if data.items == "test":
        return skill_samples(skill, "test", data.n_old)
    return skill_samples(skill, "test", 2 * data.n_old)[data.n_old :]


def _counted(label: str, data: DataConfig, test: list[Sample], validation: list[Sample]) -> _Items:
    """What the report calls the task, what it counts, and what learning rates are chosen on."""
    if data.items == "test":
        return label, test, validation
    if len(validation) < LEAST_VALIDATION:
        raise BadInput(
            f"Choosing needs at least {LEAST_VALIDATION} items that are no test items, but beside "
            f"its {len(test)} test items {label} has only {len(validation)}. Lower data.n_test."
        )
    return f"{label}, validation items", validation, validation


def _builtin(
    data: DataConfig, old: dict[str, list[Sample]], general: Callable[[int, int], list[Sample]]
) -> Datasets:
    task = str(data.task)
    pool = skill_samples(task, "test", data.n_test + N_VALIDATION)
    # Held-out facts are few: the same ones are asked whether or not rates are chosen.
    most = len(pool) - LEAST_VALIDATION if SKILLS[task].held_out else data.n_test
    split = _split_test(pool, min(data.n_test, most))
    label, test, validation = _counted(task, data, *split)
    return Datasets(
        label=label,
        seed_samples=skill_samples(task, "seed", data.n_seed_samples),
        train=lambda seed: skill_samples(task, "train", data.n_train, seed),
        test=test,
        validation=validation,
        old=old,
        extra=lambda n, seed: extra_prompts(task, n, seed),
        general=general,
    )


def _from_files(
    data: DataConfig, old: dict[str, list[Sample]], general: Callable[[int, int], list[Sample]]
) -> Datasets:
    if data.file is not None:
        seed_samples, pool, test = _split_file(data)
    else:
        if not (data.seed_samples and data.train and data.test):
            raise BadInput(
                "A transfer on your own data needs seed, training and test samples: give one "
                "file (data.file), or all of data.seed_samples, data.train and data.test."
            )
        seed_samples = samples_from(data.seed_samples)[: data.n_seed_samples]
        pool, test = samples_from(data.train), samples_from(data.test)
    check_leakage([*seed_samples, *pool], test)
    name = source_label(data.file or data.train or "samples")
    label, counted, validation = _counted(name, data, *_split_test(test, data.n_test))

    def draw(seed: int) -> list[Sample]:
        return random.Random(seed).sample(pool, min(data.n_train, len(pool)))  # noqa: S311

    def extra(n: int, seed: int) -> list[Sample]:
        drawn = {sample.id for sample in draw(seed)}
        rest = [sample for sample in pool if sample.id not in drawn]
        if not rest:
            raise BadInput(
                "No prompts are left for the teacher to label, since every training sample is in "
                "use. Lower data.n_train or remove the arm teacher_labels."
            )
        return random.Random(seed).sample(rest, min(n, len(rest)))  # noqa: S311

    return Datasets(label, seed_samples, draw, counted, validation, old, extra, general)


def _split_test(samples: Sequence[Sample], n_test: int) -> tuple[list[Sample], list[Sample]]:
    """The items that count, and of the rest those that ask something else, for validation."""
    counted, rest = list(samples[:n_test]), samples[n_test:]
    repeated = {id(sample) for sample in shared_samples(counted, rest)}
    return counted, [sample for sample in rest if id(sample) not in repeated][:N_VALIDATION]


def check_validation(data: Datasets) -> None:
    """Refuses several rates where too few items are left to choose between them.

    Raises:
        BadInput: saying how many there are, and the two ways out.
    """
    n_test, n_validation = len(data.test), len(data.validation)
    if n_validation >= LEAST_VALIDATION:
        return
    most = n_test + n_validation - LEAST_VALIDATION
    fewer = f"Lower data.n_test to {most}, or give" if most > 0 else "Give"
    raise BadInput(
        f"Learning rates are chosen on at least {LEAST_VALIDATION} items that the report does not "
        f"count, but beside its {n_test} test items {data.label} has only {n_validation}. {fewer} "
        "every arm the same rate: empty train.lr_grid."
    )


def samples_from(source: str) -> list[Sample]:
    """Samples of a file or a data set; a file that has not changed is parsed once.

    A data set of the hub is read once in a process: what was identified is what is used.
    """
    if demo.on():  # before it is seen whether there is such a file
        return load_source(source)
    path = at_home(source)
    if is_file(path):
        return list(_parsed(source, stamp(path)))
    return list(_parsed(source, "")) if on_hub(source) else load_source(source)


def on_hub(source: str) -> bool:
    """Whether a name is that of a data set, but of none on this machine."""
    ref = parse_dataset(source)
    return ref is not None and not is_folder(at_home(ref.name))


@lru_cache(maxsize=4)  # a preview asks for the same files at every move of a slider
def _parsed(source: str, _stamp: str) -> tuple[Sample, ...]:
    return tuple(load_source(source))


def source_label(source: str) -> str:
    """What a person calls a file or a data set."""
    ref = parse_dataset(source)
    return Path(source).stem if ref is None else Path(ref.name).name


def _split_file(data: DataConfig) -> tuple[list[Sample], list[Sample], list[Sample]]:
    """Splits one file by a hash of the ids, so that adding lines never moves a sample.

    What is asked in the test is left out of training, however often the file asks it.
    """
    samples = samples_from(str(data.file))
    ranked = sorted(samples, key=lambda s: blake2b(s.id.encode(), digest_size=8).hexdigest())
    held = max(1, len(ranked) // TEST_SHARE)
    test = ranked[:held]
    repeated = {id(sample) for sample in shared_samples(test, ranked[held:])}
    pool = [sample for sample in ranked[held:] if id(sample) not in repeated]
    if not pool:
        raise BadInput(
            f"{data.file} has {len(samples)} sample{'s' * (len(samples) != 1)} and too few "
            "different questions: one for the test and one for training are needed at least."
        )
    return pool[: data.n_seed_samples], pool, test


def _general(source: str, asked: Sequence[Sample]) -> Callable[[int, int], list[Sample]]:
    """Draws from a source of general samples what is not asked anywhere."""

    def draw(n: int, seed: int) -> list[Sample]:
        whole = samples_from(source)
        leaked = {id(sample) for sample in shared_samples(asked, whole)}
        pool = [sample for sample in whole if id(sample) not in leaked]
        if not pool:
            raise BadInput(
                f"All {len(whole)} samples of {source_label(source)} (data.general) are also items "
                "that models are asked, so that nothing is left to heal on. Give other samples."
            )
        return random.Random(seed).choices(pool, k=n)  # noqa: S311

    return draw


def align_samples(job: AlignJob) -> tuple[dict[str, list[Sample]], dict[str, list[Sample]]]:
    """Samples per skill on which alignment maps are fitted, and those they are tested on."""
    if job.data is not None:
        data = load_datasets(job.data.model_copy(update={"n_train": job.n_fit}), (), ())
        return {data.label: data.train(0)}, {data.label: data.test[: job.n_test]}
    tasks = align_tasks(job)
    fit = {task: skill_samples(task, "train", job.n_fit) for task in tasks}
    return fit, {task: skill_samples(task, "test", job.n_test) for task in tasks}


def align_tasks(job: AlignJob) -> tuple[str, ...]:
    """The built-in tasks of an alignment; all of them when none is named."""
    if job.data is not None:
        return ()
    return job.tasks or tuple(skill_names())

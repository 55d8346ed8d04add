"""What is shown, as a command line and as Python."""

from __future__ import annotations

import shlex
from functools import cache
from typing import Any

from nuggets.frozen import Frozen
from nuggets.playground.mailbox import Question
from nuggets.recipe import (
    AlignJob,
    DataConfig,
    EraseJob,
    EvaluateJob,
    SensitivityJob,
    TransferRecipe,
    load_recipe,
)
from nuggets.recipe_tree import one_line, shipped_recipes
from nuggets.sensitivity.scores import Score
from nuggets.workspace.recipes import fields_of, non_defaults


def as_command(job: Frozen, verb: str = "run") -> str:
    """The command line that does exactly this job; empty where no command can say it.

    Args:
        job: a transfer, a sensitivity measurement, an alignment or a question.
        verb: for transfers: `run`, `start`, `plan` or `extract`.
    """
    if isinstance(job, TransferRecipe):
        base, changes = _nearest(job)
        words = ["nuggets", verb, base]
        for name, value in changes.items():
            words += ["--set", f"{name}={one_line(value)}"]
        return shlex.join([*words, *(["--out", "extracted"] if verb == "extract" else [])])
    if isinstance(job, SensitivityJob):
        return _sensitivity(job)
    if isinstance(job, EraseJob):
        return _erasure(job)
    if isinstance(job, AlignJob):
        return _alignment(job)
    if isinstance(job, EvaluateJob):
        return _evaluation(job)
    if isinstance(job, Question):
        return shlex.join(_question(job))
    return ""


def _alignment(job: AlignJob) -> str:
    """Empty for several tasks, and for samples that are not those of one file as it stands."""
    file, given = None if job.data is None else job.data.file, non_defaults(job)
    said = None if file is None else DataConfig(file=file, n_seed_samples=min(job.n_fit, 32))
    if len(job.tasks) > 1 or job.data != said:
        return ""
    fields = ("n_fit", "n_test", "device")
    options = {name: value for name, value in given.items() if name in fields}
    words = _options(task=list(job.tasks), data=file, **options)
    stitch = [] if job.stitch else ["--no-stitch"]
    return shlex.join(["nuggets", "align", job.teacher, job.student, *words, *stitch])


def _options(**values: Any) -> list[str]:
    """`--name value` for each that is given; a list repeats its option."""
    words = []
    for name, value in values.items():
        for each in value if isinstance(value, list) else [value]:
            words += [] if each is None else [f"--{name.replace('_', '-')}", str(each)]
    return words


def _evaluation(job: EvaluateJob) -> str:
    """Empty where benchmarks differ in more than their kind: one command cannot say that."""
    given = [non_defaults(task) for task in job.benchmarks]
    shared = [{k: v for k, v in own.items() if k != "kind"} for own in given]
    if any(own != shared[0] for own in shared):
        return ""
    models = [name if "/" in name else name.removeprefix("run:") for name in job.models]
    judge = shared[0].pop("judge", None) or {}
    options = {"task" if name == "skill" else name: value for name, value in shared[0].items()}
    # Which key goes where is the machine's matter.
    options |= {f"judge_{k}": v for k, v in judge.items() if k not in ("kind", "key_env")}
    fields = ("batch_size", "max_length", "dtype", "device")
    options |= {name: value for name, value in non_defaults(job).items() if name in fields}
    words = _options(benchmark=[own["kind"] for own in given], **options)
    return shlex.join(["nuggets", "evaluate", *models, *words, "--out", "benchmarks"])


def _question(asked: Question) -> list[str]:
    arms = [s for s in asked.speakers if s.arm is not None]
    given = non_defaults(asked)
    options = _options(
        model=[s.model for s in asked.speakers if s.arm is None],
        run=arms[0].run if arms else None,
        seed=arms[0].seed if arms else None,
        arm=list(dict.fromkeys(s.arm for s in arms)),
        scale=given.get("scale"),
        tokens=given.get("max_new_tokens"),
        format=given.get("format"),
        device=given.get("device"),
    )
    words = ["ask", asked.prompt] if asked.answer is None else ["lens", asked.prompt, asked.answer]
    return ["nuggets", *words, *options]


def _score(score: Score) -> str:
    """As `--score` takes it: the kind, or with the parameters that are not as usual."""
    changed = {k: v for k, v in non_defaults(score).items() if k != "against"}
    return one_line({"kind": score.kind, **changed}) if set(changed) - {"kind"} else score.kind


def _erasure(job: EraseJob) -> str:
    """Empty for a length limit, which no command takes."""
    data, given = job.data, non_defaults(job)
    if "max_length" in given:
        return ""
    options = _options(
        task=data.task,
        seed_samples=data.seed_samples,
        data=data.file,
        against=",".join(job.against) or None,
        n=data.n_seed_samples,
        score=[_score(score) for score in job.scores] if "scores" in given else None,
        fractions=",".join(f"{each:g}" for each in given.get("fractions", ())) or None,
        items=given.get("n_items"),
        maps=given.get("n_maps"),
        parts=",".join(given["parts"]) if "parts" in given else None,
        ablation=given.get("ablation"),
        seed=given.get("seed"),
        dtype=given.get("dtype"),
        format=given["data"].get("format"),
        device=given.get("device"),
    )
    return shlex.join(["nuggets", "erase", job.model, *options, "--out", "erasure"])


def _sensitivity(job: SensitivityJob) -> str:
    """Empty for settings of a measurement or of a selector that no command takes."""
    data, config = job.data, job.sensitivity
    given, selectors = non_defaults(job), [selector.kind for selector in job.selectors]
    unsaid = set(given.get("sensitivity", {})) - {"score", "keep", "dtype"}
    if unsaid or any(set(non_defaults(each)) - {"kind"} for each in job.selectors):
        return ""
    options = _options(
        task=data.task,
        seed_samples=data.seed_samples,
        data=data.file,
        n=data.n_seed_samples,
        score=_score(config.score),
        against=",".join(getattr(config.score, "against", ())) or None,
        keep=config.keep,
        student=job.student,
        selectors=None if selectors == ["window"] else ",".join(selectors),
        dtype=given.get("sensitivity", {}).get("dtype"),
        format=given["data"].get("format"),
        device=given.get("device"),
    )
    words = ["nuggets", "sensitivity", job.model, *options, "--out", "sensitivity-map"]
    return shlex.join(words)


def as_python(job: Frozen, then: str = "") -> str:
    """A script that does exactly this job with the Python API.

    Args:
        job: a transfer, a sensitivity measurement, an alignment or a question.
        then: lines that go on with the result (`map`, `report`, `reply`, `run`, or `plan` of a
            transfer that is only planned) instead of printing it.
    """
    if isinstance(job, Question):
        fields = ", ".join(f"{name}={value!r}" for name, value in non_defaults(job).items())
        asked = f"api.playground.ask(api.playground.question({fields}))"
        return f"from nuggets import api\n\nreply = {asked}\n{then or 'print(reply)'}"
    kinds = {
        SensitivityJob: "map = api.measure(job)",
        AlignJob: "report = api.align(job)",
        EraseJob: "report = api.erase(job)",
    }
    made = kinds.get(type(job), "run = api.run(job)")
    results = {TransferRecipe: "api.report(run)", EvaluateJob: "api.benchmark_tables(run)"}
    shown = results.get(type(job), made.partition(" ")[0])
    if then.startswith("plan"):
        made = ""
    lines = ["from nuggets import api", "", f"job = api.parse_job({_pretty(non_defaults(job))})"]
    return "\n".join([*lines, *([made] if made else []), then or f"print({shown})"])


def _nearest(job: TransferRecipe) -> tuple[str, dict[str, Any]]:
    """The shipped recipe that needs the fewest changes, and those changes."""
    wanted = fields_of(job)
    best: tuple[str, dict[str, Any]] | None = None
    for name, have in _shipped().items():
        changes = {k: v for k, v in wanted.items() if k not in have or have[k] != v}
        if name == job.name:
            return name, changes
        if best is None or len(changes) < len(best[1]):
            best = (name, changes)
    assert best is not None
    return best


@cache
def _shipped() -> dict[str, dict[str, Any]]:
    """The fields of every shipped recipe."""
    return {name: fields_of(load_recipe(name)) for name in shipped_recipes()}


def _pretty(tree: dict[str, Any]) -> str:
    from pprint import pformat

    return pformat(tree, sort_dicts=False, width=88)

"""What is shown, as a command line and as Python. Torch-free."""

from __future__ import annotations

import shlex
from typing import Any

import yaml

from nuggets.core.architecture import Frozen
from nuggets.recipe import (
    AlignJob,
    AskJob,
    SensitivityJob,
    TransferRecipe,
    load_recipe,
    shipped_recipes,
)


def as_command(job: Frozen, verb: str = "run") -> str:
    """The command line that does exactly this job.

    Args:
        job: a transfer, a sensitivity measurement, an alignment or a question.
        verb: for transfers: `run`, `start`, `plan` or `extract`.
    """
    if isinstance(job, TransferRecipe):
        base, changes = _nearest(job)
        words = ["nuggets", verb, base]
        for name, value in changes.items():
            words += ["--set", f"{name}={_yaml(value)}"]
        return shlex.join([*words, *(["--out", "extracted"] if verb == "extract" else [])])
    if isinstance(job, SensitivityJob):
        config = job.sensitivity
        source = (
            ["--task", job.data.task] if job.data.task else ["--seeds", job.data.seeds or "FILE"]
        )
        options = [
            "--n",
            str(job.data.n_seeds),
            "--score",
            config.score.kind,
            "--keep",
            config.keep,
        ]
        return shlex.join(
            ["nuggets", "sensitivity", job.model, *source, *options, "--out", "sensitivity-map"]
        )
    if isinstance(job, AlignJob):
        task = ["--task", job.tasks[0]] if len(job.tasks) == 1 else []
        return shlex.join(["nuggets", "align", job.teacher, job.student, *task])
    return ""


def as_python(job: Frozen) -> str:
    """A script that does exactly this job with the Python API."""
    kinds = {TransferRecipe: "run", SensitivityJob: "measure", AlignJob: "align", AskJob: "run"}
    verb = kinds.get(type(job), "run")
    tree = job.model_dump(mode="json", exclude_defaults=True)
    fields = {"job": job.model_dump()["job"], **tree}
    lines = ["from nuggets import api", "", f"job = api.parse_job({_pretty(fields)})"]
    result = {"run": "run = api.run(job)\nprint(api.report(run))"}.get(
        verb, f"print(api.{verb}(job))"
    )
    return "\n".join([*lines, result])


def _nearest(job: TransferRecipe) -> tuple[str, dict[str, Any]]:
    """The shipped recipe that needs the fewest changes, and those changes."""
    wanted = _leaves(job.model_dump(mode="json"))
    best: tuple[str, dict[str, Any]] | None = None
    for name in shipped_recipes():
        base = load_recipe(name).model_dump(mode="json")
        have = _leaves(base)
        changes = {k: v for k, v in wanted.items() if k not in have or have[k] != v}
        if name == job.name:
            return name, changes
        if best is None or len(changes) < len(best[1]):
            best = (name, changes)
    assert best is not None
    return best


def _leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names of all settable fields; strategies with a `kind` stay whole, and so do lists."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict) and value and "kind" not in value:
            flat |= _leaves(value, f"{path}.")
        elif path != "description":
            flat[path] = value
    return flat


def _yaml(value: Any) -> str:
    """One value as one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False)
    return text.removesuffix("\n").removesuffix("...").strip()


def _pretty(tree: dict[str, Any]) -> str:
    from pprint import pformat

    return pformat(tree, sort_dicts=False, width=88)

"""A run in a tracker of experiments: its metrics, recipe, verdict and figures. Off unless asked.

Trackio and Weights & Biases share one interface: `init`, `log`, `save` and `finish`. What is logged
is read from the run's folder, so that it does not matter where or when the run computed. Nothing
leaves this machine unless a destination is named, and then no path of a local file does.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from nuggets.bundles.page import report_page
from nuggets.errors import BadInput
from nuggets.recipe_tree import leaves, parse_yaml, without_folders
from nuggets.runs import results
from nuggets.runs.store import Run

PROJECT = "nuggets"
TRACKERS = {"trackio": "nuggets[track]", "wandb": "wandb"}
"""Module of a tracker → what `pip install` brings it."""
_SENDERS = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_WEBHOOK_URL")
"""Variables by which trackio would send what it logs elsewhere without being asked here."""


def check_tracker(text: str) -> tuple[str, str]:
    """A tracker and its destination as they are named on the command line: `trackio:USER/SPACE`.

    Returns:
        The module, and where it sends things; empty to stay on this machine.

    Raises:
        BadInput: if there is no such tracker, or it is not installed.
    """
    name, _, destination = text.partition(":")
    if name not in TRACKERS:
        raise BadInput(f"There is no tracker {name[:60]!r}; there are {', '.join(TRACKERS)}.")
    if importlib.util.find_spec(name) is None:
        raise BadInput(f"{name} is not installed: pip install '{TRACKERS[name]}'.")
    return name, destination


def track(run: Run, to: str, group: str = "") -> None:
    """Logs a finished transfer: recipe and verdict as its configuration, curves, report page.

    Args:
        run: with a report.
        to: `trackio` or `wandb`, kept on this machine; with `:USER/SPACE`, `:https://…` (trackio)
            or `:ENTITY` (W&B) sent there.
        group: runs that belong together, such as the trials of a sweep.

    Raises:
        BadInput: if the tracker cannot be used, or the run has no report.
    """
    name, destination = check_tracker(to)
    report = results.report(run)
    if report is None:
        raise BadInput(f"Run {run.id} has no report yet, so there is nothing to log.")
    record = run.record()
    text = run.recipe_text()
    recipe = parse_yaml(text, run.id)
    if destination:  # others' eyes
        recipe = without_folders(recipe)
        text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    config = {
        **leaves(recipe),
        "verdict": report.verdict.sentence,
        "versions": record.provenance.versions,
        "device": record.provenance.device,
    }
    with _quiet_and_local(destination):
        module: Any = importlib.import_module(name)
        module.init(
            project=PROJECT,
            name=run.id,
            group=group or None,
            config=config,
            **_where(name, destination),
        )
        try:
            rows = sorted(_curves(run).items())
            for step, row in rows:
                module.log(row, step=step)
            module.log(_arms(report), step=rows[-1][0] + 1 if rows else 0)
            with tempfile.TemporaryDirectory() as folder:
                page = Path(folder) / f"{run.id}.html"
                page.write_text(report_page(record, report, text))
                module.save(str(page), **({"base_path": folder} if name == "wandb" else {}))
                module.finish()  # it copies or uploads the page, which must still be there
        except BaseException:
            module.finish()
            raise


def _where(name: str, destination: str) -> dict[str, Any]:
    if name == "wandb":
        online = {"entity": destination, "mode": "online"}
        return online if destination else {"mode": "offline"}
    own: dict[str, Any] = {
        "auto_log_gpu": False,
        "auto_log_cpu": False,
    }  # the run may have computed elsewhere, and is over
    if destination.startswith(("http://", "https://")):
        return own | {"server_url": destination}
    return own | ({"space_id": destination} if destination else {})


def _curves(run: Run) -> dict[int, dict[str, float]]:
    """Step → the losses and learning curves of all arms and seeds there."""
    found: dict[int, dict[str, float]] = {}
    for event in run.events():
        data = event.data
        if event.type == "metric" and "loss" in data and "arm" in data:
            row = found.setdefault(int(str(data["step"])), {})
            row[f"{data['arm']}/seed {data['seed']}/loss"] = float(str(data["loss"]))
    for cell in results.cells(run):
        metric = next(iter(cell.outcomes))
        for step, value in cell.curve:
            found.setdefault(step, {})[f"{cell.arm}/seed {cell.seed}/{metric}"] = value
    return found


def _arms(report: Any) -> dict[str, float]:
    """Every arm, and every paired difference, with its interval."""
    found: dict[str, float] = {}
    for name, arm in report.arms.items():
        low, high = arm.interval
        found |= {f"{name}/{report.metric}": arm.value, f"{name}/low": low, f"{name}/high": high}
    for gap in report.differences:
        between, i = f"{gap.arm} - {gap.versus}", gap.interval
        found |= {f"{between}/mean": i.mean, f"{between}/low": i.low, f"{between}/high": i.high}
    return found


@contextlib.contextmanager
def _quiet_and_local(destination: str) -> Iterator[None]:
    """Sends a tracker's words to stderr, and hides the variables that would send data away."""
    hidden = {} if destination else {v: os.environ.pop(v) for v in _SENDERS if v in os.environ}
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.environ.update(hidden)

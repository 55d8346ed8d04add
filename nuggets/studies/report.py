"""What an experiment found: rows with intervals, the paper's numbers beside them, and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain

from pydantic import Field

from nuggets.errors import BadInput
from nuggets.frozen import Frozen
from nuggets.models.references import short_name
from nuggets.recipe import load_job
from nuggets.runs.results import cells
from nuggets.runs.store import Run
from nuggets.statistics.cells import CellOutcome
from nuggets.statistics.comparisons import (
    compare_family,
    compare_together,
    first_family,
    higher_is_better,
)
from nuggets.statistics.conditions import unequal_rates
from nuggets.statistics.report import BenchmarkReport, build_report
from nuggets.statistics.verdict import ArmRole, Difference, controls_of
from nuggets.studies.findings import find_sentences, summarise
from nuggets.studies.schema import Study, focus_of

KEPT = "kept"
"""The metric of the layout `retention`: exact match on the items of all old skills."""


class Panel(Frozen):
    """One run of an experiment.

    `alternatives` compares the focus with every other treatment: positive means that the focus is
    better.
    """

    name: str
    x: float | None
    run: str
    task: str
    teacher: str
    student: str
    report: BenchmarkReport
    alternatives: list[Difference]


class StudyReport(Frozen):
    """An experiment's results, ready to be drawn or written.

    `across` compares the focus with the arm that the question sets against it, run by run as in
    `panels`, Holm over all runs; empty where the question names none. `caveat` is what a reader
    has to know first, in plain sentences. `seconds` is what the last attempts of the runs took, and
    `attempts` the most that one of them needed.
    """

    study: Study
    caveat: str = ""
    panels: list[Panel]
    across: list[Difference] = Field(default_factory=list)
    findings: list[str]
    missing: list[str]
    command: str
    date: str
    versions: dict[str, str] = Field(default_factory=dict)
    seconds: float
    attempts: int = 1

    @property
    def summary(self) -> str:
        """What was found in a few words, for lists of experiments."""
        panels = [(panel.name, panel.report, panel.alternatives) for panel in self.panels]
        missing = f" Not run yet: {', '.join(self.missing)}." if self.missing else ""
        return summarise(self.study, panels, self.across) + missing


def build_study_report(study: Study, runs: Mapping[str, Run], command: str) -> StudyReport:
    """Summarises the finished runs of an experiment.

    Args:
        study: which experiment.
        runs: run name → finished run; some may be missing.
        command: what made them.

    Raises:
        BadInput: if no run is finished.
    """
    if not runs:
        raise BadInput(
            f"No run of the experiment {study.name} has finished. Start them with: {command}"
        )
    panels = [_panel(study, name, run) for name, run in runs.items()]
    across = _across(study, runs)
    records = [run.record() for run in runs.values()]
    finished = max(record.finished or record.created for record in records)
    return StudyReport(
        study=study,
        panels=panels,
        across=across,
        findings=find_sentences(
            study, [(panel.name, panel.report, panel.alternatives) for panel in panels], across
        ),
        missing=[run.name for run in study.runs if run.name not in runs],
        command=command,
        date=finished.astimezone(UTC).strftime("%Y-%m-%d"),
        versions=records[-1].provenance.versions,
        seconds=sum(_seconds(record.started, record.finished) for record in records),
        attempts=max(record.attempts for record in records),
    )


def baseline_difference(report: BenchmarkReport, arm: str) -> Difference | None:
    """An arm against plain LoRA, where it was compared."""
    base = [name for name, each in report.arms.items() if each.role == "baseline"]
    found = [d for d in report.differences if d.arm == arm and d.versus in base]
    return found[0] if found else None


def paper_number(report: StudyReport, panel: Panel, arm: str) -> float | None:
    """The paper's number for an arm, or for a level's arm as `level/arm`."""
    values = report.study.paper.values
    return values.get(f"{panel.name}/{arm}", values.get(arm))


def control_differences(report: BenchmarkReport, role: ArmRole) -> list[Difference]:
    """The judged arm against its own controls of one role."""
    arm = report.verdict.treatment
    own = controls_of(report.parts, arm, role) if arm else []
    return [d for d in report.differences if d.arm == arm and d.versus in own]


def at_equal_rates(report: BenchmarkReport) -> BenchmarkReport:
    """The report of retention, without a verdict where a seed's arms have different rates.

    Smaller rates forget less, whatever LoRA starts from; and a rate that is chosen for the target
    is no fair choice for what is retained.
    """
    verdict = report.verdict
    judged = [verdict.treatment or "", *first_family(report.parts, verdict.treatment or "")]
    trained = [report.arms[name] for name in judged if name in report.arms]
    trained = [arm for arm in trained if arm.rates]
    if len({tuple(arm.rates) for arm in trained}) < 2:
        return report
    text = f"Not proven: {unequal_rates(trained)} Smaller rates forget less."
    without = verdict.model_copy(
        update={"kind": "not_proven", "location": None, "comparator": None, "sentence": text}
    )
    return report.model_copy(update={"verdict": without, "verdicts": {}})


def _panel(study: Study, name: str, run: Run) -> Panel:
    recipe = load_job(run.recipe_text())
    found, metric = _judged(study, run)
    focus = focus_of(study, name)
    treatments = {cell.arm for cell in found if cell.role == "treatment"}
    report = build_report(
        found,
        task=recipe.data.task or recipe.name,
        metric=metric,
        higher_is_better=higher_is_better(metric),
        treatment=focus if focus in treatments else None,
        ground=recipe.ground,
    )
    if study.layout == "retention":
        report = at_equal_rates(report)
    return Panel(
        name=name,
        x=next(each.x for each in study.runs if each.name == name),
        run=run.id,
        task=report.task,
        teacher=short_name(recipe.teacher),
        student=short_name(recipe.student),
        report=report,
        alternatives=_alternatives(found, metric, focus, treatments),
    )


def _judged(study: Study, run: Run) -> tuple[list[CellOutcome], str]:
    """A run's cells, and the metric that the experiment judges them by."""
    if study.layout == "retention":
        return [_kept(cell) for cell in cells(run)], KEPT
    return list(cells(run)), load_job(run.recipe_text()).data.metric


def _kept(cell: CellOutcome) -> CellOutcome:
    """The same cell judged by its old skills, all items in one row."""
    skills = sorted(cell.old_skills)
    if not skills:
        raise BadInput(f"Arm {cell.arm!r}, seed {cell.seed} did not measure retention.")
    items = [f"{skill}-{i}" for skill in skills for i in range(len(cell.old_skills[skill]))]
    values = list(chain.from_iterable(cell.old_skills[skill] for skill in skills))
    return cell.model_copy(update={"items": items, "outcomes": {KEPT: values}, "curve": []})


def _alternatives(
    found: Sequence[CellOutcome], metric: str, focus: str, treatments: set[str]
) -> list[Difference]:
    outcomes = _outcomes(found, metric)
    others = [arm for arm in outcomes if arm in treatments and arm != focus]
    if focus not in treatments or not others:
        return []
    return compare_family(outcomes, [(focus, other) for other in others], higher_is_better(metric))


def _across(study: Study, runs: Mapping[str, Run]) -> list[Difference]:
    """The focus against the one arm that the question names, in every run."""
    if not study.versus:
        return []
    groups = []
    metric = ""
    for name, run in runs.items():
        found, metric = _judged(study, run)
        groups.append((_outcomes(found, metric), [(focus_of(study, name), study.versus)]))
    return [each for own in compare_together(groups, higher_is_better(metric)) for each in own]


def _outcomes(found: Sequence[CellOutcome], metric: str) -> dict[str, dict[int, list[float]]]:
    """Arm → seed → the judged metric of every item."""
    outcomes: dict[str, dict[int, list[float]]] = {}
    for cell in found:
        outcomes.setdefault(cell.arm, {})[cell.seed] = cell.outcomes[metric]
    return outcomes


def _seconds(started: datetime | None, finished: datetime | None) -> float:
    return (finished - started).total_seconds() if started and finished else 0.0

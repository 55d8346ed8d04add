"""Chapters whose numbers come from finished runs that the project ships, and alignments."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from nuggets import api
from nuggets.amounts import plain_name
from nuggets.documents.figures import interval_text
from nuggets.errors import BadInput
from nuggets.recipe import AlignJob
from nuggets.statistics.intervals import Interval
from nuggets.ui.charts import learn as learn_charts
from nuggets.ui.frame.share import Origin, Picture
from nuggets.ui.learn.asked import SIBLING, STUDENT, TEACHER, Asked, NotMeasured, Scene, percent

CUTS = {
    "plain": "not pruned: plain LoRA",
    "by_target": "by sensitivity",
    "permuted": "permuted",
    "random": "random dimensions",
    "by_capital": "another task's sensitivity",
    "first": "first dimensions",
}
"""Arms of the published experiment, and what Learn calls them."""


def controls(asked: Asked) -> Scene:
    """Pruned students beside plain LoRA, then beside both kinds of control."""
    report = api.lessons.result(*api.lessons.CUTS)
    frame = _arms_frame(report, CUTS)
    few = frame.query("role in ('baseline', 'treatment')")
    # The last chapter asks of the first dimensions.
    both = _arms_frame(report, {name: said for name, said in CUTS.items() if name != "first"})
    pictures = [
        _cuts(report, few, asked, "learn-controls"),
        _cuts(report, both, asked, "learn-controls-all"),
    ]
    permuted, random = (_over(report, versus) for versus in ("permuted", "random"))
    answer = 0 if permuted.low <= 0 else 1 if random.low <= 0 else 2
    because = (
        f"Over the permuted cut: {_signed(permuted)}. Over the random cut: {_signed(random)}. "
        f"Verdict: {report.verdict.sentence} The paper's initialisation did not get so far: "
        f"{api.lessons.result(*api.lessons.TRANSFER).verdict.sentence}"
    )
    return Scene(pictures[0], answer, because, pictures[1], instead=True)


def _arms_frame(report: api.BenchmarkReport, names: Mapping[str, str]) -> pd.DataFrame:
    """The value of each arm with its interval, by the arm's name for people."""
    return pd.DataFrame(
        {
            "origin": said,
            "role": report.arms[name].role,
            "value": report.arms[name].value,
            "low": report.arms[name].interval[0],
            "high": report.arms[name].interval[1],
        }
        for name, said in names.items()
    )


def _over(report: api.BenchmarkReport, versus: str) -> Interval:
    """The pruning by sensitivity minus another arm."""
    return next(
        each.interval
        for each in report.differences
        if (each.arm, each.versus) == (report.verdict.treatment, versus)
    )


def _cuts(report: api.BenchmarkReport, frame: pd.DataFrame, asked: Asked, key: str) -> Picture:
    study, run = api.lessons.CUTS
    cut = report.arms["by_target"]
    return Picture(
        learn_charts.cuts_figure(frame, asked.look),
        frame,
        key,
        f"{report.task}, {cut.samples} samples, {cut.steps} steps · {len(cut.seeds)} students per "
        f"kind of cut × {report.n_items} unseen items · nuggets paper {study}",
        Origin(
            f"nuggets paper {study}",
            f"print(api.lessons.result({study!r}, {run!r}).arms)",
        ),
        "Bars: exact match by the way the student was pruned",
    )


def intervals(asked: Asked) -> Scene:
    """False claims, and true differences that are found."""
    found = api.lessons.calibration()
    about = (
        f"{found.n_pool:,} seeds of {found.arm} on {found.task}, {found.n_items} items"
        f"{', by the rules of 0.1' if found.edition == 1 else ''} · docs/calibration.md"
    )
    origin = Origin("nuggets calibrate")
    claims, power = learn_charts.claims_frame(found), learn_charts.power_frame(found)
    picture = Picture(
        learn_charts.claims_figure(claims, asked.look), claims, "learn-intervals",
        f"False claims about identical arms: {about}", origin,
        "Bars: how often a difference between identical arms was claimed",
    )  # fmt: skip
    revealed = Picture(
        learn_charts.power_figure(power, asked.look), power, "learn-power",
        f"How often a planted difference is detected: {about}", origin,
        "Lines: how often the verdict is “helps”, against the true difference",
    )  # fmt: skip
    own = power[power["difference"] == 0.2].set_index("seeds")
    rate, more = own.loc[3], own.loc[5]
    because = (
        f"With 3 seeds in {percent(rate['rate'])} of comparisons [{percent(rate['low'])}, "
        f"{percent(rate['high'])}], with 5 in {percent(more['rate'])} [{percent(more['low'])}, "
        f"{percent(more['high'])}]. “No detectable difference” does not mean “no effect”: check "
        "before a run what it can detect."
    )
    return Scene(picture, int(rate["rate"] < 0.8) + int(rate["rate"] < 0.2), because, revealed)


def transfer(asked: Asked) -> Scene:
    """R² of both students, then how students do by their cut."""
    jobs = {
        student: AlignJob(teacher=TEACHER, student=student, device=asked.device)
        for student in (STUDENT, SIBLING)
    }
    reports = {student: api.find_alignment(job) for student, job in jobs.items()}
    if missing := [jobs[student] for student, report in reports.items() if report is None]:
        raise NotMeasured(missing)
    frame = learn_charts.explained_frame(
        {student: report.matrices["r2"] for student, report in reports.items() if report}
    )
    picture = Picture(
        learn_charts.explained_figure(frame, asked.look), frame, "learn-transfer",
        "R² from the best teacher layer, on held-out answer tokens · both built-in pairs",
        Origin.of(jobs[SIBLING]),
        "Bars: R² of the best linear map for each student layer, independent and sibling side "
        "by side",
    )  # fmt: skip
    report = api.lessons.result(*api.lessons.CUTS)
    revealed = _cuts(report, _arms_frame(report, CUTS), asked, "learn-cuts")
    first = _over(report, "first")
    answer = 0 if first.low > 0 else 2 if first.high < 0 else 1
    because = (
        f"By sensitivity minus the first dimensions: {_signed(first)}. What helped was to keep the "
        "same dimensions in every layer. Whether it matters which ones depends on the skill; on "
        f"sub: {api.lessons.result(*api.lessons.OTHER).verdict.sentence}"
    )
    return Scene(picture, answer, because, revealed)


def words(asked: Asked) -> Scene:
    """The shipped run with word vectors: its baseline and content controls, then all arms."""
    report = api.report(api.shipped_run())
    if report is None or report.verdict.treatment is None:
        raise BadInput("The finished run that comes with this installation has no report.")
    frame = _arms_frame(report, {name: plain_name(name) for name in report.arms})
    treatment = report.arms[report.verdict.treatment]
    few = frame.query("role in ('baseline', 'content_control')")
    pictures = [
        Picture(
            learn_charts.cuts_figure(each, asked.look), each, key,
            f"Share of {report.n_items} kings that no sample names · {len(treatment.seeds)} seeds, "
            "95 % intervals · a run that comes with the app",
            Origin("nuggets run lexicon", "print(api.report(api.shipped_run()).arms)"),
            "Bars: exact match by what was added to the student's word vectors",
        )
        for each, key in ((few, "learn-words"), (frame, "learn-words-all"))
    ]  # fmt: skip
    right = treatment.value * report.n_items
    kept = min(own.mean for own in treatment.old_skills.values())
    rivers = api.lessons.result(*api.lessons.RIVERS).arms["lexicon"]
    because = (
        f"{right:.0f} of {report.n_items}, that is "
        f"{interval_text(treatment.value, *treatment.interval)}; of what it could do before, "
        f"{percent(kept)} is left in the skill that suffered most. {report.verdict.sentence} "
        "The scale and the steps were chosen on these kings; on rivers, for which nothing was "
        f"chosen, it is {interval_text(rivers.value, *rivers.interval)} ({len(rivers.seeds)} "
        "seeds). "
        "What this does not show: that facts about several words arrive, or that it works in "
        "real models."
    )
    answer = int(np.searchsorted([4.5, 12.5], right))
    return Scene(pictures[0], answer, because, pictures[1], instead=True)


def _signed(difference: Interval) -> str:
    return interval_text(difference.mean, difference.low, difference.high, signed=True)

"""Chapters whose numbers come from finished runs that the project ships, and alignments."""

from __future__ import annotations

from nuggets import api
from nuggets.documents.figures import interval_text
from nuggets.recipe import AlignJob
from nuggets.ui.charts import benchmarks as benchmarks_charts
from nuggets.ui.charts import learn as learn_charts
from nuggets.ui.frame.share import Origin, Picture
from nuggets.ui.learn.asked import SIBLING, STUDENT, TEACHER, Asked, NotMeasured, Scene, percent


def controls(asked: Asked) -> Scene:
    """The paper's start alone, then beside its controls."""
    shipped = api.lessons.controls()
    report = shipped.report
    few = {name: report.arms[name] for name in ("vanilla", "paper")}
    pictures = [
        Picture(
            benchmarks_charts.arms_figure(part, asked.look),
            benchmarks_charts.arms_frame(part),
            key,
            f"{shipped.setting} · {shipped.command}, run {shipped.run}",
            Origin(
                shipped.command,
                'run = api.run(api.load_recipe("controls"))\nprint(api.report(run).arms)',
            ),
            "Bars: exact match of each arm with its interval, and a dot for each seed",
        )
        for part, key in (
            (report.model_copy(update={"arms": few}), "learn-controls"),
            (report, "learn-controls-all"),
        )
    ]
    controls = [arm for arm in report.arms.values() if arm.role == "control"]
    paper = report.arms["paper"].value
    below = sum(arm.value < paper for arm in controls)
    answer = 0 if below == len(controls) else 2 if below == 0 else 1
    apart = [
        d.versus
        for d in report.differences
        if d.arm == "paper" and d.versus in {arm.name for arm in controls} and (d.better or d.worse)
    ]
    because = (
        f"The paper's initialisation reached {paper:.3f}, its {len(controls)} controls "
        f"{min(arm.value for arm in controls):.3f} to {max(arm.value for arm in controls):.3f}. "
        f"After Holm's correction it differs from {len(apart) or 'none'} of them. Verdict: "
        f"{report.verdict.sentence}"
    )
    return Scene(pictures[0], answer, because, pictures[1], instead=True)


def intervals(asked: Asked) -> Scene:
    """False claims, and true differences that are found."""
    found = api.lessons.calibration()
    about = (
        f"{found.n_pool} training runs of {found.arm} on {found.task}, {found.n_items} items · "
        "docs/calibration.md"
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
    shipped = api.lessons.graft()
    cuts = learn_charts.cuts_frame(shipped)
    revealed = Picture(
        learn_charts.cuts_figure(cuts, asked.look), cuts, "learn-cuts",
        f"{shipped.setting} · {shipped.command}",
        Origin(shipped.command,
               'report = api.run_study("graft")\nprint(report.panels[1].report.arms)'),
        "Bars: exact match by the way the student was pruned",
    )  # fmt: skip
    by = {difference.versus: difference for difference in shipped.differences}
    random, permuted = by["random"], by["permuted"]
    answer = 0 if random.low > 0 else 2 if random.high < 0 else 1
    because = (
        f"By sensitivity minus at random: {_written(random)}. By sensitivity minus permuted: "
        f"{_written(permuted)}. Here the shared basis made the difference; a benefit of choosing "
        "it by sensitivity was not shown."
    )
    return Scene(picture, answer, because, revealed)


def _written(difference: api.lessons.CutDifference) -> str:
    return interval_text(difference.value, difference.low, difference.high, signed=True)

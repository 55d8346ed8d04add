"""The verdict of a run: one large line, its two answers, and the effect on a zero line."""

from __future__ import annotations

import streamlit as st

from nuggets import api
from nuggets.amounts import plain_name
from nuggets.documents.figures import interval_text
from nuggets.statistics.verdict import Kind, Location, Verdict
from nuggets.ui.benchmarks.report import Sources, forest
from nuggets.ui.frame import safe
from nuggets.ui.transfer.form_compare import in_short

LINES: dict[Kind, str] = {
    "helps": "{arm} helps",
    "hurts": "{arm} hurts",
    "same_as_controls": "{arm} is no better than its controls",
    "no_difference": "{arm} makes no detectable difference",
    "not_proven": "Not proven that {arm} helps",
    "not_measurable": "Nothing can be compared here",
}
"""The large line, by the first answer."""
HELPED: dict[Kind, str] = {
    "helps": "Yes",
    "hurts": "No, it hurt",
    "same_as_controls": "Not shown: it does not beat all of its controls",
    "no_difference": "No detectable difference",
    "not_proven": "Not proven",
    "not_measurable": "Not measurable",
}
PLACED: dict[Location | None, str] = {
    "located": "Yes",
    "not_located": "Not shown: it does not beat all that came from elsewhere",
    "not_proven": "Not proven",
    None: "Not asked: only after “helps”",
}


def draw(report: api.BenchmarkReport, run: Sources) -> None:
    """Both answers beside the effect, then the sentence and the rules they follow."""
    found = report.verdict
    with st.container(border=True, key="verdict", gap="small"):
        st.header(safe.label(line(found), 200), anchor=False)
        if (effect := found.difference) is not None:
            st.caption(
                f"Difference in {plain_name(report.metric)} on {safe.label(report.task, 60)} to "
                f"plain LoRA, with its 95 % interval over {effect.n_seeds} seeds and "
                f"{effect.n_items} items"
            )
        left, right = st.columns([4, 5], gap="medium")
        with left:
            _answer("Did the teacher's parameters help?", HELPED[found.kind])
            _answer("Does it matter where they were taken from?", PLACED[found.location])
            with st.popover("In words, and the rules", width="stretch"):
                for sentence in (found.sentence, *_others(report), could_show(report)):
                    st.text(sentence)
                st.text("\n".join(f"{arm.name}: {in_short(arm)}" for arm in run.arms))
                st.text(report.rules)
        with right:
            forest(report, run)


def line(found: Verdict) -> str:
    """The verdict in one line, with its effect where there is one."""
    arm = plain_name(found.treatment) if found.treatment else "the transfer"
    said = LINES[found.kind].format(arm=arm)
    said = said[0].upper() + said[1:] if found.treatment is None else said
    effect = found.difference
    if effect is None:
        return said
    return f"{said}: {interval_text(effect.mean, effect.low, effect.high, signed=True)}"


def _others(report: api.BenchmarkReport) -> list[str]:
    """What is said of the run's other treatments."""
    judged = report.verdict.treatment
    return [other.sentence for name, other in report.verdicts.items() if name != judged]


def _answer(question: str, answer: str) -> None:
    with st.container(gap="xxsmall"):
        st.caption(question)
        st.markdown(f"**{answer}**")


def could_show(report: api.BenchmarkReport) -> str:
    """What this design can detect, where the verdict does not say it, and what was planned."""
    judged = report.verdict.treatment
    before = ""
    if report.planned and report.planned.value:
        before = (
            f"Before the run, {report.planned.value:.3f} was expected to be detectable. "
            f"{report.planned.basis}"
        )
    if report.verdict.kind == "no_difference":  # whose sentence says what was detectable
        return before
    baselines = {arm.name for arm in report.arms.values() if arm.role == "baseline"}
    for d in report.differences:
        if d.arm == judged and d.versus in baselines and d.minimum_detectable is not None:
            family = f" ({d.family})" if d.family else ""
            return (
                f"With {d.interval.n_seeds} seeds × {d.interval.n_items} items a difference of "
                f"{d.minimum_detectable:.3f} to {d.versus}{family} is detected 80 % of the time. "
                f"{before}"
            )
    return ""

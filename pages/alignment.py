"""Alignment: which layers of teacher and student resemble each other, and whether maps can work."""

from __future__ import annotations

import streamlit as st

from nuggets import api
from nuggets.recipe import AlignJob
from nuggets.ui.alignment import layer_map
from nuggets.ui.alignment import residual as residual_part
from nuggets.ui.alignment import similarity as parts
from nuggets.ui.alignment import words as words_part
from nuggets.ui.frame import measure, safe, shell


def main() -> None:
    """Draws the page."""
    st.title("Alignment", anchor=False)
    st.caption(
        "Which teacher layer corresponds to which student layer. Where no linear map links them, "
        "moving weights cannot help."
    )
    choice = shell.current()
    with safe.shown_problems("alignment"):
        job = AlignJob(
            teacher=choice.teacher,
            student=choice.student,
            data=choice.data() if choice.own else None,
            device=choice.device,
        )
        report = api.find_alignment(job)
        if report is None:
            measure.missing(
                "Not measured yet",
                f"How similar the layers of {choice.teacher} and {choice.student} are, and how "
                "much of each skill every student layer already encodes. A built-in pair takes "
                "less than a minute, and the result is saved.",
                {"Measure": [job]},
                "alignment",
            )
            return
        parts.similarity(report, choice, job, layer_map.text())
        words_part.section(report, choice, job)
        by_hand = layer_map.usable(report.matrices["cka"].shape)
        residual_part.section(choice, by_hand)


main()

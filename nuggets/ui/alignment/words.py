"""What can be read off single words: the facts that the teacher's word vectors could bring."""

from __future__ import annotations

from typing import Any

import streamlit as st

from nuggets import api
from nuggets.recipe import AlignJob
from nuggets.ui.charts import alignment as alignment_charts
from nuggets.ui.frame import share, shell
from nuggets.ui.frame.share import Origin, Picture


def section(report: api.AlignmentReport, choice: shell.Choice, job: AlignJob) -> None:
    """Accuracy of a probe of single words, per block, teacher and student.

    Nothing is drawn for alignments of earlier versions, and where no answer comes again.
    """
    found = report.meta.get("words")
    if not found:
        return
    st.subheader("What can be read off single words?", anchor=False)
    st.text(
        "A linear probe reads a word's vector, or the word alone after each block, and says the "
        "answer to a question about it. It was fitted on other words. What it reads off the "
        "teacher and not off the student can arrive when the teacher's word vectors are added to "
        "the student's (the recipe lexicon); what is at chance in the teacher hardly can."
    )
    skills = list(found)
    clearest = max(skills, key=lambda skill: _read_off_teacher(found[skill]))
    default = skills.index(choice.task if choice.task in skills else clearest)
    skill = st.selectbox("Relation", skills, index=default, key="relation", bind="query-params",
                         width=200)  # fmt: skip
    skill = skill if skill in found else skills[default]
    own = found[skill]
    frame = alignment_charts.words_frame(own["models"])
    Picture(
        alignment_charts.words_figure(frame, own["chance"], share.look()),
        frame,
        "words",
        f"Accuracy on {own['n_test']} words, fitted on {own['n_fit']} others; 95 % intervals · "
        f"{skill}, {choice.pair}",
        Origin.of(job, f"print(report.meta['words'][{skill!r}])"),
        f"Lines: how often a probe of single words answers {skill}, per block, for teacher and "
        "student, above a dotted line at chance",
    ).draw()


def _read_off_teacher(own: dict[str, Any]) -> float:
    """The probe's accuracy at the teacher's best block."""
    return max(block["mean"] for block in own["models"]["teacher"])

"""Parts of the Alignment page: the matrices with layer maps, and linear maps."""

from __future__ import annotations

import streamlit as st

from nuggets import api
from nuggets.errors import BadInput
from nuggets.recipe import AlignJob, SensitivityJob
from nuggets.ui.alignment import layer_map
from nuggets.ui.charts import alignment as alignment_charts
from nuggets.ui.frame import measure, safe, share, shell
from nuggets.ui.frame.share import Origin, Picture

MEASURES = {
    "cka": ("CKA of activations", "1 where the activations of both layers have the same geometry"),
    "subspace": ("weight subspace", "overlap of what the weights read from the same tokens"),
    "profile": ("sensitivity profile", "correlation of the layers' sensitivities across modules"),
    "r2": (
        "R² of a linear map",
        "how much of the student layer a linear map from the teacher layer explains",
    ),
    "stitching": (
        "stitching accuracy",
        "student up to its layer → linear map → rest of the teacher",
    ),
}
ALL = "all skills"


@safe.fragment
@safe.shown_problems("similarity")
def similarity(
    report: api.AlignmentReport, choice: shell.Choice, job: AlignJob, by_hand: str
) -> None:
    """One measure as a teacher × student matrix, with the layer maps over it; clicks edit one.

    Its controls draw nothing else again, unless the map is no longer `by_hand`, the one of which
    the rest of the page speaks.
    """
    if layer_map.text() != by_hand:
        st.rerun()
    shape = report.matrices["cka"].shape
    names = [m for m in MEASURES if m in report.matrices or (m == "stitching" and report.stitching)]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.selectbox("Measure", names, key="measure", bind="query-params", width=200,
                              format_func=lambda m: MEASURES.get(m, (m,))[0])  # fmt: skip
        chosen = chosen if chosen in names else names[0]
        skill = _skill(report, chosen, choice.task)
        layer_map.field(shape[1])
        overlay = st.toggle("Selectors' maps", value=True, key="maps", bind="query-params",
                            help="Which teacher layer each selector pairs with each student "
                                 "layer.")  # fmt: skip
    title, meaning = MEASURES[chosen]
    name = f"{chosen}.{skill}" if skill else chosen
    matrix = report.matrices[name]
    about = f"{title} · {skill}" if skill else title
    selectors = layer_maps(report, choice)
    maps = layer_map.add(selectors if overlay else {}, shape)
    start = [teacher for _, teacher in next(iter(selectors.values()), ())]
    origin, key = Origin.of(job, f"print(report.matrices[{name!r}])"), f"similarity-{chosen}"
    bounds = {"profile": (-1.0, 1.0), "r2": None}.get(chosen, (0.0, 1.0))
    Picture(
        alignment_charts.similarity_figure(matrix, title, maps, bounds=bounds, look=share.look()),
        alignment_charts.similarity_frame(matrix, chosen),
        key,
        f"{about}: {meaning} · {facts(report, chosen, skill)} · {choice.pair}",
        origin,
        f"Heatmap of {about}, teacher layers down, student layers across",
    ).draw(lambda: layer_map.clicked(key, shape, start), ("points",))
    layer_map.actions(selectors | maps)
    left, right = st.columns([5, 4], gap="medium")
    with left:
        st.subheader("Layer maps", anchor=False)
        layer_map.table(selectors | maps, matrix, title, f"{about} · {choice.pair}", origin)
    with right:
        explained(report, choice, job)


def _skill(report: api.AlignmentReport, chosen: str, task: str) -> str | None:
    """The skill whose samples are shown; None for all together."""
    skills = [skill for skill in report.skills if f"{chosen}.{skill}" in report.matrices]
    together = [ALL] if chosen in report.matrices else []
    if not skills:
        return None
    options = together + skills
    default = task if not together and task in skills else options[0]
    key = "of_skill" if together else "skill"
    found = st.selectbox("Skill", options, index=options.index(default), key=key,
                         bind="query-params", width=170)  # fmt: skip
    found = found if found in options else default
    return None if found == ALL else found


def facts(report: api.AlignmentReport, chosen: str, skill: str | None) -> str:
    """What the numbers are to be compared with."""
    scores = report.meta.get("scores", {}).get(skill)
    if chosen == "stitching" and scores:
        pair = list(scores.values()) if isinstance(scores, dict) else list(scores)
        return f"teacher alone {pair[0]:.2f}, student alone {pair[1]:.2f}"
    baseline = report.meta.get("baselines", {}).get(chosen)
    if isinstance(baseline, int | float) and skill is None:
        return f"unrelated layers give {baseline:.2f}"
    return "answer tokens of this skill" if skill else f"{report.n_tokens} answer tokens"


def layer_maps(report: api.AlignmentReport, choice: shell.Choice) -> layer_map.Maps:
    """The layer maps that selectors would choose."""
    n_teacher, n_student = report.matrices["cka"].shape
    job = SensitivityJob(
        model=choice.teacher,
        data=choice.data(),
        sensitivity=choice.sensitivity(),
        device=choice.device,
    )
    found = measure.measured_map(job)
    scores = None if found is None else found.layer_scores
    try:
        return api.views.layer_maps(n_teacher, n_student, scores, report.matrices["cka"])
    except BadInput as problem:
        st.text(str(problem))
        return {}


def explained(report: api.AlignmentReport, choice: shell.Choice, job: AlignJob) -> None:
    """How much of each student layer the teacher's best layer explains."""
    st.subheader("Can a linear map work?", anchor=False)
    frame = alignment_charts.explained_frame(report.matrices["r2"])
    Picture(
        alignment_charts.explained_figure(frame, share.look()),
        frame,
        "explained",
        f"R² from the best teacher layer, on held-out tokens · {choice.pair}",
        Origin.of(job, "print(report.matrices['r2'].max(axis=0))"),
        "Bars: R² of the best linear map from a teacher layer, per student layer",
    ).draw()

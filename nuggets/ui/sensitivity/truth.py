"""Is the map true? What erasing its weights does to the skill, and to others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import streamlit as st

from nuggets import api
from nuggets.errors import NuggetsError
from nuggets.recipe import EraseJob
from nuggets.ui.charts import erasure as charts
from nuggets.ui.frame import measure, safe, share
from nuggets.ui.frame.share import Picture
from nuggets.ui.sensitivity.sources import Source

Origin = Callable[[str], share.Origin]
KEY = "against"
ABLATION = "erased"


def job_for(source: Source) -> EraseJob:
    """The erasure that tests a map against the skills that the page names."""
    job, own = source.job, api.own_data()
    assert job is not None, "an atlas brings its erasures"
    names = [name for name in _chosen(KEY) if name in _others(source)]
    return EraseJob(
        name=f"erase-{job.name.removeprefix('sensitivity-')}",
        model=job.model,
        data=job.data,
        against=tuple(
            str(own[name].file or own[name].seed_samples) if name in own else name for name in names
        ),
        ablation="mean" if _chosen(ABLATION) == ["mean"] else "zero",
        dtype=job.sensitivity.dtype,
        max_length=job.sensitivity.max_length,
        device=job.device,
    )


def _chosen(key: str) -> list[str]:
    """A control's value, also before it is drawn."""
    given = st.session_state.get(key) or st.query_params.get_all(key)
    return [given] if isinstance(given, str) else given


def _others(source: Source) -> list[str]:
    own = {name for name, data in api.own_data().items() if data.file or data.seed_samples}
    asked = source.job and api.name_of(source.job.data)
    return [name for name in (*api.skills(), *own) if name != asked]


def found_for(source: Source) -> api.ErasureReport | None:
    """What erasing showed, if it was measured; whatever is wrong is told in the section itself."""
    if source.job is None:
        return source.erasure
    try:
        return measure.measured_erasure(job_for(source))
    except NuggetsError:
        return None


@safe.shown_problems("truth")
def truth(source: Source) -> None:
    """The section: the choice of other skills, then curves and parts, or the offer to measure."""
    st.subheader("Is it true?", anchor=False)
    if source.job is None:
        _of_atlas(source)
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.multiselect(
            "Other skills", _others(source), key=KEY, bind="query-params", width=420,
            placeholder="one other task of each kind" if source.job.data.task else "choose some",
            help="A map that is specific hurts the skill and spares these.",
        )  # fmt: skip
        st.segmented_control(
            "Erased weights contribute", ("zero", "mean"), default="zero", required=True,
            key=ABLATION, bind="query-params",
            help="Nothing, or what they contribute on average to the other skills: then only what "
            "depends on the prompt is lost.",
        )  # fmt: skip
    job = job_for(source)
    if not job.against and job.data.task is None:
        st.text("Choose other skills to set these samples against.")
        return
    report = measure.measured_erasure(job)
    if report is None:
        measure.missing(
            "Not tested yet",
            f"Erases the weights that the map puts first, in memory only, and measures what is "
            f"left of {source.label} and of other skills; likewise for scores that compare "
            "skills, and for controls such as random weights. This takes less than a minute on a "
            "built-in model, and the result is saved.",
            {"Test the map": [job]},
            "truth",
        )
        return
    origin = partial(share.Origin.of, job)
    _curves(report, source, origin)
    _parts(report, source, origin)


def _of_atlas(source: Source) -> None:
    if source.erasure is None:
        st.text(f"This atlas does not say what erasing shows of {source.label}.")
        return
    _curves(source.erasure, source, source.origin)
    _parts(source.erasure, source, source.origin)


def _curves(report: api.ErasureReport, source: Source, origin: Origin) -> None:
    words = api.erasure_words
    compared = [order for order in report.curves if order.split(" ")[0] in ("specific", "contrast")]
    safe.notes(words.verdict(report, order) for order in ("theta_grad", *compared))
    if note := words.ablation(report):
        st.text(note)
    frame = charts.curves_frame(report)
    Picture(
        charts.curves_figure(report, frame, share.look()),
        frame,
        "erasure",
        "Damage: the rise of the loss over the rise to guessing; below each name the specificity, "
        "the area between the two curves; 95 % intervals over items and resampled maps · "
        f"{source.label} against {', '.join(list(report.skills)[1:])} · {_about(report)}",
        origin("print({order: report.specificity(order) for order in report.curves})"),
        "Panels, one per order of weights: damage to the skill and to other skills against the "
        "share of weights set to 0. The table has the values.",
    ).draw()


def _parts(report: api.ErasureReport, source: Source, origin: Origin) -> None:
    if not report.kinds:
        return
    kind = st.segmented_control("Taken out one by one", report.kinds, default=report.kinds[0],
                                required=True, key="parts", bind="query-params")  # fmt: skip
    kind = kind if kind in report.kinds else report.kinds[0]
    st.text(api.erasure_words.disagreement(report, kind))
    frame = charts.parts_frame(report, kind)
    Picture(
        charts.parts_figure(frame, kind, report.skill, share.look()),
        frame,
        f"without-{kind}",
        f"Each of the {kind} taken out by itself: the map's share beside the damage · "
        f"{source.label} · {_about(report)}",
        origin(f"print(report.part_damage({kind!r}))"),
        f"Scatter plot of the {kind}: share of the sensitivity against the damage without each",
    ).draw()


def _about(report: api.ErasureReport) -> str:
    items = next(iter(report.skills.values()))
    maps = max(len(curve) for curve in report.curves.values())
    digest = str(report.meta.get("digest", "unnamed"))[:8]
    return f"{items} items per skill, {maps} maps · erasure {digest}"

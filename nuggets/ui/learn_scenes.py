"""What each chapter of the Learn page shows, and the answer to its question, from real numbers.

A scene has a figure that stands beside the formula, an answer, and a figure that would give the
answer away and is shown only with it. Numbers come from maps and alignments measured here, or
from results that the project ships; `NotMeasured` names what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from nuggets import api
from nuggets.recipe import AlignJob, SensitivityJob, TransferRecipe
from nuggets.ui import (
    charts,
    charts_benchmarks,
    charts_learn,
    charts_map,
    charts_sensitivity,
    measure,
)

TEACHER, STUDENT, SIBLING = "teacher", "independent", "sibling"
RANK = 16
TOP = 0.01
"""Share of the weights of which the first chapter asks how much they hold."""


class Picture(NamedTuple):
    """A figure with what `share.figure` needs beside it."""

    figure: go.Figure
    data: pd.DataFrame
    key: str
    caption: str
    command: str | None
    python: str | None
    alt: str


class Scene(NamedTuple):
    """One chapter with its numbers.

    Attributes:
        picture: stands beside the formula.
        answer: place of the right option.
        because: the measured numbers behind it, in a sentence or two.
        revealed: a second figure, shown with the answer.
        instead: the second figure holds the first and takes its place.
    """

    picture: Picture
    answer: int
    because: str
    revealed: Picture | None = None
    instead: bool = False


class NotMeasured(Exception):
    """A chapter needs measurements that are not there yet."""

    def __init__(self, jobs: Sequence[measure.Measurement]):
        super().__init__("not measured yet")
        self.jobs = list(jobs)


class Asked(NamedTuple):
    """What the scenes are about: a built-in skill, a device, the look of figures."""

    task: str
    device: str
    look: charts.Look

    @property
    def job(self) -> SensitivityJob:
        """The measurement of the teacher."""
        data = api.DataConfig(task=self.task)
        return SensitivityJob(model=TEACHER, data=data, device=self.device)

    @property
    def origin(self) -> str:
        """Where the numbers come from, for captions."""
        return f"{self.task}, {TEACHER} → {STUDENT}"

    def recipe(self, selector: str = "window") -> TransferRecipe:
        """What would be extracted with a matrix selector."""
        return TransferRecipe.model_validate(
            {
                "teacher": TEACHER,
                "student": STUDENT,
                "device": self.device,
                "data": {"task": self.task},
                "extraction": {"matrices": {"kind": selector}},
                "lora": {"r": RANK},
            }
        )

    def map(self) -> api.SensitivityMap:
        """The teacher's map.

        Raises:
            NotMeasured: if there is none.
        """
        found = measure.measured_map(self.job)
        if found is None:
            raise NotMeasured([self.job])
        return found


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def scene(key: str, asked: Asked) -> Scene:
    """The scene of a chapter.

    Raises:
        NotMeasured: naming the jobs that it needs.
        NuggetsError: if models or shipped results are missing.
    """
    return _SCENES[key](asked)


def _nearest(value: float, options: Sequence[float]) -> int:
    return int(np.argmin(np.abs(np.asarray(options) - value)))


def _sensitivity(asked: Asked) -> Scene:
    found = asked.map()
    values = api.views.module_values(found, "share")
    totals = api.views.module_values(found, "absolute").mean
    frame = charts_map.map_frame(found.spec, values, totals)
    shown = charts_map.Shown.of("share")
    picture = Picture(
        charts_map.map_figure(frame, shown, (), asked.look),
        frame,
        "learn-sensitivity",
        f"Share of all sensitivity per matrix, {found.n_samples} seed samples · {asked.task}, "
        f"{TEACHER}",
        api.as_command(asked.job),
        api.as_python(asked.job, "print(api.views.module_values(map, 'share'))"),
        "Heatmap of layers by modules: share of the sensitivity",
    )
    held = api.views.held_by_top(found, TOP)
    return Scene(
        picture,
        int(np.searchsorted([0.05, 0.25], held)),
        f"The top 1 % of the weights hold {_percent(held)} of the sensitivity to {asked.task}. That is "
        "why it can be worth choosing; whether what is chosen can be moved is another question.",
    )


def _layers(asked: Asked) -> Scene:
    found, k = asked.map(), api.spec(STUDENT).n_layers
    samples, n = found.layer_samples, found.n_samples
    stability = api.views.layer_stability(samples, k)
    frame = charts_sensitivity.layers_frame(api.views.layer_values(found), stability)
    picture = Picture(
        charts_sensitivity.layers_figure(frame, asked.look),
        frame,
        "learn-layers",
        f"The {k} most sensitive of {found.spec.n_layers} layers in orange; 95 % intervals over "
        f"{n} samples · {asked.origin}",
        api.as_command(asked.job),
        api.as_python(asked.job, "print(api.views.layer_values(map))"),
        "Bars: share of each layer with its interval, and how often it is chosen again",
    )
    sizes = [size for size in (1, 2, 4, 8, 16, 32) if size < n] + [n]
    same = api.views.stability_by_samples(samples, k, sizes)
    points = pd.DataFrame({"samples": sizes, "same_layers": same})
    revealed = Picture(
        charts_sensitivity.samples_figure(points, asked.look),
        points,
        "learn-samples",
        f"How many of the {k} layers fewer samples choose too · {asked.origin}",
        api.as_command(asked.job),
        api.as_python(
            asked.job, f"print(api.views.stability_by_samples(map.layer_samples, {k}, {sizes}))"
        ),
        "Share of the chosen layers against the number of seed samples",
    )
    chance = k / found.spec.n_layers
    because = (
        f"One sample chooses {_percent(same[0])} of the same layers on average; drawing layers at random "
        f"would give {_percent(chance)}."
    )
    return Scene(picture, int(np.searchsorted([0.5, 0.9], same[0])), because, revealed)


def _windows(asked: Asked) -> Scene:
    found = asked.map()
    plans = {kind: api.plan(asked.recipe(kind)) for kind in ("window", "consistent")}
    residual = {
        kind: api.views.residual_dimensions(plan, found.spec) for kind, plan in plans.items()
    }
    own = residual["window"]
    share = float(own.agreement.mean())
    revealed = Picture(
        charts_learn.residual_figure(residual, asked.look),
        charts_learn.residual_frame(residual),
        "learn-residual",
        f"Which dimensions of the residual stream each matrix was cut to · {asked.origin}",
        api.as_command(asked.recipe(), "plan"),
        api.as_python(asked.recipe()),
        "Matrices down, residual dimensions across, dark where chosen: independent windows jump "
        "from matrix to matrix, the consistent choice does not",
    )
    because = (
        f"Neighbouring windows share {_percent(share)} of their dimensions, choices made blindly share "
        f"{_percent(own.chance)}. What one matrix writes, the next reads only in part, so the circuit "
        "is broken. One consistent choice for the whole network shares "
        f"{_percent(residual['consistent'].agreement.mean())}."
    )
    answer = 2 - int(np.searchsorted([0.6, 0.9], share))
    return Scene(_window_picture(asked, found, plans["window"]), answer, because, revealed)


def _window_picture(asked: Asked, found: api.SensitivityMap, plan: api.ExtractionPlan) -> Picture:
    """The matrix in which the window search gains most, with its windows drawn on it."""
    layered = [item for item in plan.items if item.teacher_layer is not None]
    item = max(layered, key=lambda one: one.kept_mass / one.area)
    module, matrix = item.teacher_module, found.matrix(item.teacher_module)
    binned = api.views.bin_matrix(matrix)
    best, second = api.views.chosen_windows(matrix, *item.shape)
    profiles = (
        api.views.profile(found.rows[module] / matrix.shape[1]),
        api.views.profile(found.cols[module] / matrix.shape[0]),
    )
    figure = charts_sensitivity.matrix_figure(
        binned,
        "mean",
        [window for window in (best, second) if window is not None],
        profiles,
        api.views.axis_name(found.spec, item.role),
        look=asked.look,
    )
    return Picture(
        figure.update_layout(height=430),
        charts_sensitivity.matrix_frame(binned, "mean"),
        "learn-window",
        f"{module}: the window is {_percent(item.area)} of the matrix and holds {_percent(item.kept_mass)} "
        f"of its sensitivity · {asked.origin}",
        api.as_command(asked.recipe(), "plan"),
        api.as_python(asked.recipe()),
        "Heatmap of one matrix with the chosen window and the runner-up",
    )


def _factors(asked: Asked) -> list[api.Factors]:
    asked.map()  # says what is missing before the plan refuses
    plan = api.plan(asked.recipe())
    return _kept_factors(plan.digest, plan)


@st.cache_data(max_entries=8, show_spinner=False)
def _kept_factors(digest: str, _plan: api.ExtractionPlan) -> list[api.Factors]:
    return api.window_factors(_plan, TEACHER, STUDENT)


def _factors_python(asked: Asked) -> str:
    code = f'for factors in api.window_factors(plan, "{TEACHER}", "{STUDENT}"):\n    print(factors)'
    return f"{api.as_python(asked.recipe())}\n{code}"


def _svd(asked: Asked) -> Scene:
    found = _factors(asked)
    kept = {}
    pictures = []
    for with_shuffled in (False, True):
        frame = charts_learn.energy_frame(found, with_shuffled)
        kept = dict(frame[frame["rank"] == RANK][["what", "kept"]].to_numpy())
        pictures.append(
            Picture(
                charts_learn.energy_figure(frame, RANK, asked.look),
                frame,
                "learn-svd-shuffled" if with_shuffled else "learn-svd",
                f"Squared entries kept by rank, mean over {len(found)} windows · {asked.origin}",
                api.as_command(asked.recipe(), "plan"),
                _factors_python(asked),
                "Line: share of the squared entries kept, against the rank",
            )
        )
    own, other = kept["window"], kept["shuffled entries"]
    answer = 1 if abs(own - other) < 0.02 else 0 if other > own else 2
    because = (
        f"Rank {RANK} keeps {_percent(own)} of the windows and {_percent(other)} of the same entries "
        "shuffled. Trained weights have structure and noise has none; this control is therefore "
        "scaled to the norm of the extracted product."
    )
    return Scene(pictures[0], answer, because, pictures[1], instead=True)


def _subtraction(asked: Asked) -> Scene:
    found = _factors(asked)
    frame = charts_learn.injected_frame(found)
    shipped = api.controls_lesson()
    picture = Picture(
        charts_learn.injected_figure(frame, asked.look),
        frame,
        "learn-subtraction",
        f"Norm of what is injected, relative to the student's own weight · {asked.origin}",
        api.as_command(asked.recipe(), "plan"),
        _factors_python(asked),
        "Bars: relative norm of the injected product per student matrix",
    )
    step0 = shipped.step0_difference["paper"]
    because = (
        f"The injected product is {_percent(frame['injected'].median())} of a weight's norm (median), "
        "and what is left after subtracting and adding back is "
        f"{frame['left_at_step_0'].max():.0e} of its largest entry. In the run {shipped.run} "
        f"({shipped.command}) the largest difference of a logit was {step0:.1e}: rounding."
    )
    answer = 0 if step0 == 0 else 1 if step0 < 1e-3 else 2
    return Scene(picture, answer, because)


def _controls(asked: Asked) -> Scene:
    shipped = api.controls_lesson()
    report = shipped.report
    few = {name: report.arms[name] for name in ("vanilla", "paper")}
    pictures = [
        Picture(
            charts_benchmarks.arms_figure(part, asked.look),
            charts_benchmarks.arms_frame(part),
            key,
            f"{shipped.setting} · {shipped.command}, run {shipped.run}",
            shipped.command,
            'run = api.run(api.load_recipe("controls"))\nprint(api.report(run).arms)',
            "Bars: exact match per arm with its interval, a dot per seed",
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
        f"The paper's start reached {paper:.3f}, its {len(controls)} controls "
        f"{min(arm.value for arm in controls):.3f} to {max(arm.value for arm in controls):.3f}. "
        f"After Holm's correction it differs from {len(apart) or 'none'} of them. The verdict: "
        f"{report.verdict.sentence}"
    )
    return Scene(pictures[0], answer, because, pictures[1], instead=True)


def _intervals(asked: Asked) -> Scene:
    found = api.calibration_lesson()
    command, where = "nuggets calibrate", "docs/calibration.md"
    about = f"{found.n_pool} training runs of {found.arm} on {found.task}, {found.n_items} items"
    claims, power = charts_learn.claims_frame(found), charts_learn.power_frame(found)
    picture = Picture(
        charts_learn.claims_figure(claims, asked.look), claims, "learn-intervals",
        f"False claims between identical arms: {about} · {where}", command, None,
        "Bars: how often a difference was claimed between identical arms",
    )  # fmt: skip
    revealed = Picture(
        charts_learn.power_figure(power, asked.look), power, "learn-power",
        f"A planted difference found, 95 % intervals: {about} · {where}", command, None,
        "Lines: how often the verdict says helps, against the true difference",
    )  # fmt: skip
    own = power[power["difference"] == 0.2].set_index("seeds")
    rate, more = own.loc[3], own.loc[5]
    because = (
        f"With 3 seeds in {_percent(rate['rate'])} of comparisons [{_percent(rate['low'])}, "
        f"{_percent(rate['high'])}], with 5 in {_percent(more['rate'])} [{_percent(more['low'])}, "
        f"{_percent(more['high'])}]. “Not shown” is not “no effect”: ask before a run what it can show."
    )
    return Scene(picture, _nearest(rate["rate"], (1.0, 0.5, 0.0)), because, revealed)


def _transfer(asked: Asked) -> Scene:
    jobs = {
        student: AlignJob(teacher=TEACHER, student=student, device=asked.device)
        for student in (STUDENT, SIBLING)
    }
    reports = {student: api.find_alignment(job) for student, job in jobs.items()}
    if missing := [jobs[student] for student, report in reports.items() if report is None]:
        raise NotMeasured(missing)
    frame = charts_learn.explained_frame(
        {student: report.matrices["r2"] for student, report in reports.items() if report}
    )
    picture = Picture(
        charts_learn.explained_figure(frame, asked.look), frame, "learn-transfer",
        "Explained by the best teacher layer, on held-out answer tokens · both built-in pairs",
        api.as_command(jobs[SIBLING]), api.as_python(jobs[SIBLING]),
        "Bars: R² of the best linear map per student layer, independent beside sibling",
    )  # fmt: skip
    shipped = api.graft_lesson()
    cuts = charts_learn.cuts_frame(shipped)
    revealed = Picture(
        charts_learn.cuts_figure(cuts, asked.look), cuts, "learn-cuts",
        f"{shipped.setting} · {shipped.command}", shipped.command,
        'run = api.run(api.load_recipe("graft"))\nprint(api.report(run).arms)',
        "Bars: exact match by the way the student was cut",
    )  # fmt: skip
    by = {difference.versus: difference for difference in shipped.differences}
    random, permuted = by["random"], by["permuted"]
    answer = 0 if random.low > 0 else 2 if random.high < 0 else 1
    because = (
        f"By sensitivity minus at random: {_signed(random)}. By sensitivity minus permuted: "
        f"{_signed(permuted)}. Here the common basis made the difference; that sensitivity should "
        "choose it was not shown."
    )
    return Scene(picture, answer, because, revealed)


def _signed(difference: api.CutDifference) -> str:
    """A difference with its interval, with real minus signs."""
    low, high = difference.low, difference.high
    return f"{difference.value:+.3f} [{low:+.3f}, {high:+.3f}]".replace("-", "−")


_SCENES: dict[str, Callable[[Asked], Scene]] = {
    "sensitivity": _sensitivity,
    "layers": _layers,
    "windows": _windows,
    "svd": _svd,
    "subtraction": _subtraction,
    "controls": _controls,
    "intervals": _intervals,
    "transfer": _transfer,
}

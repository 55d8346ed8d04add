"""Chapters whose numbers come from maps and weights of the built-in pair."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import streamlit as st

from nuggets import api
from nuggets.recipe import DataConfig, EraseJob
from nuggets.ui.charts import erasure as erasure_charts
from nuggets.ui.charts import learn as learn_charts
from nuggets.ui.charts import residual as residual_charts
from nuggets.ui.charts import sensitivity as sensitivity_charts
from nuggets.ui.frame.share import Origin, Picture
from nuggets.ui.learn.asked import RANK, STUDENT, TEACHER, Asked, NotMeasured, Scene, percent
from nuggets.ui.sensitivity import map as maps

TOP = 0.01
"""Share of the weights of which a chapter asks how much they hold."""
ORDERS = ("theta_grad", "specific", "random")
"""By which weights are erased: the paper's score, what no other skill needs, and any."""
_FACTORS = f'''for factors in api.window_factors(plan, "{TEACHER}", "{STUDENT}"):
    print(factors)'''


def erase(asked: Asked) -> Scene:
    """What is left of the skill without its weights, then what is left of the others."""
    job = EraseJob(model=TEACHER, data=DataConfig(task=asked.task), device=asked.device)
    report = api.find_erasure(job)
    if report is None:
        raise NotMeasured([job])
    pictures = []
    for orders, only in ((ORDERS[:1], asked.task), (ORDERS, None)):
        shown = replace(report, curves={order: report.curves[order] for order in orders})
        frame = erasure_charts.curves_frame(shown)
        frame = frame if only is None else frame.query("skill == @only")
        pictures.append(
            Picture(
                erasure_charts.curves_figure(shown, frame, asked.look).update_xaxes(
                    tickvals=[1e-4, 1e-2], ticktext=["0.01%", "1%"]
                ),
                frame,
                f"learn-erase-{len(orders)}",
                "Damage when the weights that a score puts first are set to 0; 95 % intervals "
                f"over items and resampled maps · {asked.task}, {TEACHER}",
                Origin.of(job),
                "Lines: damage against the share of weights set to 0",
            )
        )
    last = [point for point in report.points(ORDERS[0]) if point.fraction == job.fractions[-1]]
    right = {point.skill: point.right for point in last}
    others = right[erasure_charts.OTHERS]
    better, worse, settings = api.lessons.chosen_by_specific()
    because = (
        f"Of the items of the other skills it gets {percent(others)} right, and of those of "
        f"{asked.task} {percent(right[asked.task])}. A share of sensitivity says on what a skill "
        "rests, and most of that is what all skills rest on. "
        "The score specific leaves out what other skills need too. Measured: "
        f"{api.erasure_words.verdict(report, ORDERS[1])} Do such weights transfer better than "
        f"those of the paper's score? Seen in {better} of {settings} registered settings; in "
        f"{worse} they did worse (nuggets paper {api.lessons.SPECIFIC})."
    )
    answer = 2 - int(np.searchsorted([0.1, 0.5], others))
    return Scene(pictures[0], answer, because, pictures[1], instead=True)


def sensitivity(asked: Asked) -> Scene:
    """How much the few most sensitive weights hold."""
    source = asked.source()
    view, values = maps.View(asked.task, None, "A"), maps.Values("share", False)
    picture = maps.map_picture({asked.task: source}, view, values, asked.look)
    held = api.views.held_by_top(source.map, TOP)
    return Scene(
        picture._replace(key="learn-sensitivity"),
        int(np.searchsorted([0.05, 0.25], held)),
        f"The top 1 % of the weights hold {percent(held)} of the sensitivity to {asked.task}. "
        "That is why it can pay to choose; whether the chosen weights can be moved is a "
        "different question.",
    )


def layers(asked: Asked) -> Scene:
    """Which layers, and how many samples it takes."""
    source, k = asked.source(), api.spec(STUDENT).n_layers
    revealed = maps.samples(source, k, asked.look)._replace(key="learn-samples")
    same = float(revealed.data["same_layers"].to_numpy()[0])
    because = (
        f"On average a single sample chooses {percent(same)} of the same layers; a random "
        f"choice would give {percent(k / source.map.spec.n_layers)}."
    )
    picture = maps.layers(source, k, asked.look)._replace(key="learn-layers")
    return Scene(picture, int(np.searchsorted([0.5, 0.9], same)), because, revealed)


def windows(asked: Asked) -> Scene:
    """The chosen window, and what its neighbours were cut to."""
    found = asked.source().map
    plans = {kind: api.plan(asked.recipe(kind)) for kind in ("window", "consistent")}
    residual = {
        kind: api.views.residual_dimensions(plan, found.spec) for kind, plan in plans.items()
    }
    own = residual["window"]
    share = float(own.agreement.mean())
    revealed = Picture(
        residual_charts.residual_figure(residual, asked.look),
        residual_charts.residual_frame(residual),
        "learn-residual",
        f"Dimensions of the residual stream that each window keeps · {asked.about}",
        Origin.of_plan(asked.recipe()),
        "Matrices down, residual dimensions across, dark where chosen: independent windows jump "
        "from matrix to matrix, the consistent choice does not",
    )
    because = (
        f"Adjacent windows share {percent(share)} of their dimensions; windows placed at random "
        f"share {percent(own.chance)}. Each matrix reads only part of what the previous one "
        "wrote, so the circuit is broken. One consistent choice for the whole network shares "
        f"{percent(residual['consistent'].agreement.mean())}."
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
    figure = sensitivity_charts.matrix_figure(
        binned,
        "mean",
        [window for window in (best, second) if window is not None],
        profiles,
        api.views.axis_name(found.spec, item.role),
        look=asked.look,
    )
    return Picture(
        figure.update_layout(height=430),
        sensitivity_charts.matrix_frame(binned, "mean"),
        "learn-window",
        f"{module}: the window is {percent(item.area)} of the matrix and holds "
        f"{percent(item.kept_mass)} of its sensitivity · {asked.about}",
        Origin.of_plan(asked.recipe()),
        "Heatmap of one matrix with the chosen window and the runner-up",
    )


def _factors(asked: Asked) -> list[api.Factors]:
    asked.source()  # says what is missing before the plan refuses
    plan = api.plan(asked.recipe())
    return _kept_factors(plan.digest, plan)


@st.cache_data(max_entries=8, show_spinner=False)
def _kept_factors(digest: str, _plan: api.ExtractionPlan) -> list[api.Factors]:
    return api.window_factors(_plan, TEACHER, STUDENT)


def svd(asked: Asked) -> Scene:
    """What each rank keeps of the windows."""
    found = _factors(asked)
    both = learn_charts.energy_frame(found)
    pictures = [
        Picture(
            learn_charts.energy_figure(frame, RANK, asked.look),
            frame,
            key,
            f"Share of the squared entries kept, by rank, mean over {len(found)} windows · "
            f"{asked.about}",
            Origin.of_plan(asked.recipe(), _FACTORS),
            "Line: share of the squared entries kept, against the rank",
        )
        for frame, key in (
            (both.query("what == 'window'"), "learn-svd"),
            (both, "learn-svd-shuffled"),
        )
    ]
    own, other = both[both["rank"] == RANK]["kept"]
    answer = 1 if abs(own - other) < 0.02 else 0 if other > own else 2
    because = (
        f"Rank {RANK} keeps {percent(own)} of the windows and {percent(other)} of the same "
        "entries shuffled. Trained weights have structure and shuffled ones have none, so this "
        "control is rescaled to the norm of the extracted product."
    )
    return Scene(pictures[0], answer, because, pictures[1], instead=True)


def subtraction(asked: Asked) -> Scene:
    """How large the injected product is, and what is left at step 0."""
    found = _factors(asked)
    frame = learn_charts.injected_frame(found)
    picture = Picture(
        learn_charts.injected_figure(frame, asked.look),
        frame,
        "learn-subtraction",
        f"Norm of the injected product, relative to the student's own weight · {asked.about}",
        Origin.of_plan(asked.recipe(), _FACTORS),
        "Bars: relative norm of the injected product per student matrix",
    )
    left = float(np.max(frame["left_at_step_0"]))
    size = float(np.median(frame["injected"]))
    because = (
        f"The median norm of the injected product is {percent(size)} of the weight's. What "
        f"remains after subtracting it and adding it back is at most {left:.0e} of the largest "
        "entry, which is rounding. Every run measures the difference between logits before its "
        "first step."
    )
    answer = 0 if left == 0 else 1 if left < 1e-3 else 2
    return Scene(picture, answer, because)

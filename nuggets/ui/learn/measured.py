"""Chapters whose numbers come from maps and weights of the built-in pair."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from nuggets import api
from nuggets.ui.charts import heatmap
from nuggets.ui.charts import learn as learn_charts
from nuggets.ui.charts import residual as residual_charts
from nuggets.ui.charts import sensitivity as sensitivity_charts
from nuggets.ui.learn.asked import RANK, STUDENT, TEACHER, Asked, Picture, Scene, percent

TOP = 0.01
"""Share of the weights of which the first chapter asks how much they hold."""


def sensitivity(asked: Asked) -> Scene:
    """How much the few most sensitive weights hold."""
    found = asked.map()
    values = api.views.module_values(found, "share")
    totals = api.views.module_values(found, "absolute").mean
    frame = heatmap.map_frame(found.spec, values, totals)
    shown = heatmap.Shown.of("share")
    picture = Picture(
        heatmap.map_figure(frame, shown, (), asked.look),
        frame,
        "learn-sensitivity",
        f"Share of the total sensitivity per matrix, {found.n_samples} seed samples · "
        f"{asked.task}, {TEACHER}",
        api.as_command(asked.job),
        api.as_python(asked.job, "print(api.views.module_values(map, 'share'))"),
        "Heatmap of layers by modules: share of the total sensitivity",
    )
    held = api.views.held_by_top(found, TOP)
    return Scene(
        picture,
        int(np.searchsorted([0.05, 0.25], held)),
        f"The top 1 % of the weights hold {percent(held)} of the sensitivity to {asked.task}. "
        "That is why it can pay to choose; whether the chosen weights can be moved is a "
        "different question.",
    )


def layers(asked: Asked) -> Scene:
    """Which layers, and how many samples it takes."""
    found, k = asked.map(), api.spec(STUDENT).n_layers
    samples, n = found.layer_samples, found.n_samples
    stability = api.views.layer_stability(samples, k)
    frame = sensitivity_charts.layers_frame(api.views.layer_values(found), stability)
    picture = Picture(
        sensitivity_charts.layers_figure(frame, asked.look),
        frame,
        "learn-layers",
        f"The {k} most sensitive of {found.spec.n_layers} layers are orange; 95 % intervals over "
        f"{n} samples · {asked.origin}",
        api.as_command(asked.job),
        api.as_python(asked.job, "print(api.views.layer_values(map))"),
        "Bars: share of each layer with its interval, and how often it is chosen when samples "
        "are resampled",
    )
    sizes = [size for size in (1, 2, 4, 8, 16, 32) if size < n] + [n]
    same = api.views.stability_by_samples(samples, k, sizes)
    points = pd.DataFrame({"samples": sizes, "same_layers": same})
    revealed = Picture(
        sensitivity_charts.samples_figure(points, asked.look),
        points,
        "learn-samples",
        f"How many of the {k} layers are also chosen from fewer samples · {asked.origin}",
        api.as_command(asked.job),
        api.as_python(
            asked.job, f"print(api.views.stability_by_samples(map.layer_samples, {k}, {sizes}))"
        ),
        "Share of the chosen layers against the number of seed samples",
    )
    chance = k / found.spec.n_layers
    because = (
        f"On average a single sample chooses {percent(same[0])} of the same layers; a random "
        f"choice would give {percent(chance)}."
    )
    return Scene(picture, int(np.searchsorted([0.5, 0.9], same[0])), because, revealed)


def windows(asked: Asked) -> Scene:
    """The chosen window, and what its neighbours were cut to."""
    found = asked.map()
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
        f"Dimensions of the residual stream that each window keeps · {asked.origin}",
        api.as_command(asked.recipe(), "plan"),
        api.as_python(asked.recipe()),
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
        f"{percent(item.kept_mass)} of its sensitivity · {asked.origin}",
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


def svd(asked: Asked) -> Scene:
    """What each rank keeps of the windows."""
    found = _factors(asked)
    kept = {}
    pictures = []
    for with_shuffled in (False, True):
        frame = learn_charts.energy_frame(found, with_shuffled)
        kept = dict(
            zip(
                frame["what"][frame["rank"] == RANK],
                frame["kept"][frame["rank"] == RANK],
                strict=True,
            )
        )
        pictures.append(
            Picture(
                learn_charts.energy_figure(frame, RANK, asked.look),
                frame,
                "learn-svd-shuffled" if with_shuffled else "learn-svd",
                f"Share of the squared entries kept, by rank, mean over {len(found)} windows · "
                f"{asked.origin}",
                api.as_command(asked.recipe(), "plan"),
                _factors_python(asked),
                "Line: share of the squared entries kept, against the rank",
            )
        )
    own, other = kept["window"], kept["shuffled entries"]
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
    shipped = api.lessons.controls()
    picture = Picture(
        learn_charts.injected_figure(frame, asked.look),
        frame,
        "learn-subtraction",
        f"Norm of the injected product, relative to the student's own weight · {asked.origin}",
        api.as_command(asked.recipe(), "plan"),
        _factors_python(asked),
        "Bars: relative norm of the injected product per student matrix",
    )
    step0 = shipped.step0_difference["paper"]
    size = float(np.median(frame["injected"]))
    because = (
        f"The median norm of the injected product is {percent(size)} of the weight's. What "
        "remains after subtracting it and adding it back is at most "
        f"{frame['left_at_step_0'].max():.0e} of the largest entry. In the run {shipped.run} "
        f"({shipped.command}) the largest difference between logits was {step0:.1e}, which is "
        "rounding."
    )
    answer = 0 if step0 == 0 else 1 if step0 < 1e-3 else 2
    return Scene(picture, answer, because)

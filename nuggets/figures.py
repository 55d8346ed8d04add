"""The app's figures as plain Plotly objects, for notebooks; they need `nuggets[app]`.

    from nuggets import api
    api.figures.sensitivity(api.measure(job)).show()

Each takes what the rest of `nuggets.api` returns. Plotly and pandas are imported when one is drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nuggets import api
from nuggets.errors import BadInput

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def sensitivity(
    map: api.SensitivityMap, mode: api.views.Mode = "share", chosen: str | None = None
) -> Figure:
    """A model at a glance: layers by matrices.

    Args:
        map: from `api.measure` or `api.find_map`.
        mode: one of `api.views.MODES`.
        chosen: name of a matrix that is outlined, such as `L3.mlp.up_proj`.
    """
    from nuggets.ui.charts import heatmap

    values = api.views.module_values(map, mode, [map])
    totals = api.views.module_values(map, "absolute").mean
    frame = heatmap.map_frame(map.spec, values, totals)
    return heatmap.map_figure(frame, heatmap.Shown.of(mode), chosen=chosen)


def matrix(map: api.SensitivityMap, module: str, window: tuple[int, int] | None = None) -> Figure:
    """One matrix in blocks, with the most sensitive window of a shape and the runner-up.

    Args:
        map: one that has this matrix entry by entry.
        module: its name in the model, such as `model.layers.3.mlp.up_proj`.
        window: rows and columns, as the student's matrix has; no window when not given.

    Raises:
        BadInput: if the map has no such matrix, or only its sums.
    """
    from nuggets.ui.charts import sensitivity as charts

    role = next((role for name, role, _ in map.spec.modules() if name == module), None)
    if role is None:
        raise BadInput(f"The map has no matrix {module!r}; `map.spec.modules()` names them.")
    entries = map.matrix(module)
    placed = api.views.chosen_windows(entries, *window) if window else ()
    down, across = (api.views.profile(sums[module]) for sums in (map.rows, map.cols))
    return charts.matrix_figure(
        api.views.bin_matrix(entries),
        "mean",
        [each for each in placed if each is not None],
        (down, across),
        api.views.axis_name(map.spec, role),
    )


def layers(map: api.SensitivityMap, k: int) -> Figure:
    """The share of each layer with its interval; the `k` most sensitive ones, and how surely."""
    from nuggets.ui.charts import sensitivity as charts

    stability = api.views.layer_stability(map.layer_samples, k)
    return charts.layers_figure(charts.layers_frame(api.views.layer_values(map), stability))


def similarity(report: api.AlignmentReport, measure: str = "cka") -> Figure:
    """Teacher layers by student layers, in one of `report.matrices`.

    Raises:
        BadInput: for a measure that the report has not.
    """
    from nuggets.ui.charts import alignment as charts

    if measure not in report.matrices:
        raise BadInput(f"There is no {measure!r}; choose one of {', '.join(report.matrices)}.")
    return charts.similarity_figure(report.matrices[measure], measure)


def plan(plan: api.ExtractionPlan) -> Figure:
    """How much more sensitivity each extracted matrix keeps than a random choice would."""
    from nuggets.ui.charts import transfer as charts

    return charts.plan_figure(charts.plan_frame(plan))


def arms(report: api.BenchmarkReport) -> Figure:
    """Every arm of a transfer with its interval and seeds."""
    from nuggets.ui.charts import benchmarks as charts

    return charts.arms_figure(report)


def curves(report: api.BenchmarkReport) -> Figure:
    """Learning curves of every arm, with bands over seeds."""
    from nuggets.ui.charts import benchmarks as charts

    return charts.curves_figure(report)


def differences(report: api.BenchmarkReport) -> Figure:
    """Paired differences of the arms that the verdict is about, on a zero line."""
    from nuggets.ui.charts import benchmarks as charts

    return charts.forest_figure(report.differences)

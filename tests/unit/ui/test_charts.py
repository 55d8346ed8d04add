"""Every figure holds the numbers it was given, and brings its own colours."""

import json
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from nuggets.documents import colours
from nuggets.erasure.orders import Part
from nuggets.erasure.report import ErasureReport
from nuggets.models.architecture import ArchSpec
from nuggets.statistics.cells import CellOutcome
from nuggets.statistics.report import BenchmarkReport, build_report
from nuggets.studies.report import Panel, StudyReport
from nuggets.studies.shipped import open_study
from nuggets.ui.benchmarks import arms as arm_tables
from nuggets.ui.benchmarks import studies as study_part
from nuggets.ui.charts import alignment as alignment_charts
from nuggets.ui.charts import base as charts
from nuggets.ui.charts import benchmarks as benchmarks_charts
from nuggets.ui.charts import cross as cross_charts
from nuggets.ui.charts import erasure as erasure_charts
from nuggets.ui.charts import heatmap as charts_map
from nuggets.ui.charts import ink as charts_ink
from nuggets.ui.charts import residual as residual_charts
from nuggets.ui.charts import sensitivity as sensitivity_charts
from nuggets.ui.charts import transfer as transfer_charts
from nuggets.ui.charts.heatmap import Shown
from nuggets.views import sensitivity as views

SPEC = ArchSpec(
    model_type="llama",
    n_layers=3,
    hidden_size=8,
    intermediate_size=12,
    n_heads=4,
    n_kv_heads=2,
    head_dim=2,
    vocab_size=20,
    tied=False,
)
TIED = SPEC.model_copy(update={"tied": True})


def some_values(spec: ArchSpec) -> views.Values:
    n = len(list(spec.modules()))
    mean = np.linspace(0.01, 0.5, n)
    return views.Values(mean, mean - 0.005, mean + 0.007)


def some_map(spec: ArchSpec = SPEC) -> pd.DataFrame:
    values = some_values(spec)
    return charts_map.map_frame(spec, values, values.mean * 40)


def some_report(**changes: object) -> BenchmarkReport:
    rng = np.random.default_rng(0)
    cells = [
        CellOutcome(
            arm=arm,
            role=role,  # type: ignore[arg-type]
            seed=seed,
            items=[f"i{n}" for n in range(40)],
            outcomes={"exact_match": (rng.random(40) < rate).astype(float).tolist()},
            old_skills={"add": (rng.random(10) < 0.7).astype(float).tolist()},
            curve=[(0, 0.0), (50, rate * rng.random()), (100, rate)],
            seconds=1.5,
            trainable_parameters=100,
            samples=64,
            steps=100,
        )
        for arm, role, rate in (
            ("vanilla", "reference", 0.05),
            ("plain", "baseline", 0.4),
            ("paper", "treatment", 0.9),
            ("permuted_rows", "content_control", 0.5),
        )
        for seed in (0, 1, 2)
    ]
    return build_report(cells, task="reverse", metric="exact_match", **changes)  # type: ignore[arg-type]


def drawn_modules(fig: go.Figure) -> dict[str, tuple[float, float]]:
    """Module → where its click target lies (the first one for embedding and head)."""
    targets = next(trace for trace in fig.data if trace.type == "scatter")
    places = zip(targets.customdata, targets.x, targets.y, strict=True)
    found: dict[str, tuple[float, float]] = {}
    for module, x, y in places:
        found.setdefault(module, (x, y))
    return found


def drawn_value(fig: go.Figure, x: float, y: float) -> float:
    """The value of the heatmap cell at a place."""
    for trace in (trace for trace in fig.data if trace.type == "heatmap"):
        edges = len(trace.x) > np.shape(trace.z)[1]
        if edges and trace.x[0] <= x <= trace.x[-1] and trace.y[0] <= y <= trace.y[-1]:
            return trace.z[0][0]
        for row, level in enumerate(() if edges else trace.y):
            for column, at in enumerate(trace.x):
                if abs(at - x) < 0.5 and abs(level - y) < 0.4:
                    return trace.z[row][column]
    raise AssertionError(f"nothing is drawn at {x}, {y}")


@pytest.mark.parametrize("spec", [SPEC, TIED])
def test_every_cell_of_the_map_shows_the_value_of_the_module_it_reports(spec: ArchSpec) -> None:
    frame = some_map(spec)
    fig = charts_map.map_figure(frame, Shown.of("share"))
    places = drawn_modules(fig)
    assert list(places) == [module for module, _, _ in spec.modules()]
    for row in frame.to_dict("records"):
        assert drawn_value(fig, *places[row["module"]]) == pytest.approx(row["value"])


def test_a_log_map_draws_logarithms_and_nothing_for_zero() -> None:
    frame = some_map()
    frame.loc[3, "value"] = 0.0
    fig = charts_map.map_figure(frame, Shown.of("absolute", log=True))
    places = drawn_modules(fig)
    for index, row in enumerate(frame.to_dict("records")):
        found = drawn_value(fig, *places[row["module"]])
        if index == 3:
            assert np.isnan(found)
        else:
            assert 10**found == pytest.approx(row["value"])


def test_signed_scales_are_centred_and_shared_with_what_is_compared() -> None:
    frame = some_map()
    shown = Shown.of("share", difference="add − sub")
    fig = charts_map.map_figure(frame, shown, compare=[np.array([-0.9, 0.1])])
    axis = fig.layout.coloraxis
    assert (axis.cmin, axis.cmax) == (-0.9, 0.9)
    assert fig.layout.coloraxis.colorbar.title.text == "add − sub, share of the total"


def test_small_ratios_stay_pale() -> None:
    frame = some_map().assign(value=0.001)
    axis = charts_map.map_figure(frame, Shown.of("distinctive")).layout.coloraxis
    assert (axis.cmin, axis.cmax) == (-0.5, 0.5)


def test_hover_tells_name_value_interval_and_raw_sum() -> None:
    fig = charts_map.map_figure(some_map(), Shown.of("share"))
    targets = next(trace for trace in fig.data if trace.type == "scatter")
    text = targets.hovertext[list(targets.customdata).index("model.layers.0.self_attn.q_proj")]
    assert "L0.self_attn.q_proj" in text
    assert "share of the total: 3.2 % [2.7 %, 3.9 %]" in text
    assert "summed sensitivity: 1.291" in text


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (Shown.of("share"), "12.3 %"),
        (Shown.of("share", difference="a − b"), "+12.3 %"),
        (Shown.of("share", log=True, difference="a − b"), "+0.12"),
        (Shown.of("distinctive"), "+0.12"),
        (Shown.of("per_parameter"), "0.12"),
    ],
)
def test_values_are_written_in_their_units(shown: Shown, text: str) -> None:
    assert shown.write(0.1234) == text
    assert shown.write(float("nan")) == "–"
    assert shown.write(-0.1234).replace("−", "") == text.replace("+", "")


def test_matrix_figure_draws_blocks_windows_and_profiles() -> None:
    matrix = np.random.default_rng(0).random((30, 20))
    binned = views.bin_matrix(matrix, 10)
    windows = [views.Placed(3, 4, 8, 5, 0.3), views.Placed(15, 9, 8, 5, 0.2)]
    profiles = (views.profile(matrix.mean(1)), views.profile(matrix.mean(0)))
    fig = sensitivity_charts.matrix_figure(
        binned, "max", windows, profiles, ("FFN neuron", "residual dimension"), log=False
    )
    heatmap = next(trace for trace in fig.data if trace.type == "heatmap")
    assert (heatmap.z == binned.max.astype(np.float32)).all()
    assert (heatmap.y == binned.rows).all()
    named = {trace.name: trace for trace in fig.data if trace.showlegend}
    chosen = named["chosen: holds 30.0 %"]
    assert (min(chosen.x), max(chosen.x)) == (4, 9)
    assert (min(chosen.y), max(chosen.y)) == (3, 11)
    assert "runner-up: holds 20.0 %" in named
    by_name = {trace.name: trace for trace in fig.data}
    assert (by_name["columns"].y == profiles[1][1]).all()
    assert (by_name["rows"].x == profiles[0][1]).all()
    frame = sensitivity_charts.matrix_frame(binned, "max")
    assert frame["max"].to_numpy().reshape(10, 10) == pytest.approx(binned.max)
    assert frame.loc[11, ["row", "col"]].tolist() == [binned.rows[1], binned.cols[1]]


def test_layers_figure_shows_share_interval_and_stability() -> None:
    values = views.Values(np.array([0.7, 0.3]), np.array([0.6, 0.2]), np.array([0.9, 0.4]))
    stability = views.LayerStability(np.array([True, False]), np.array([0.9, 0.1]))
    fig = sensitivity_charts.layers_figure(sensitivity_charts.layers_frame(values, stability))
    shares, again = fig.data
    assert list(shares.x) == [0.7, 0.3]
    assert shares.error_x.array == pytest.approx([0.2, 0.1])
    assert shares.error_x.arrayminus == pytest.approx([0.1, 0.1])
    assert list(again.x) == [0.9, 0.1]
    assert shares.marker.color[0] != shares.marker.color[1]


def test_units_and_overlap_figures_hold_their_data() -> None:
    frame = sensitivity_charts.units_frame([(2, 7, 0.4), (0, 1, 0.1)], "neuron")
    bar = sensitivity_charts.units_figure(frame).data[0]
    assert list(bar.y) == ["L2 neuron 7", "L0 neuron 1"]
    assert list(bar.x) == [0.4, 0.1]
    shares = pd.DataFrame({"task": ["a", "b"], "a": [1, 0.2], "b": [0.2, 1]})
    z = sensitivity_charts.overlap_figure(shares).data[0].z
    assert np.isnan(np.diag(z)).all()
    assert z[0, 1] == z[1, 0] == 0.2


def test_similarity_figure_draws_the_matrix_and_every_layer_map() -> None:
    matrix = np.arange(6.0).reshape(3, 2)
    maps = {"uniform": [(0, 0), (1, 2)], "by hand": [(0, 1), (1, 2)]}
    fig = alignment_charts.similarity_figure(matrix, "CKA", maps, bounds=(0, 1))
    assert (fig.data[0].z == matrix).all()
    uniform, by_hand, cells = (trace for trace in fig.data if trace.type == "scatter")
    assert np.round(uniform.x).tolist() == np.round(by_hand.x).tolist() == [0, 1]
    assert np.round(np.array(by_hand.y) - 0.32).tolist() == [1, 2]
    assert (fig.layout.coloraxis.cmin, fig.layout.coloraxis.cmax) == (0, 1)
    # Every cell can be clicked where it is, and says what stands there.
    assert len(cells.x) == 6
    for x, y, (student, teacher), words in zip(
        cells.x, cells.y, cells.customdata, cells.hovertext, strict=True
    ):
        assert (x, y) == (student, teacher)
        assert f"CKA {matrix[teacher, student]:.3f}" in words
    assert cells.hovertext[5].endswith("chosen by uniform and by hand")
    frame = alignment_charts.similarity_frame(matrix, "cka")
    assert frame.query("teacher_layer == 2 and student_layer == 1")["cka"].item() == 5
    table = alignment_charts.maps_frame(maps, matrix)
    assert table["teacher_layers"].tolist() == ["0, 2", "1, 2"]
    assert table["mean"].tolist() == [(0 + 5) / 2, (2 + 5) / 2]


def test_a_thousand_cells_and_more_can_still_be_clicked() -> None:
    fig = alignment_charts.similarity_figure(np.zeros((80, 60)), "CKA")
    assert fig.data[-1].type == "scattergl"
    assert len(fig.data[-1].x) == 4800


def test_text_in_cells_is_read_on_every_colour() -> None:
    assert charts_ink.luminance(np.array([255, 255, 255.0])) == pytest.approx(1)
    assert charts_ink.luminance(np.array([255, 0, 0.0])) == pytest.approx(0.2126)
    assert charts_ink.ink_on(colours.BLUE) == charts_ink.WHITE
    assert charts_ink.ink_on(colours.SKY) == charts_ink.BLACK
    for signed in (False, True):
        z = np.linspace(-1.0 if signed else 0.0, 1.0, 101)[None]
        axis = charts.colour_axis(z, signed, "value")
        behind = charts_ink.luminance(charts_ink.cell_colours(z, axis))
        fig = go.Figure()
        charts_ink.add_cells(fig, z, np.full(z.shape, "x"), axis)
        cells, *written = fig.data
        assert (np.asarray(cells.z) == z).all()
        for trace in written:
            ink = 0.0 if trace.textfont.color == charts_ink.BLACK else 1.0
            own = behind[np.isfinite(trace.z)]
            contrast = np.maximum(own + 0.05, ink + 0.05) / np.minimum(own + 0.05, ink + 0.05)
            assert contrast.min() >= 4.5  # WCAG AA
            assert (np.isfinite(trace.z) == (trace.text == "x")).all()
        assert sum(np.isfinite(trace.z).sum() for trace in written) == 101


def test_a_model_without_a_gate_has_no_column_for_it() -> None:
    frame = some_map()
    frame = frame[frame["role"] != "gate"]
    fig = charts_map.map_figure(frame, Shown.of("share"))
    assert list(fig.layout.xaxis.ticktext) == ["q", "k", "v", "o", "up", "down"]
    (targets,) = (trace for trace in fig.data if trace.type == "scatter")
    where = dict(zip(targets.customdata, zip(targets.x, targets.y, strict=True), strict=True))
    places = dict(zip(fig.layout.xaxis.ticktext, fig.layout.xaxis.tickvals, strict=True))
    for _, row in frame[frame["layer"].notna()].iterrows():
        assert where[row["module"]] == (places[row["role"]], row["layer"])
    assert max(targets.x) + 0.5 == fig.layout.xaxis.range[1]


def test_residual_figure_marks_what_every_selector_chose() -> None:
    chosen = np.array([[1, 0, 1, 0], [0, 1, 1, 0], [1, 1, 0, 0]], dtype=bool)
    names = ("model.layers.0.q", "model.layers.0.o", "model.layers.1.q")
    one = views.Residual(names, chosen, np.array([0.5, 0.5]), 0.4)
    found = {"rows_cols": one, "consistent": one._replace(agreement=np.array([1.0, 1.0]))}
    fig = residual_charts.residual_figure(found)
    for trace in fig.data:
        assert (trace.z == chosen).all()
        assert (trace.x0, trace.dx, tuple(trace.y)) == (0, 1, names)
    titles = [note.text for note in fig.layout.annotations]
    assert titles == [
        "<b>rows cols</b><br>50 % shared (40 % by chance)",
        "<b>consistent</b><br>100 % shared (40 % by chance)",
    ]
    assert list(fig.layout.yaxis.ticktext) == ["L0", "L1"]
    frame = residual_charts.residual_frame(found)
    assert frame["dimensions"].tolist()[:3] == ["0 2", "1 2", "0 1"]
    wide = one._replace(chosen=np.tile(chosen, 160))
    assert residual_charts.residual_figure({"window": wide}).data[0].dx == 2.5


def test_agreement_and_explained_figures_hold_their_data() -> None:
    frame = pd.DataFrame({"selector": ["window", "weights"], "agreement": [0.5, np.nan]})
    frame = frame.assign(kept=[0.3, 0.2], chance=[0.4, np.nan])
    agreement, kept, chance = alignment_charts.agreement_figure(frame).data
    assert chance.x[0] == 0.4
    assert agreement.x[0] == 0.5
    assert np.isnan(agreement.x[1])
    assert list(agreement.text) == ["50 %", ""]
    assert list(kept.x) == [0.3, 0.2]
    r2 = np.array([[0.0, 0.2], [0.05, 0.3], [0.1, 0.4], [0.0, 0.9]])
    frame = alignment_charts.explained_frame(r2)
    bar = alignment_charts.explained_figure(frame).data[0]
    assert list(bar.y) == [0.1, 0.9]
    assert list(bar.text) == ["0.10<br>from L2", "0.90<br>from L3"]


def test_arms_are_bars_with_intervals_and_every_seed_a_dot() -> None:
    report = some_report()
    fig = benchmarks_charts.arms_figure(report)
    bars = {trace.y[0]: trace for trace in fig.data if trace.type == "bar"}
    assert list(bars) == ["paper", "plain", "permuted rows", "vanilla"]  # by role
    for name, arm in report.arms.items():
        bar = bars[name.replace("_", " ")]
        assert bar.x[0] == arm.value
        assert bar.x[0] + bar.error_x.array[0] == pytest.approx(arm.interval[1])
        assert bar.x[0] - bar.error_x.arrayminus[0] == pytest.approx(arm.interval[0])
    dots = next(trace for trace in fig.data if trace.name == "one seed")
    assert sorted(dots.x) == sorted(v for arm in report.arms.values() for v in arm.per_seed)


def test_curves_have_bands_and_can_be_limited_to_some_arms() -> None:
    report = some_report()
    fig = benchmarks_charts.curves_figure(report, ["paper"])
    band, line = fig.data
    assert line.name == "paper"
    expected = report.arms["paper"].curve
    assert list(zip(line.x, line.y, strict=True)) == [(step, mean) for step, mean, _, _ in expected]
    assert list(band.y[:3]) == [high for _, _, _, high in expected]
    assert list(band.y[:2:-1]) == [low for _, _, low, _ in expected]


def test_forest_tells_better_worse_and_neither_apart() -> None:
    report = some_report()
    fig = benchmarks_charts.forest_figure(report.differences)
    drawn = {
        name: (trace.name, x)
        for trace in fig.data
        for name, x in zip(trace.y, trace.x, strict=True)
    }
    assert drawn["paper − plain"][0] == "better"
    for difference in report.differences:
        name = f"{difference.arm} − {difference.versus}".replace("_", " ")
        seen = (
            "better"
            if difference.better
            else "worse"
            if difference.worse
            else "no detectable difference"
        )
        assert drawn[name][0].startswith(seen)
        assert drawn[name][1] == difference.interval.mean


def test_a_difference_that_rounds_to_nothing_has_no_minus_in_the_forest() -> None:
    first, *_ = some_report().differences
    tiny = first.interval.model_copy(update={"mean": -1e-9, "low": -0.02, "high": 0.02})
    fig = benchmarks_charts.forest_figure([first.model_copy(update={"interval": tiny})])
    assert fig.data[0].customdata[0][0] == "+0.000 [−0.020, +0.020]"


def test_a_table_names_the_family_of_every_detectable_difference() -> None:
    report = some_report()
    older = [d.model_copy(update={"n_comparisons": None}) for d in report.differences]
    for differences in (report.differences, older):
        frame = benchmarks_charts.differences_frame(differences)
        shown = arm_tables.paired_shown(frame)["detectable difference"]
        for text, d in zip(shown, differences, strict=True):
            assert text.endswith(f" ({d.family})") == (d.n_comparisons is not None)
    assert {d.family for d in report.differences} >= {"one of 2 comparisons"}


def test_retention_shows_every_interval() -> None:
    report = some_report()
    fig = benchmarks_charts.retention_figure(report)
    heatmap = fig.data[0]
    for row, arm in enumerate(report.arms.values()):
        interval = arm.old_skills["add"]
        assert heatmap.z[row][0] == interval.mean
        expected = f"{interval.mean:.2f}<br>[{interval.low:.2f}, {interval.high:.2f}]"
        assert heatmap.text[row][0] == expected


def test_budget_lists_what_every_arm_was_given() -> None:
    frame = arm_tables.budget_frame(some_report())
    assert frame["samples"].tolist() == [64] * 4
    assert frame["trainable_parameters"].tolist() == [100] * 4
    assert frame["seeds"].tolist() == [3] * 4
    shown = arm_tables.budget_shown(frame.assign(flops=5032799704420.999))
    assert shown["operations"].tolist() == ["5.03 TFLOP"] * 4
    assert shown["parameters"].tolist() == ["100"] * 4
    assert not [name for name in shown if "_" in name]
    nothing = arm_tables.budget_shown(frame.assign(flops=0.0, learning_rate=None))
    assert set(nothing["operations"]) == set(nothing["rate"]) == {"–"}


def test_outcomes_are_right_or_wrong_for_people_and_losses_stay_numbers() -> None:
    names = ("plain", "paper")
    empty: tuple[list[dict[str, str]], list[dict[str, str]]] = ([], [])
    frame = arm_tables.items_frame(names, empty, ([1.0, 0.0], [1.0, 1.0]), ["a", "b"])
    shown = arm_tables.items_shown(frame, names)
    assert shown["plain outcome"].tolist() == ["right", "wrong"]
    assert shown["change"].tolist() == ["same", "gained"]
    losses = arm_tables.items_frame(names, empty, ([1.0, 0.5], [1.0, 0.0]), ["a", "b"], False)
    assert arm_tables.items_shown(losses, names)["plain outcome"].tolist() == [1.0, 0.5]


def test_the_cross_task_matrix_holds_every_cell_and_frames_the_own_task() -> None:
    report = some_report()
    panel = Panel(
        name="paper", x=None, run="r", task="t", teacher="a", student="b", report=report,
        alternatives=[],
    )  # fmt: skip
    other = panel.model_copy(update={"name": "sub"})
    study = StudyReport(
        study=open_study("cross"), panels=[panel, other], findings=[], missing=[], command="",
        date="", seconds=0.0,
    )  # fmt: skip
    frame = study_part.results_frame(study)
    assert len(frame) == 2 * len(report.arms)
    fig = cross_charts.cross_figure(frame, report.metric)
    starts = [arm for arm in report.arms.values() if arm.role != "reference"]
    for row in range(2):
        for column, arm in enumerate(starts):
            assert fig.data[0].z[row][column] == arm.value
            low, high = arm.interval
            assert fig.data[0].text[row][column].endswith(f"[{low:.2f}, {high:.2f}]")
    (own,) = fig.layout.shapes
    assert (own.x0, own.y0) == ([arm.name for arm in starts].index("paper") - 0.5, -0.5)
    versus = next(d for d in report.differences if (d.arm, d.versus) == ("paper", "plain"))
    cell = frame.query("arm == 'paper'").iloc[0]
    assert cell["minus_plain"] == versus.interval.mean


def some_erasure(skill: str = "gsm") -> ErasureReport:
    rng = np.random.default_rng(0)
    orders = ("theta_grad", "specific", "random", "least", f"theta_grad of {skill}")
    curves = {name: rng.uniform(1, 4, (2, 3, 2, 10)) for name in orders}
    parts = tuple(
        Part(kind="layers", name=f"L{i}", layer=i, share=share)
        for i, share in enumerate((0.5, 0.3, 0.2))
    )
    return ErasureReport(
        {skill: 4, "mmlu": 3, "ni": 3}, (1e-4, 1e-3, 1e-2), (1, 10, 100), 5.0, np.ones((2, 10)),
        curves, parts, rng.uniform(1, 4, (3, 2, 10)),
    )  # fmt: skip


def erasure_figures(look: colours.Look) -> list[go.Figure]:
    report = some_erasure()
    return [
        erasure_charts.curves_figure(report, erasure_charts.curves_frame(report), look),
        erasure_charts.parts_figure(
            erasure_charts.parts_frame(report, "layers"), "layers", report.skill, look
        ),
    ]


def test_erasure_curves_have_a_panel_per_order_with_bands_of_its_own_interval() -> None:
    report = some_erasure("<b>x</b>")
    frame = erasure_charts.curves_frame(report)
    assert len(frame) == len(report.curves) * 4 * 3  # three skills and the mean of the others
    fig = erasure_charts.curves_figure(report, frame)
    lines = [trace for trace in fig.data if trace.mode == "lines+markers"]
    assert len(lines) == 2 * len(report.curves)
    own = frame.query("order == 'specific' and skill == '<b>x</b>'")
    line = next(t for t in lines if "x" in t.name and t.xaxis == "x2")
    bands = (trace for trace in fig.data if trace.xaxis == "x2" and trace.fillcolor)
    band = next(trace for trace in bands if list(trace.y)[:3] == list(own["high"]))
    assert list(line.y) == list(own["damage"])
    assert list(band.y)[3:] == list(own["low"])[::-1]
    assert "<b>x</b>" not in "".join(str(each.text) for each in fig.layout.annotations)


def test_a_column_of_damage_stands_beside_the_map_on_a_scale_of_its_own() -> None:
    report = some_erasure()
    told = erasure_charts.layer_damage(report)
    assert told is not None
    plain = charts_map.map_figure(some_map(), Shown.of("share"))
    spec_layers = len([t for t in plain.layout.yaxis.ticktext if t.startswith("L")])
    told = [told[0]] * spec_layers
    fig = charts_map.map_figure(some_map(), Shown.of("share"), damage=told)
    column = next(t for t in fig.data if t.type == "heatmap" and t.coloraxis == "coloraxis2")
    assert [row[0] for row in column.z] == [told[0][0]] * spec_layers
    assert (fig.layout.coloraxis2.cmin, fig.layout.coloraxis2.cmax) == (0, 1)
    assert fig.layout.xaxis.ticktext == (*plain.layout.xaxis.ticktext, "damage")
    assert fig.layout.xaxis.range[1] > plain.layout.xaxis.range[1]
    assert fig.layout.coloraxis.cmax == plain.layout.coloraxis.cmax


@pytest.mark.parametrize("look", [colours.LIGHT, colours.DARK])
def test_figures_bring_their_own_paper_ink_and_grid(look: colours.Look) -> None:
    report = some_report()
    for fig in (
        *erasure_figures(look),
        charts_map.map_figure(some_map(), Shown.of("share"), look=look),
        benchmarks_charts.arms_figure(report, look),
        benchmarks_charts.forest_figure(report.differences, look),
    ):
        layout = json.loads(fig.to_json())["layout"]
        assert layout["paper_bgcolor"] == look.paper
        assert layout["font"]["color"] == look.ink
        assert layout["xaxis"]["gridcolor"] == layout["yaxis"]["gridcolor"] == look.grid


def test_names_are_shortened_told_apart_and_never_markup() -> None:
    long = [f"a_very_long_name_of_an_arm_number_{n}_of_a_run" for n in range(3)]
    labels = charts.labels([*long, "<b>bold</b>", "x_y"])
    assert len(set(labels.values())) == 5
    assert labels["<b>bold</b>"] == "&lt;b&gt;bold&lt;/b&gt;"
    assert labels["x_y"] == "x y"


def flat_arrays(fig: go.Figure) -> list[str]:
    """Where a figure's JSON has typed arrays of one dimension, which Plotly cannot compare."""
    found: list[str] = []

    def look(part: Any, path: str) -> None:
        if isinstance(part, dict) and "bdata" in part and "," not in str(part.get("shape", "")):
            found.append(path)
        for name, inner in part.items() if isinstance(part, dict) else ():
            look(inner, f"{path}.{name}")

    for place, trace in enumerate(json.loads(fig.to_json())["data"]):
        look(trace, str(place))
    return found


def test_a_finished_figure_has_nothing_that_plotly_would_draw_twice_for() -> None:
    raw = go.Figure([go.Scatter(x=np.arange(4), y=np.arange(4.0)), go.Bar(x=["a"], y=[1])])
    raw.update_xaxes(showgrid=False, title="steps")
    assert len(flat_arrays(raw)) == 2
    fig = charts.finish(raw, colours.LIGHT, 300, bargap=0.1)
    layout = json.loads(fig.to_json())["layout"]
    assert flat_arrays(fig) == []
    assert "template" not in layout
    assert layout["datarevision"] == 1
    assert layout["bargap"] == 0.1  # what is asked for stays
    axis = layout["xaxis"]
    assert axis["showline"] is False
    assert (axis["showgrid"], axis["title"]["text"], axis["title"]["standoff"]) == (
        False,
        "steps",
        8,
    )
    report = some_report()
    for each in (
        benchmarks_charts.arms_figure(report),
        benchmarks_charts.forest_figure(report.differences),
        charts_map.map_figure(some_map(), Shown.of("absolute", log=True)),
        *erasure_figures(colours.LIGHT),
    ):
        assert flat_arrays(each) == []


def test_room_grows_with_what_is_written_around_a_plot() -> None:
    def room(trace: Any, **layout: Any) -> Any:
        return charts.finish(go.Figure(trace), colours.LIGHT, 300, **layout).layout.margin

    bars = go.Bar(x=[1.0], y=["a"], orientation="h")
    long = go.Bar(x=[1.0], y=["a" * 30], orientation="h")
    assert (room(bars).l, room(long).l) == (7 + 18, 219 + 18)
    assert room(bars, yaxis_title="arm").l - room(bars).l == 30
    assert room(bars, xaxis_title="share").b - room(bars).b == 30
    assert room(bars, xaxis_side="top").b == 8
    map_ = go.Heatmap(z=[[1]], coloraxis="coloraxis")
    scale = charts.colour_axis([np.ones(1)], False, "share")
    assert room(map_, coloraxis=scale).r > 90 > room(bars).r
    assert room(map_, coloraxis=scale | {"showscale": False}).r == room(bars).r
    assert room([bars, long]).t > room(bars).t == room([bars, long], showlegend=False).t
    assert room(bars, margin={"t": 74}).t == 74


def test_a_scale_by_decades_is_labelled_with_round_numbers() -> None:
    def labels(low: float, high: float, percent: bool = False) -> list[str]:
        axis = charts.colour_axis([np.array([low, high])], False, "x", log=True, percent=percent)
        return axis["colorbar"]["ticktext"]

    assert labels(-7.67, -4.2) == ["1e−7", "1e−6", "1e−5"]
    assert labels(-9.0, 0.5) == ["1e−9", "1e−7", "1e−5", "0.001", "0.1"]
    assert labels(-3.2, -0.9, percent=True) == ["0.1 %", "1 %", "10 %"]
    assert len(labels(-0.4, 0.1)) == 3  # within a decade there are no round numbers


def test_an_arm_looks_the_same_while_it_trains_and_in_its_report() -> None:
    roles: dict[str, Any] = {"vanilla": "reference", "plain": "baseline", "paper": "treatment"}
    roles |= dict.fromkeys(("permuted", "shuffled"), "content_control")
    rows = [{"arm": arm, "seed": "0", "step": 1, "loss": 1.0} for arm in roles if arm != "vanilla"]
    fig = transfer_charts.losses_figure(transfer_charts.losses_frame(rows), roles=roles)
    styles = charts.arm_styles(roles)
    assert len(set(styles.values())) == len(styles)
    drawn = {line.name: (line.line.color, line.line.dash) for line in fig.data}
    assert drawn == {arm: styles[arm][:2] for arm in roles if arm != "vanilla"}

"""Figures for notebooks: what they are given is what they draw."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from nuggets import api
from nuggets.errors import BadInput


@pytest.fixture(scope="module")
def found():
    """The shipped map of the skill whose every entry is shipped."""
    return api.find_map(api.SensitivityJob(model="teacher", data=api.DataConfig(task="reverse")))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path))


def test_a_map_says_each_matrix_and_outlines_one():
    map = api.find_map(api.SensitivityJob(model="teacher", data=api.DataConfig(task="reverse")))
    figure = api.figures.sensitivity(map, chosen="L2.mlp.up_proj")
    told = next(trace for trace in figure.data if trace.customdata is not None)
    modules = [module for module, _, _ in map.spec.modules()]
    assert set(told.customdata) == set(modules)
    assert {shape.y0 for shape in figure.layout.shapes} == {1.5}


def test_a_matrix_is_drawn_with_the_window_asked_for(found):
    module = "model.layers.0.self_attn.o_proj"
    figure = api.figures.matrix(found, module, (64, 64))
    best = api.views.chosen_windows(found.matrix(module), 64, 64)[0]
    drawn = next(t for t in figure.data if str(t.name).startswith("chosen"))
    assert (min(drawn.x), min(drawn.y)) == (best.col, best.row)
    with pytest.raises(BadInput, match="no matrix 'nothing'"):
        api.figures.matrix(found, "nothing")


def test_layers_of_a_map_add_up(found):
    bars = api.figures.layers(found, 4).data[0]
    assert np.sum(bars.x) == pytest.approx(1)


def test_results_show_every_arm_and_difference():
    report = api.report(api.shipped_run())
    named = {name for trace in api.figures.arms(report).data for name in trace.y}
    assert len(named) == len(report.arms)
    assert len(api.figures.curves(report).data) >= len(report.arms)
    assert api.figures.differences(report).data


def test_asking_for_figures_imports_no_plotly():
    program = "import sys; from nuggets import api; api.figures.arms; "
    program += "assert not {'plotly', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)

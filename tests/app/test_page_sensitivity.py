"""The Sensitivity page: nothing measured, one task, several tasks, clicks, addresses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from nuggets import api
from nuggets.recipe import DataConfig, SensitivityJob
from nuggets.ui.charts import heatmap
from nuggets.ui.frame import shell
from nuggets.ui.sensitivity import map as map_part
from nuggets.ui.sensitivity import matrix as matrix_part
from nuggets.ui.sensitivity import sources
from tests.app.conftest import HOSTILE, rendered, shown
from tests.app.measured import make_map, write_map, write_models
from tests.app.test_page_alignment import decoded

Open = Callable[..., AppTest]


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_models(tmp_path / "pairs")
    monkeypatch.setenv("NUGGETS_ASSETS", str(tmp_path / "pairs"))
    st.cache_resource.clear()
    st.cache_data.clear()


def job(task: str, model: str = "teacher") -> SensitivityJob:
    return SensitivityJob(name=f"sensitivity-{task}", model=model, data=DataConfig(task=task))


def figures(at: AppTest) -> list[dict[str, Any]]:
    """All figures on the page, in order."""
    return [json.loads(chart.proto.spec) for chart in at.get("plotly_chart")]


def map_values(at: AppTest) -> dict[str, str]:
    """Module → hover text of the map's click targets."""
    targets = next(t for t in figures(at)[0]["data"] if "customdata" in t)
    return dict(zip(targets["customdata"], targets["hovertext"], strict=True))


def test_nothing_measured_says_what_to_click_and_starts_it(open_page: Open) -> None:
    at = open_page("sensitivity")
    assert at.subheader[0].value == "Not measured yet"
    assert not figures(at)
    at.button(key="sensitivity-offer-0").click().run()
    assert not at.exception
    started = [api.job_of(run) for run in api.runs()]
    assert started == [job("reverse")]


def test_measuring_all_skills_starts_one_run_each(
    open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    monkeypatch.setattr(api, "start", started.append)
    at = open_page("sensitivity", task="add")
    at.button(key="sensitivity-offer-1").click().run()
    assert started == [job(task) for task in api.skills()]


def test_a_failed_measurement_shows_why(open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    from nuggets.runs.schema import RunError

    run = api.create(job("reverse"))
    error = RunError(type="BadInput", message="The model is broken: 3 > 2.", exit_code=2)
    record = run.record().changed(status="failed", error=error)
    run.record_path.write_text(record.model_dump_json())
    at = open_page("sensitivity")
    assert "The model is broken: 3 > 2." in shown(at)
    assert not at.button(key="sensitivity-offer-0").disabled


def test_one_task_is_shown_as_shares(open_page: Open) -> None:
    found = write_map(job("reverse"), 0)
    at = open_page("sensitivity")
    assert at.selectbox(key="mode").value == "share"
    share = found.total("lm_head") / sum(found.total(m) for m, _, _ in found.spec.modules())
    assert f"share of the total: {100 * share:.1f} %" in map_values(at)["lm_head"]
    assert "teacher · 16 samples · map " in shown(at)
    assert at.button(key="more-offer-0").label.startswith("Measure 9 more")


def test_what_is_distinctive_is_set_against_all_builtin_tasks_and_nothing_else(
    open_page: Open,
) -> None:
    tasks = list(api.skills())
    maps = {task: write_map(job(task), seed) for seed, task in enumerate(tasks[:-1])}
    at = open_page("sensitivity", mode="distinctive")
    assert at.selectbox(key="mode").options[0] == at.selectbox(key="mode").value == "share"
    assert "distinctive" not in at.selectbox(key="mode").options
    maps[tasks[-1]] = write_map(job(tasks[-1]), 20)
    upload(at)  # one more set of samples, measured too: it changes no number of another
    data = api.own_data()["my maths"]
    own = write_map(sources.job_for(shell_choice(), "teacher", data, "my maths"), 30)
    st.cache_resource.clear()
    everything = list(maps.values())
    for task, map in (("reverse", maps["reverse"]), ("my maths", own)):
        at = open_page("sensitivity", mode="distinctive", task=task)
        fixed = everything if task == "reverse" else [*everything, own]
        expected = api.views.module_values(map, "distinctive", fixed).mean
        text = map_values(at)["model.embed_tokens"]
        assert f"{expected[0]:+.2f}".replace("-", "−") in text
        assert "Log₂ of share ÷ mean share of all built-in tasks; hover for" in shown(at)


def test_a_link_restores_the_whole_view(open_page: Open) -> None:
    a, b = write_map(job("reverse"), 0), write_map(job("add"), 1)
    at = open_page(
        "sensitivity",
        other="add",
        show="A − B",
        mode="absolute",
        scale="log",
        matrix="L2.self_attn.k_proj",
        blocks="max",
        units="heads",
    )
    module = "model.layers.2.self_attn.k_proj"
    ratio = f"{np.log2(a.total(module) / b.total(module)):+.2f}".replace("-", "−")
    assert f"reverse − add, log₂ ratio: {ratio}" in map_values(at)[module]
    assert f"{module} · rows 0–7 of 8, columns 0–15 of 16, window" in shown(at)
    matrix = next(t for t in figures(at)[1]["data"] if t["type"] == "heatmap")
    assert matrix["coloraxis"] == "coloraxis"
    assert figures(at)[1]["layout"]["coloraxis"]["colorbar"]["title"]["text"].startswith(
        "max per block"
    )
    assert "Most sensitive heads of 24" in shown(at)


def test_nonsense_in_the_address_falls_back(open_page: Open) -> None:
    write_map(job("reverse"), 0)
    at = open_page(
        "sensitivity", side="x", other="<b>", show="Z", mode="?", scale="9", matrix="L99", units="-"
    )
    assert not at.exception
    assert at.selectbox(key="matrix").value == "L0.mlp.down_proj"


def test_a_click_on_the_map_chooses_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    # What Streamlit stores on a click; a real click is made by the browser tests.
    points = [{"customdata": "model.layers.4.self_attn.o_proj"}]
    state: dict[str, Any] = {"map": {"selection": {"points": points}}, "matrix": "lm_head"}
    monkeypatch.setattr(st, "session_state", state)
    spec = api.spec("teacher")
    n = len(list(spec.modules()))
    values = api.views.Values(*(np.ones(n),) * 3)
    frame = heatmap.map_frame(spec, values, np.ones(n))
    map_part._choose("map", frame)
    assert state["matrix"] == "L4.self_attn.o_proj"
    state["map"]["selection"]["points"] = []  # a click beside the cells
    map_part._choose("map", frame)
    assert state["matrix"] == "L4.self_attn.o_proj"


def test_choosing_by_keyboard_forgets_the_click(open_page: Open) -> None:
    write_map(job("reverse"), 0)
    at = open_page("sensitivity")
    at.selectbox(key="matrix").set_value("L1.mlp.up_proj").run()
    assert "model.layers.1.mlp.up_proj · rows 0–23 of 24, columns 0–15 of 16" in shown(at)
    assert at.session_state["nuggets-map-round"] == 1  # the map has a new key: nothing selected


def test_windows_are_those_of_the_students_shape(open_page: Open) -> None:
    found = write_map(job("reverse"), 0)
    at = open_page("sensitivity", matrix="L3.mlp.down_proj")
    best, _ = api.views.chosen_windows(found.matrix("model.layers.3.mlp.down_proj"), 8, 12)
    drawn = next(t for t in figures(at)[1]["data"] if str(t.get("name")).startswith("chosen"))
    assert (min(drawn["x"]), max(drawn["x"])) == (best.col, best.col + 12)
    assert (min(drawn["y"]), max(drawn["y"])) == (best.row, best.row + 8)
    assert f"{100 * best.share:.1f} %" in drawn["name"]


def test_a_student_larger_than_the_teacher_is_one_sentence(open_page: Open) -> None:
    write_map(job("reverse", "independent"), 0)
    at = open_page("sensitivity", teacher="independent", student="teacher")
    assert not at.exception
    assert "does not fit into" in shown(at)


def test_a_missing_model_is_one_sentence(open_page: Open, tmp_path: Path) -> None:
    (tmp_path / "pairs" / "teacher" / "config.json").unlink()
    at = open_page("sensitivity")
    assert not figures(at)
    assert "The built-in model 'teacher' is not at" in shown(at)


def test_a_damaged_map_is_offered_again(open_page: Open, home: Path) -> None:
    write_map(job("reverse"), 0)
    for file in (home / "cache" / "sensitivity").rglob("map.json"):
        file.write_text("{")
    at = open_page("sensitivity")
    assert at.subheader[0].value == "Not measured yet"


def test_a_link_restores_the_part_of_the_matrix_and_bins_it_anew(open_page: Open) -> None:
    found = write_map(job("reverse"), 0)
    at = open_page("sensitivity", matrix="L1.mlp.up_proj", rows=["4", "20"], cols=["0", "8"])
    assert "rows 4–19 of 24, columns 0–7 of 16" in shown(at)
    matrix = found.matrix("model.layers.1.mlp.up_proj")
    drawn = next(t for t in figures(at)[1]["data"] if t["type"] == "heatmap")
    assert decoded(drawn["customdata"]) == matrix[4:20, 0:8].astype(float).tolist()
    at.button(key="whole").click().run()
    assert "rows 0–23 of 24, columns 0–15 of 16" in shown(at)


def test_another_matrix_is_shown_whole(open_page: Open) -> None:
    write_map(job("reverse"), 0)
    at = open_page("sensitivity", matrix="L1.mlp.up_proj", rows=["4", "20"])
    at.selectbox(key="matrix").set_value("L1.self_attn.k_proj").run()
    assert "rows 0–7 of 8, columns 0–15 of 16" in shown(at)


@pytest.mark.parametrize(
    ("selection", "rows", "cols"),
    [
        ({"box": [{"x": [90.2, 20.7], "y": [10.5, 60.1]}], "points": []}, (10, 61), (20, 91)),
        ({"box": [{"x": [-5, 3], "y": [98, 120]}], "points": []}, (92, 100), (0, 8)),
    ],
)
def test_a_box_looks_closer(
    monkeypatch: pytest.MonkeyPatch, selection: Any, rows: Any, cols: Any
) -> None:
    # What Streamlit stores; real boxes are drawn by the browser tests.
    state: dict[str, Any] = {"m": {"selection": selection}}
    monkeypatch.setattr(st, "session_state", state)
    matrix_part._zoom("m", (100, 100))
    assert (state["rows"], state["cols"]) == (rows, cols)
    assert state[matrix_part.MATRIX_ROUND] == 1  # a new figure, with nothing selected


def test_difference_of_matrices_is_one_of_shares(open_page: Open) -> None:
    a, b = write_map(job("reverse"), 0), write_map(job("add"), 1)
    module = "model.layers.2.self_attn.k_proj"
    at = open_page("sensitivity", other="add", show="A − B", matrix="L2.self_attn.k_proj")
    drawn = next(t for t in figures(at)[1]["data"] if t["type"] == "heatmap")
    expected = a.matrix(module) / a.total(module) - b.matrix(module) / b.total(module)
    assert np.asarray(decoded(drawn["z"])) == pytest.approx(expected, abs=1e-7)
    axis = figures(at)[1]["layout"]["coloraxis"]
    assert axis["cmin"] == -axis["cmax"]


def test_units_of_both_tasks_are_marked(open_page: Open) -> None:
    maps = {task: write_map(job(task), seed) for seed, task in enumerate(("reverse", "add"))}
    at = open_page("sensitivity", other="add", units="heads")
    tops = [
        {unit[:2] for unit in api.views.top_units(api.views.unit_scores(m, "heads"), 12)}
        for m in maps.values()
    ]
    colours = figures(at)[2]["data"][0]["marker"]["color"]
    assert colours.count("#E69F00") == len(tops[0] & tops[1])


def upload(at: AppTest, name: str = "my maths.jsonl") -> None:
    rows = [{"id": str(n), "prompt": f"q {n}", "completion": "a"} for n in range(50)]
    content = "\n".join(json.dumps(row) for row in rows).encode()
    at.file_uploader("data-file").set_value((name, content, "application/json")).run()
    at.button("use-data").click().run()
    assert not at.exception


def test_own_samples_are_measured_shown_and_restored_by_a_link(open_page: Open) -> None:
    at = open_page("sensitivity")
    upload(at)
    assert at.selectbox(key="task").value == "my maths"
    assert at.subheader[0].value == "Not measured yet"
    at.button(key="sensitivity-offer-0").click().run()
    (started,) = [api.job_of(run) for run in api.runs()]
    assert started.data == api.own_data()["my maths"]
    write_map(started, 3)
    write_map(job("add"), 1)
    st.cache_resource.clear()
    again = open_page("sensitivity", task="my maths", other="add")
    assert again.selectbox(key="mode").value == "share"
    assert "my maths, teacher · 16 samples" in shown(again)


def test_a_hostile_name_of_own_samples_is_text(open_page: Open) -> None:
    at = open_page("sensitivity")
    upload(at, f"{HOSTILE[:38]}.jsonl")
    name = next(iter(api.own_data()))
    write_map(job("add"), 1)
    write_map(sources.job_for(shell_choice(), "teacher", api.own_data()[name], name), 0)
    st.cache_resource.clear()
    at = open_page("sensitivity", task=name)
    assert name in shown(at)
    assert "<img" in name
    assert "<img" not in rendered(at)
    assert "<img" not in json.dumps([f["layout"] for f in figures(at)])


def shell_choice() -> shell.Choice:
    return shell.Choice("teacher", "independent", "reverse", "auto", None)


def test_a_past_runs_map_can_be_shown_without_its_full_map(open_page: Open) -> None:
    run = api.create(job("reverse"))
    found = dataclasses.replace(make_map(api.spec("teacher"), 5, 16, {"label": "reverse"}), full={})
    folder = run.folder / "artifacts" / "map"
    folder.mkdir(parents=True)
    found.save(folder)
    at = open_page("sensitivity", map_run=run.id)
    assert f"reverse (run), teacher · 16 samples · map unnamed · run {run.id}" in shown(at)
    assert "column sums were kept" in shown(at)
    share = found.total("lm_head") / sum(found.total(m) for m, _, _ in found.spec.modules())
    assert f"share of the total: {100 * share:.1f} %" in map_values(at)["lm_head"]


def test_an_atlas_opens_without_its_model(open_page: Open, tmp_path: Path) -> None:
    assert '"atlas"' not in str(open_page("sensitivity").get("button_group")[0].proto)
    for number, label in enumerate(("gsm8k", "<img src=x>")):
        (folder := tmp_path / str(number)).mkdir()
        make_map(api.spec("teacher"), number, 5, {"label": label, "model": "Big-7B"}).save(folder)
        api.atlases.add(folder, "big", about="Measured elsewhere.", licence="MIT")
    at = open_page("sensitivity", side="atlas", atlas_skill="gsm8k", other="<img src=x>")
    assert not at.exception
    assert "gsm8k, Big-7B · 5 samples" in shown(at)
    assert "column sums were kept" in shown(at)
    assert "This atlas does not say what erasing shows of gsm8k." in shown(at)
    assert "Big-7B. Measured elsewhere." in shown(at)
    assert "<img" not in rendered(at)
    assert not list(api.runs()), "nothing was measured"


def test_a_caption_names_a_model_and_not_where_it_lies() -> None:
    found = make_map(api.spec("teacher"), 0, 4, {})
    for model, name in (("/home/me/private/tiny.gguf", "tiny.gguf"), ("org/tiny@main",) * 2):
        found.meta["model"] = model
        about = sources.Source("add", job("add"), found).about
        assert about.startswith(f"{name} · ")

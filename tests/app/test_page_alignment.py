"""The Alignment page: nothing measured, every measure, layer maps and clicks, selectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from nuggets import api
from nuggets.extraction.selectors import MatrixSelector
from nuggets.frozen import members
from nuggets.recipe import AlignJob, DataConfig, SensitivityJob, TransferRecipe
from nuggets.ui.alignment import layer_map
from tests.app.conftest import HOSTILE, rendered, shown
from tests.app.measured import write_alignment, write_map, write_models

Open = Callable[..., AppTest]
JOB = AlignJob(teacher="teacher", student="independent")
SENSITIVITY = SensitivityJob(model="teacher", data=DataConfig(task="reverse"))


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_models(tmp_path / "pairs")
    monkeypatch.setenv("NUGGETS_ASSETS", str(tmp_path / "pairs"))
    st.cache_resource.clear()
    st.cache_data.clear()


def figures(at: AppTest) -> list[dict[str, Any]]:
    """All figures on the page, in order."""
    return [json.loads(chart.proto.spec) for chart in at.get("plotly_chart")]


def decoded(values: Any) -> list[Any]:
    """Plotly's JSON writes arrays as base64 with their dtype and shape."""
    import base64

    import numpy as np

    if isinstance(values, dict):
        array = np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"])
        if "shape" in values:
            array = array.reshape([int(n) for n in values["shape"].split(",")])
        return array.tolist()
    return values


def test_nothing_measured_says_what_to_click_and_starts_it(
    open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    monkeypatch.setattr(api, "start", started.append)
    at = open_page("alignment")
    assert at.subheader[0].value == "Not measured yet"
    at.button(key="alignment-offer-0").click().run()
    assert started == [JOB]


def test_the_matrix_is_the_one_measured(open_page: Open) -> None:
    report = write_alignment(JOB)
    at = open_page("alignment")
    assert decoded(figures(at)[0]["data"][0]["z"]) == report.matrices["cka"].tolist()
    assert "unrelated layers give 0.11" in shown(at)
    assert "teacher → independent" in shown(at)


def test_stitching_is_shown_for_the_chosen_skill_beside_both_models(open_page: Open) -> None:
    report = write_alignment(JOB)
    at = open_page("alignment")
    at.selectbox(key="measure").set_value("stitching").run()
    at.selectbox(key="skill").set_value("sort").run()
    assert decoded(figures(at)[0]["data"][0]["z"]) == report.stitching["sort"].tolist()
    assert "teacher alone 1.00, student alone 0.50" in shown(at)


def test_a_link_restores_measure_and_skill(open_page: Open) -> None:
    report = write_alignment(JOB)
    at = open_page("alignment", measure="stitching accuracy", skill="king", maps="false")
    assert decoded(figures(at)[0]["data"][0]["z"]) == report.stitching["king"].tolist()
    assert not overlaid(at)


def test_similarity_can_be_that_of_one_skill(open_page: Open) -> None:
    report = write_alignment(JOB)
    at = open_page("alignment", of_skill="copy")
    assert decoded(figures(at)[0]["data"][0]["z"]) == report.matrices["cka.copy"].tolist()
    assert "answer tokens of this skill" in shown(at)


def overlaid(at: AppTest) -> dict[str, list[int]]:
    """Layer maps drawn over the matrix: their teacher layers."""
    traces = [t for t in figures(at)[0]["data"] if t.get("name")]
    return {t["name"]: [round(y - 0.32) for y in decoded(t["y"])] for t in traces}


def test_layer_maps_are_drawn_over_the_matrix(open_page: Open) -> None:
    report = write_alignment(JOB)
    measured = write_map(SENSITIVITY, 0)
    at = open_page("alignment")
    expected = api.views.layer_maps(6, 4, measured.layer_scores, report.matrices["cka"])
    assert overlaid(at) == {name: [t for _, t in pairs] for name, pairs in expected.items()}
    assert list(expected) == ["sensitivity", "uniform", "cka"]
    table = at.dataframe[0].value.set_index("layer_map")
    cka = report.matrices["cka"]
    for name, pairs in expected.items():
        mean = sum(cka[t, s] for s, t in pairs) / len(pairs)
        assert table.loc[name, "mean"] == pytest.approx(mean)
    at.toggle(key="maps").set_value(False).run()
    assert overlaid(at) == {}


def click(at: AppTest, student: int, teacher: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a click on a cell of the matrix calls; real ones are in tests/browser."""
    selection = {"points": [{"customdata": [student, teacher]}]}
    state = {"matrix": {"selection": selection}, "layer_map": at.text_input(key="layer_map").value}
    with monkeypatch.context() as patch:
        patch.setattr(st, "session_state", state)
        layer_map.clicked("matrix", (6, 4), (0, 1, 2, 3))
    at.text_input(key="layer_map").set_value(state["layer_map"]).run()


def test_a_click_sets_the_teacher_layer_of_its_column(
    open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_alignment(JOB)
    at = open_page("alignment")
    click(at, 3, 5, monkeypatch)
    assert overlaid(at)["by hand"] == [0, 1, 2, 5]  # the others as the first selector's
    click(at, 1, 4, monkeypatch)
    assert overlaid(at)["by hand"] == [0, 4, 2, 5]
    assert at.text_input(key="layer_map").value == "0, 4, 2, 5"
    assert "student layer 2 gets teacher layer 2, student layer 1 the later 4" in shown(at)
    at.button(key="clear-layer-map").click().run()
    assert "by hand" not in overlaid(at)


def test_a_link_restores_the_map_by_hand_and_keys_write_it(open_page: Open) -> None:
    write_alignment(JOB)
    at = open_page("alignment", layer_map="0, 2, 3, 5")
    assert overlaid(at)["by hand"] == [0, 2, 3, 5]
    at.text_input(key="layer_map").set_value("1,1,1,1").run()
    assert overlaid(at)["by hand"] == [1, 1, 1, 1]
    assert "Used more than once: L1." in shown(at)
    at.button(key="start-uniform").click().run()
    assert overlaid(at)["by hand"] == overlaid(at)["uniform"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("0, 1, 2", "give 4 teacher layers, one for each student layer, each from 0 to 5"),
        ("0, 1, 2, 6", "[0, 1, 2, 6] is not valid: give 4 teacher layers"),
        ("0, 1, two, 3", "is not a list of layers"),
        ("-1, 1, 2, 3", "is not a list of layers"),
        (HOSTILE, "is not a list of layers"),
    ],
)
def test_an_impossible_map_is_refused_in_a_sentence(
    open_page: Open, monkeypatch: pytest.MonkeyPatch, text: str, sentence: str
) -> None:
    write_alignment(JOB)
    at = open_page("alignment", layer_map=text)
    assert sentence in shown(at)
    assert "by hand" not in overlaid(at)
    assert at.button(key="use-layer-map").disabled
    assert "<img" not in rendered(at)
    click(at, 0, 4, monkeypatch)  # begins anew
    assert overlaid(at)["by hand"] == [4, 1, 2, 3]


def test_the_map_by_hand_becomes_the_layers_of_a_transfer(open_page: Open) -> None:
    report = write_alignment(JOB)
    write_map(SENSITIVITY, 0)
    at = open_page("alignment", layer_map="0, 2, 3, 5")
    assert report.matrices["cka"].shape == (6, 4)
    at.button(key="use-layer-map").click().run()
    assert at.title[0].value == "Plan a transfer"
    assert at.selectbox(key="layers").value == "by_hand"
    scripts = [code.value for code in at.code if "job: transfer" in code.value]
    recipe = api.load_job(scripts[0])
    assert recipe.extraction.layers.model_dump() == {"kind": "by_hand", "layers": (0, 2, 3, 5)}


def test_every_selector_shows_agreement_chance_and_kept_sensitivity(open_page: Open) -> None:
    write_alignment(JOB)
    write_map(SENSITIVITY, 0)
    at = open_page("alignment")
    bars, chance = figures(at)[3]["data"][:2], figures(at)[3]["data"][2]
    kinds = list(members(MatrixSelector))
    assert bars[0]["y"] == [kind.replace("_", " ") for kind in kinds]
    assert decoded(bars[0]["x"])[kinds.index("consistent")] == pytest.approx(1)
    recipe = TransferRecipe.model_validate({"data": {"task": "reverse"}, "lora": {"r": 1}})
    plan = api.plan(recipe)
    assert decoded(bars[0]["x"])[0] == pytest.approx(plan.residual_agreement)
    mean = sum(item.kept_mass for item in plan.items) / len(plan.items)
    assert decoded(bars[1]["x"])[0] == pytest.approx(mean)
    residual = api.views.residual_dimensions(plan, api.spec("teacher"))
    assert decoded(chance["x"])[0] == pytest.approx(residual.chance)


def test_the_picture_shows_the_dimensions_of_the_map_by_hand(open_page: Open) -> None:
    write_alignment(JOB)
    write_map(SENSITIVITY, 0)
    at = open_page("alignment", layer_map="2, 3, 4, 5")
    panels = [t for t in figures(at)[2]["data"] if t["type"] == "heatmap"]
    assert len(panels) == len(members(MatrixSelector)) - 1  # single weights have no dimensions
    layers = {"kind": "by_hand", "layers": (2, 3, 4, 5)}
    changed = {"data": {"task": "reverse"}, "lora": {"r": 1}, "extraction": {"layers": layers}}
    plan = api.plan(TransferRecipe.model_validate(changed))
    residual = api.views.residual_dimensions(plan, api.spec("teacher"))
    assert decoded(panels[0]["z"]) == residual.chosen.tolist()
    assert "layers by hand 2, 3, 4, 5" in shown(at)


def test_scripts_end_in_what_is_plotted(
    open_page: Open, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = write_alignment(JOB)
    write_map(SENSITIVITY, 0)
    at = open_page("alignment", of_skill="copy", layer_map="0, 1, 2, 3")
    scripts = [code.value for code in at.code if code.value.startswith("from nuggets")]
    monkeypatch.setattr(api, "align", lambda job: report if job == JOB else None)
    monkeypatch.setattr(api, "measured_plan", api.plan)
    said = []
    for script in scripts:
        exec(script, {})
        said.append(capsys.readouterr().out)
    assert said[0] == f"{report.matrices['cka.copy']}\n"
    assert said[2] == f"{report.matrices['r2'].max(axis=0)}\n"
    extraction = {"layers": {"kind": "by_hand", "layers": (0, 1, 2, 3)}}
    tree = {"data": {"task": "reverse"}, "lora": {"r": 1}, "extraction": extraction}
    plan = api.plan(TransferRecipe.model_validate(tree))
    assert f"window {plan.residual_agreement}" in said[4]
    residual = api.views.residual_dimensions(plan, api.spec("teacher"))
    assert f"{residual.agreement.mean()} {residual.chance}" in said[3]


def probed(mean: float) -> dict[str, float | int]:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "level": 0.95,
            "n_seeds": 1, "n_items": 32}  # fmt: skip


def test_what_a_probe_reads_off_words_is_drawn_per_block_with_chance(open_page: Open) -> None:
    models = {"teacher": [probed(v) for v in (0.5, 0.6, 0.7)], "student": [probed(0.1)] * 2}
    own = {"models": models, "chance": 0.05, "n_fit": 64, "n_test": 32}
    write_alignment(JOB, words={"king": own, "river": own | {"chance": 0.2}})
    at = open_page("alignment", task="river")
    assert "What can be read off single words?" in [part.value for part in at.subheader]
    assert at.selectbox(key="relation").value == "river"
    drawn = next(f for f in figures(at) if "probe" in f["layout"]["yaxis"]["title"]["text"])
    lines = {t["name"]: decoded(t["y"]) for t in drawn["data"] if t.get("name")}
    assert lines == {"teacher": [0.5, 0.6, 0.7], "student": [0.1, 0.1]}
    assert drawn["layout"]["shapes"][0]["y0"] == 0.2
    assert "Accuracy on 32 words, fitted on 64 others" in shown(at)


def test_alignments_of_earlier_versions_have_no_probe(open_page: Open) -> None:
    write_alignment(JOB)
    at = open_page("alignment")
    assert "What can be read off single words?" not in [part.value for part in at.subheader]


def test_without_a_map_the_selectors_offer_to_measure_it(
    open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    monkeypatch.setattr(api, "start", started.append)
    write_alignment(JOB)
    at = open_page("alignment")
    assert len(figures(at)) == 2
    at.button(key="selectors-offer-0").click().run()
    (job,) = started
    assert (job.model, job.data.task) == ("teacher", "reverse")


def test_nonsense_in_the_address_falls_back(open_page: Open) -> None:
    report = write_alignment(JOB)
    at = open_page("alignment", measure="<script>", skill="nothing", maps="maybe")
    assert decoded(figures(at)[0]["data"][0]["z"]) == report.matrices["cka"].tolist()


def test_a_damaged_alignment_is_offered_again(open_page: Open, home: Path) -> None:
    write_alignment(JOB)
    next((home / "cache" / "alignment").rglob("alignment.json")).write_text("[]")
    at = open_page("alignment")
    assert at.subheader[0].value == "Not measured yet"


def test_own_samples_of_the_sidebar_are_what_is_aligned(
    open_page: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(
        "\n".join(json.dumps({"prompt": f"q {n}", "completion": "a"}) for n in range(9))
    )
    own = DataConfig(file=str(path))
    api.remember(own, "mine")
    started: list[Any] = []
    monkeypatch.setattr(api, "start", started.append)
    open_page("alignment", task="mine").button(key="alignment-offer-0").click().run()
    assert started == [JOB.model_copy(update={"data": own})]

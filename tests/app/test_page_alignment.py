"""The Alignment page: nothing measured, every measure, layer maps, selectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from nuggets import api
from nuggets.recipe import AlignJob, DataConfig, SensitivityJob, TransferRecipe
from tests.app.conftest import shown
from tests.app.measured import write_alignment, write_map, write_models

Open = Callable[..., AppTest]
JOB = AlignJob(teacher="teacher", student="independent")


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
    (drawn,) = figures(at)[0]["data"]
    assert decoded(drawn["z"]) == report.stitching["king"].tolist()


def test_similarity_can_be_that_of_one_skill(open_page: Open) -> None:
    report = write_alignment(JOB)
    at = open_page("alignment", of_skill="copy")
    assert decoded(figures(at)[0]["data"][0]["z"]) == report.matrices["cka.copy"].tolist()
    assert "answer tokens of this skill" in shown(at)


def test_layer_maps_are_drawn_over_the_matrix(open_page: Open) -> None:
    report = write_alignment(JOB)
    measured = write_map(SensitivityJob(model="teacher", data=DataConfig(task="reverse")), 0)
    at = open_page("alignment")
    drawn = {t["name"]: t for t in figures(at)[0]["data"][1:]}
    expected = api.views.layer_maps(6, 4, measured.layer_scores, report.matrices["cka"])
    assert list(drawn) == list(expected)
    for name, pairs in expected.items():
        assert [round(y - 0.32) for y in decoded(drawn[name]["y"])] == [t for _, t in pairs]
    at.toggle(key="maps").set_value(False).run()
    assert len(figures(at)[0]["data"]) == 1


def test_every_selector_shows_agreement_and_kept_sensitivity(open_page: Open) -> None:
    write_alignment(JOB)
    write_map(SensitivityJob(model="teacher", data=DataConfig(task="reverse")), 0)
    at = open_page("alignment")
    agreement, kept = figures(at)[2]["data"]
    assert agreement["y"] == ["window", "rows cols", "weights", "random window", "consistent"]
    assert decoded(agreement["x"])[-1] == pytest.approx(1)
    recipe = TransferRecipe.model_validate({"data": {"task": "reverse"}, "lora": {"r": 1}})
    plan = api.plan(recipe)
    assert decoded(agreement["x"])[0] == pytest.approx(plan.residual_agreement)
    mean = sum(item.kept_mass for item in plan.items) / len(plan.items)
    assert decoded(kept["x"])[0] == pytest.approx(mean)


def test_without_a_map_the_selectors_are_one_sentence(open_page: Open) -> None:
    write_alignment(JOB)
    at = open_page("alignment")
    assert len(figures(at)) == 2
    assert shown(at).count("was not measured for these samples yet") == 1


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

"""The section `Is it true?` of the Sensitivity page: not tested yet, tested, links, own samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from nuggets import api
from nuggets.recipe import DataConfig, EraseJob
from nuggets.sensitivity.config import SensitivityConfig
from nuggets.ui.sensitivity import sources, truth
from tests.app.conftest import shown
from tests.app.measured import make_map, write_erasure, write_map, write_models
from tests.app.test_page_alignment import decoded
from tests.app.test_page_sensitivity import figures, job, shell_choice, upload

Open = Callable[..., AppTest]


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    write_models(tmp_path / "pairs")
    monkeypatch.setenv("NUGGETS_ASSETS", str(tmp_path / "pairs"))
    st.cache_resource.clear()
    st.cache_data.clear()
    write_map(job("reverse"), 0)


def erasing(**fields: Any) -> EraseJob:
    data = DataConfig(task="reverse")
    return EraseJob(name="erase-reverse", model="teacher", data=data, **fields)


def column(glance: dict[str, Any]) -> list[float]:
    """The damage beside the map; empty where there is none."""
    cells = [trace for trace in glance["data"] if trace.get("coloraxis") == "coloraxis2"]
    return [row[0] for row in decoded(cells[0]["z"])] if cells else []


def test_a_map_that_was_not_tested_says_what_to_click_and_starts_it(open_page: Open) -> None:
    at = open_page("sensitivity")
    assert "Is it true?" in [part.value for part in at.subheader]
    assert not column(figures(at)[0])
    at.button(key="truth-offer-0").click().run()
    assert not at.exception
    assert [api.job_of(run) for run in api.runs()] == [erasing()]


def test_a_tested_map_shows_verdicts_curves_parts_and_a_column_beside_it(open_page: Open) -> None:
    report = write_erasure(erasing())
    at = open_page("sensitivity")
    text, words = shown(at), api.erasure_words
    for order in ("theta_grad", "specific", "contrast"):
        assert words.verdict(report, order) in text
    assert words.disagreement(report, "layers") in text
    glance, _, curves, parts = figures(at)[:4]
    damage = [each.own.mean for each in report.part_damage("layers")]
    assert column(glance) == pytest.approx(damage)
    assert glance["layout"]["xaxis"]["ticktext"][-1] == "damage"
    drawn = [t for t in curves["data"] if t.get("mode") == "lines+markers"]
    assert len(drawn) == 2 * len(report.curves)
    points = [p for p in report.points("theta_grad") if p.skill == "reverse"]
    own = next(t for t in drawn if t["name"] == "reverse")
    assert own["y"] == pytest.approx([p.damage.mean for p in points])
    assert own["x"] == list(report.fractions)
    found = next(t for t in parts["data"] if t["name"] == "reverse")
    assert found["y"] == pytest.approx(damage)
    assert "nuggets erase teacher --task reverse --n 32 --out erasure" in text


def test_a_link_names_other_skills_and_which_parts_are_shown(open_page: Open) -> None:
    write_erasure(erasing(), 1)
    report = write_erasure(erasing(against=("king", "sub")), 2)
    at = open_page("sensitivity", against=["king", "sub"], parts="matrices")
    assert "reverse against king, sub · 32 items per skill" in shown(at)
    assert api.erasure_words.disagreement(report, "matrices") in shown(at)
    assert at.multiselect(key="against").value == ["king", "sub"]
    assert column(figures(at)[0]) == [e.own.mean for e in report.part_damage("layers")]


def test_a_link_says_what_erased_weights_contribute(open_page: Open) -> None:
    write_erasure(erasing(against=("king",)), 1)
    report = write_erasure(erasing(against=("king",), ablation="mean"), 2)
    at = open_page("sensitivity", against=["king"], erased="mean")
    assert api.erasure_words.verdict(report, "specific") in shown(at)
    assert column(figures(at)[0]) == [e.own.mean for e in report.part_damage("layers")]
    assert "--ablation mean" in shown(at)


def test_nonsense_in_the_address_names_no_skill(open_page: Open) -> None:
    write_erasure(erasing())
    at = open_page("sensitivity", against=["reverse", "<b>"], parts="?")
    assert not at.exception
    assert "reverse against add, sort, capital, story" in shown(at)


def test_a_difference_of_two_maps_has_no_damage_column(open_page: Open) -> None:
    write_map(job("add"), 1)
    write_erasure(erasing())
    assert column(figures(open_page("sensitivity", other="add", show="A"))[0])
    assert not column(figures(open_page("sensitivity", other="add", show="A − B"))[0])


def test_own_samples_wait_for_a_choice_of_other_skills(open_page: Open) -> None:
    upload(open_page("sensitivity"))
    data = api.own_data()["my maths"]
    write_map(sources.job_for(shell_choice(), "teacher", data, "my maths"), 3)
    st.cache_resource.clear()
    at = open_page("sensitivity", task="my maths")
    assert "Choose other skills to set these samples against." in shown(at)
    at.multiselect(key="against").set_value(["king"]).run()
    at.button(key="truth-offer-0").click().run()
    (asked,) = [each for run in api.runs() if (each := api.job_of(run)).job == "erase"]
    assert asked.data == data
    assert asked.against == ("king",)


def test_an_erasure_that_cannot_be_read_is_offered_again(open_page: Open, home: Path) -> None:
    write_erasure(erasing())
    for file in (home / "cache" / "erasure").rglob("erasure.json"):
        file.write_text("{")
    assert open_page("sensitivity").button(key="truth-offer-0").label == "Test the map"


def test_a_map_in_bfloat16_is_tested_in_bfloat16() -> None:
    asked = job("reverse").model_copy(update={"sensitivity": SensitivityConfig(dtype="bfloat16")})
    source = sources.Source("reverse", asked, make_map(api.spec("teacher"), 0, 4, {}))
    assert truth.job_for(source).dtype == "bfloat16"

"""The Learn page: every chapter, guesses, links, print; and the tour on Home."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from nuggets import api
from nuggets.builtin.pairs import measured_root
from nuggets.documents import colours
from nuggets.recipe import AlignJob, DataConfig, EraseJob, SensitivityJob
from nuggets.ui.learn import print as learn_print
from nuggets.ui.learn.asked import Asked
from nuggets.ui.learn.chapters import CHAPTERS, GLOSSARY
from nuggets.ui.learn.scenes import scene
from tests.app.conftest import shown
from tests.app.measured import write_alignment, write_erasure, write_map, write_models

Open = Callable[..., AppTest]
# Ranks up to 16, as in the chapters, fit these; the independent student is half as wide.
SIZES = {"teacher": (6, 64, 48, 4), "independent": (4, 32, 24, 2), "sibling": (4, 32, 24, 2)}
JOB = SensitivityJob(model="teacher", data=DataConfig(task="reverse"))
ERASING = EraseJob(model="teacher", data=DataConfig(task="reverse"))
TITLES = {found.key: f"{number} {found.title}" for number, found in enumerate(CHAPTERS, 1)}
ASKED = Asked("reverse", "auto", colours.LIGHT)


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_models(tmp_path / "pairs", SIZES)
    (tmp_path / "measured").mkdir()
    for run in measured_root().glob("*.zip"):
        (tmp_path / "measured" / run.name).symlink_to(run)
    monkeypatch.setenv("NUGGETS_ASSETS", str(tmp_path / "pairs"))
    st.cache_resource.clear()
    st.cache_data.clear()


@pytest.fixture
def measured() -> api.SensitivityMap:
    for student in ("independent", "sibling"):
        write_alignment(AlignJob(teacher="teacher", student=student))
    write_erasure(ERASING)
    return write_map(JOB, 0)


def figures(at: AppTest) -> list[dict[str, Any]]:
    return [json.loads(chart.proto.spec) for chart in at.get("plotly_chart")]


def test_nothing_measured_says_what_to_click_and_starts_it(
    open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    monkeypatch.setattr(api, "start", started.append)
    at = open_page("learn")
    assert at.subheader[0].value == "Not measured yet"
    at.button(key="learn-offer-0").click().run()
    assert started == [ERASING]


@pytest.mark.parametrize("key", list(TITLES))
def test_a_link_opens_a_chapter_and_its_answer(
    open_page: Open, measured: api.SensitivityMap, key: str
) -> None:
    at = open_page("learn", chapter=TITLES[key], **{f"reveal-{key}": "true"})
    assert at.title[0].value == f"Learn · {TITLES[key]}"
    assert len(at.latex) == 1
    found = scene(key, ASKED)
    assert found.because in shown(at)
    both = found.revealed is not None and not found.instead
    assert len(figures(at)) == 1 + both


def test_a_guess_is_judged_only_when_revealed(
    open_page: Open, measured: api.SensitivityMap
) -> None:
    found, options = scene("erase", ASKED), CHAPTERS[0].options
    at = open_page("learn")
    at.radio(key="guess-erase").set_value(options[found.answer]).run()
    assert found.because not in shown(at)
    at.toggle(key="reveal-erase").set_value(True).run()
    assert ":green-badge[Your guess was right]" in [part.value for part in at.markdown]
    at.radio(key="guess-erase").set_value(options[found.answer - 1]).run()
    assert ":orange-badge[Your guess was wrong]" in [part.value for part in at.markdown]


def test_next_and_back_walk_the_chapters(open_page: Open, measured: api.SensitivityMap) -> None:
    at = open_page("learn")
    at.button(key="chapter-Next").click().run()
    assert at.title[0].value == "Learn · 2 Sensitivity"
    at.button(key="chapter-Back").click().run()
    assert at.button(key="chapter-Back").disabled


def test_an_unknown_chapter_is_the_first(open_page: Open) -> None:
    assert open_page("learn", chapter="<b>9</b>").title[0].value == "Learn · 1 Erase the nugget"


def test_print_holds_every_chapter_and_needs_no_network(measured: api.SensitivityMap) -> None:
    page = learn_print.document(ASKED)
    assert "<i>and of others</i>" in page
    assert all(f"<h2>{title.replace(' ', '. ', 1)}</h2>" in page for title in TITLES.values())
    assert all(f"<dt>{html.escape(term)}</dt>" in page for term, _ in GLOSSARY)
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=", page)


def test_what_is_said_of_words_is_what_the_shipped_run_found() -> None:
    report = api.report(api.shipped_run())
    found = scene("words", ASKED)
    told = report.arms[report.verdict.treatment].value * report.n_items
    assert (told <= 4, 5 <= told <= 12, told >= 13)[found.answer]
    assert f"{told:.0f} of {report.n_items}" in found.because
    assert found.picture.data["origin"].tolist() == ["plain", "lexicon no rows", "lexicon permuted"]


def test_the_erasure_that_ships_is_that_of_the_skill_and_of_others(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("NUGGETS_ASSETS")
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "new"))
    for task in api.skills():
        job = EraseJob(model="teacher", data=DataConfig(task=task))
        report = api.find_erasure(job)
        assert report is not None, task
        assert report.skill == task
        # the paper's score at 1 % wrecks the skill, and other skills with it
        last = {p.skill: p for p in report.points("theta_grad") if p.fraction == 1e-2}
        assert last[task].right < 0.1
        assert last[task].damage.mean > 0.5


def test_the_tour_is_put_away_for_good_and_comes_back_from_learn(open_page: Open) -> None:
    at = open_page()
    at.button(key="tour-hide").click().run()
    assert api.tour.hidden()
    at = open_page()
    assert "tour-hide" not in [button.key for button in at.button]
    at = open_page("learn")
    at.button(key="tour-again").click().run()
    assert not api.tour.hidden()
    assert "tour-hide" in [button.key for button in open_page().button]

"""Every page by its own link, in every state: empty, measured, and full of hostile text."""

from __future__ import annotations

import re

import pytest

from nuggets import api
from tests.browser.conftest import PAGES, idle
from tests.browser.hostile import TEXT, fill_with, misread

pytestmark = pytest.mark.browser


@pytest.fixture
def measured(server):
    """Maps, alignments and a finished transfer, drawn by chance."""
    from tests.app.measured import write_alignment, write_benchmark, write_map

    for seed, task in enumerate(api.skills()):
        data = api.DataConfig(task=task)
        write_map(api.SensitivityJob(model="teacher", data=data, device="cpu"), seed)
    for student in ("independent", "sibling"):
        write_alignment(api.AlignJob(teacher="teacher", student=student, device="cpu"))
    return write_benchmark(api.load_recipe("quick"))


@pytest.mark.slow
def test_every_page_opens_by_its_own_link_on_a_fresh_server(open_context, shoot):
    page = open_context()[0]
    for name in (*PAGES, "benchmarks"):  # its address before it was called Results
        page.goto(f"/{name}?task=king")
        page.get_by_role("heading", level=1).first.wait_for()
        idle(page)
        assert page.get_by_role("combobox", name=re.compile("Task")).input_value() == "king"
        shoot(page, f"{name or 'home'}-empty-light")


@pytest.mark.parametrize(
    ("scheme", "paper"),
    [
        pytest.param("light", "rgb(255, 255, 255)", marks=pytest.mark.slow),
        ("dark", "rgb(14, 17, 23)"),
    ],
)
def test_every_page_shows_what_was_measured(scheme, paper, open_context, measured, shoot):
    page = open_context(scheme)[0]
    for name in PAGES:
        page.goto(f"/{name}?task=reverse&device=cpu&run={measured.id}")
        page.get_by_role("heading", level=1).first.wait_for()
        idle(page)
        assert page.evaluate(_PAPERS) in ([], [paper])
        shoot(page, f"{name or 'home'}-{scheme}")


_PAPERS = """() => [...new Set([...document.querySelectorAll('[data-testid=stPlotlyChart]')]
  .map(chart => chart.querySelector('.main-svg').style.background))]"""


@pytest.mark.slow
def test_hostile_text_is_shown_as_text_on_every_page(server, open_context, shoot):
    run = fill_with(TEXT)
    page = open_context()[0]
    for name in PAGES:
        page.goto(f"/{name}?device=cpu&run={run.id}&with={run.id}")
        page.get_by_role("heading", level=1).first.wait_for()
        idle(page)
        assert page.evaluate(_PAPERS) in ([], ["rgb(255, 255, 255)"])
        shoot(page, f"{name or 'home'}-hostile")
        assert page.evaluate(*misread()) == [], name
        for shown in folded(page):
            assert page.evaluate(*misread()) == [], (name, shown)


def folded(page):
    """Opens what is folded away, one part after another: expanders, tabs, popovers."""
    yield from expanded(page)
    for tab in page.get_by_role("tab").all():
        if tab.is_visible():
            tab.click()
            idle(page)
            yield tab.inner_text()
            yield from expanded(page)
    for button in page.locator("[data-testid=stPopover] button:visible").all():
        button.click()
        page.get_by_test_id("stPopoverBody").wait_for()
        idle(page)  # those that close by themselves tell the server that they opened
        yield button.inner_text()
        page.keyboard.press("Escape")
        page.get_by_test_id("stPopoverBody").wait_for(state="hidden")


def expanded(page):
    """Opens the expanders that are seen."""
    for part in page.locator("[data-testid=stExpander] details").all():
        if part.get_attribute("open") is None and part.is_visible():
            part.locator("summary").first.click()
            idle(page)
            yield part.inner_text()[:40]

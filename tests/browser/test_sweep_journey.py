"""From Home to a confirmed best rank × ratio by mouse alone (`pytest -m slow`, minutes)."""

from __future__ import annotations

import re
import resource
import time

import pytest

from nuggets import api
from tests.browser.conftest import WORK_MS, idle, until
from tests.browser.test_journeys import go

pytestmark = [pytest.mark.browser, pytest.mark.slow]

MOST_S = 3600
"""However slow the machine; the time that it took is printed."""


def drag_to(page, thumb, value: str) -> None:
    """Drags a slider's thumb to the left until it says so."""
    thumb.scroll_into_view_if_needed()
    box = thumb.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    while thumb.input_value() != value and x > 0:
        x -= 2
        page.mouse.move(x, y)
    page.mouse.up()
    idle(page)
    assert thumb.input_value() == value


def test_a_person_finds_and_confirms_the_best_rank_and_ratio(open_context, shoot):
    page, _ = open_context()
    began = time.monotonic()
    page.goto("/?device=cpu")
    page.get_by_text("First visit?").wait_for()
    go(page, "Transfer", "Sweeps")
    page.get_by_text("Base recipe: what all trials share").click()
    page.get_by_role("tab", name="Compare").click()
    drag_to(page, page.get_by_role("slider", name="Seeds"), "2")
    ready = page.get_by_role("button", name="Start the sweep")
    ready.wait_for(timeout=WORK_MS)
    shoot(page, "sweep-before")
    ready.click()
    until(lambda: bool(api.sweeping.sweeps()))
    (made,) = api.sweeping.sweeps()
    sweep = api.sweeping.recipe_of(made)
    assert (sweep.n_trials, len(sweep.base.seeds), sweep.confirm.seeds) == (9, 2, 4)
    assert {arm.name for arm in sweep.trial_recipe({}).arms} == {"plain", "paper"}
    until(lambda: made.status() not in api.LIVE, MOST_S)
    page.get_by_role("heading", name="Confirmed").wait_for(timeout=60_000)
    took = time.monotonic() - began
    idle(page)
    shoot(page, "sweep-confirmed")
    page.get_by_text(re.compile("^.?.?Confirmed on 4 fresh seeds and 80 test items")).wait_for()
    found = api.sweeping.state_of(made)
    assert len(found.done) == 9
    assert found.confirmed is not None
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"Home to confirmed: {took:.0f} s of time; {own.ru_utime + own.ru_stime:.0f} s of CPU")

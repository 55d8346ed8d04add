"""From Home to a confirmed best rank × ratio by mouse alone (`make browser`, minutes)."""

from __future__ import annotations

import re
import time

import pytest

from nuggets import api
from tests.browser.conftest import idle, until
from tests.browser.test_journeys import go

pytestmark = [pytest.mark.browser, pytest.mark.slow]  # `make browser` runs it, `make test` does not

MOST_S = 3600
"""However slow the machine; the time that it took is printed."""


def drag_to(page, name: str, value: str) -> None:
    """Drags a slider's thumb to the left until it says so."""
    thumb = page.get_by_role("slider", name=name)
    thumb.scroll_into_view_if_needed()
    box = thumb.bounding_box()
    x, y = box["x"], box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    while thumb.input_value() != value and x > 0:
        x -= 2
        page.mouse.move(x, y)
    page.mouse.up()
    idle(page)
    assert page.get_by_role("slider", name=name).input_value() == value


def test_a_person_finds_and_confirms_the_best_rank_and_ratio(open_context, shoot):
    page, _ = open_context()
    began = time.monotonic()
    page.goto("/?device=cpu")
    page.get_by_text("First visit?").wait_for()
    go(page, "Transfer", "Sweeps")
    page.get_by_text("Base recipe: what all trials share").click()
    page.get_by_role("tab", name="Compare").click()
    idle(page)
    drag_to(page, "Seeds", "2")
    page.get_by_text("one trial alone detects: ").wait_for()
    shoot(page, "sweep-before")
    page.get_by_role("button", name="Start the sweep").click()
    until(lambda: bool(api.sweeping.sweeps()))
    (made,) = api.sweeping.sweeps()
    sweep = api.sweeping.recipe_of(made)
    assert (sweep.n_trials, len(sweep.base.seeds), sweep.confirm.seeds) == (9, 2, 4)
    assert {arm.name for arm in sweep.trial_recipe({}).arms} == {"plain", "paper"}
    until(lambda: made.status() not in api.LIVE, MOST_S)
    page.get_by_role("heading", name="Confirmed").wait_for()
    took = time.monotonic() - began
    idle(page)
    shoot(page, "sweep-confirmed")
    page.get_by_text(re.compile("Confirmed on 4 fresh seeds and 80 test items")).wait_for()
    found = api.sweeping.state_of(made)
    assert len(found.done) == 9
    assert found.confirmed is not None
    print(f"Home to confirmed: {took:.0f} s")
